"""A publisher in a process without a server: ``python -m tests.faults.publisher``.

It publishes to the channels until it receives SIGTERM. For each call it writes a line of JSON to
its standard output: the channel, the number, the text, and the id or null. It never repeats a text.
"""

import argparse
import json
import random
import signal
import time

from geventws import Broadcast, BroadcastError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.publisher")
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("channels", nargs="+")
    parser.add_argument("--history", type=int, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--pause", type=float, required=True, help="the mean, in seconds")
    options = parser.parse_args()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    chance = random.Random(options.seed)
    broadcast = Broadcast(options.url, history=options.history)
    number = 0
    while not stopped:
        number += 1
        channel = chance.choice(options.channels)
        text = f"{options.name}:{number}"
        try:
            id_ = broadcast.publish(channel, text)
        except BroadcastError:
            id_ = None
        print(json.dumps([channel, number, text, id_]), flush=True)
        time.sleep(options.pause * chance.uniform(0, 2))
    broadcast.close()


if __name__ == "__main__":
    main()
