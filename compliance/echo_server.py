"""A geventws server that sends every message back as it came.

It prints the port that it listens on and which core of geventws it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import geventws

MAX_MESSAGE_SIZE = 16 << 20  # groups 9.1 and 9.2 go up to 16 MiB


def echo(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def main() -> None:
    server = geventws.WebSocketServer(
        ("127.0.0.1", 0), echo, log=None, max_message_size=MAX_MESSAGE_SIZE
    )
    server.start()
    print(server.server_port, geventws.__core__, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
