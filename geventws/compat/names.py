"""``geventwebsocket`` and ``geventwebsocket.utils``."""

from __future__ import annotations

from .exceptions import WebSocketError
from .resource import Resource, WebSocketApplication
from .server import WebSocketServer

__all__ = [
    "VERSION",
    "Resource",
    "WebSocketApplication",
    "WebSocketError",
    "WebSocketServer",
    "get_version",
]

VERSION = (0, 10, 1, "final", 0)


def get_version() -> str:
    """Return the version of gevent-websocket that this package replaces."""
    return ".".join(map(str, VERSION[:3]))
