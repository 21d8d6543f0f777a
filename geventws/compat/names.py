"""``geventwebsocket`` and ``geventwebsocket.utils``."""

from __future__ import annotations

from .exceptions import WebSocketError
from .resource import Resource, WebSocketApplication
from .server import WebSocketServer

__all__ = ["Resource", "WebSocketApplication", "WebSocketError", "WebSocketServer", "get_version"]

_Version = tuple[int, int, int, str, int]

VERSION: _Version = (0, 10, 1, "final", 0)
_SUFFIXES = {"alpha": "a", "beta": "b", "rc": "c"}


def get_version(version: _Version = VERSION) -> str:
    """Return a version as text; by default of the gevent-websocket that this package replaces."""
    numbers = version[:3] if version[2] else version[:2]
    text = ".".join(map(str, numbers))
    return text if version[3] == "final" else f"{text}{_SUFFIXES[version[3]]}{version[4]}"
