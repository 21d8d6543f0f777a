"""A geventws client that plays every case of a fuzzing server, and sends all messages back.

Its arguments are the server's port and the number of cases; it prints which core of geventws it
runs.
"""

from __future__ import annotations

import sys

import geventws

MAX_MESSAGE_SIZE = 16 << 20  # groups 9.1 and 9.2 go up to 16 MiB


def main() -> None:
    url = f"ws://127.0.0.1:{sys.argv[1]}"
    agent = f"agent=geventws+{geventws.__core__}"
    print(geventws.__core__, flush=True)
    for case in range(1, int(sys.argv[2]) + 1):
        play(f"{url}/runCase?case={case}&{agent}")
    play(f"{url}/updateReports?{agent}")


def play(url: str) -> None:
    try:
        with geventws.connect(
            url, max_message_size=MAX_MESSAGE_SIZE, ping_interval=None, proxy=None
        ) as ws:
            for message in ws:
                ws.send(message)
    except geventws.ConnectionClosed:
        pass  # as many a case wants it


if __name__ == "__main__":
    main()
