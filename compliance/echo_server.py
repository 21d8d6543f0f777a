"""A geventws server that sends every message back as it came.

It prints the port that it listens on and which core of geventws it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import geventws
from geventws import _core

MAX_MESSAGE_SIZE = 16 << 20  # groups 9.1 and 9.2 go up to 16 MiB


def echo(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def core() -> str:
    file = sys.modules[_core.Connection.__module__].__file__ or ""
    return "python" if file.endswith(".py") else "extension"


def main() -> None:
    server = geventws.WebSocketServer(
        ("127.0.0.1", 0), echo, log=None, max_message_size=MAX_MESSAGE_SIZE
    )
    server.start()
    print(server.server_port, core(), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
