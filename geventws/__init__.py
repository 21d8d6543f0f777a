"""WebSockets for WSGI applications on gevent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .broadcast import Broadcast
from .client.client import ClientWebSocket, connect
from .client.reconnecting import reconnect
from .exceptions import (
    BroadcastError,
    ConnectionClosed,
    HandshakeError,
    InvalidPayload,
    MessageTooBig,
    ProtocolError,
    WebSocketError,
)
from .protocol.frames import CloseCode, Opcode
from .protocol.permessage_deflate import Deflate
from .protocol.reader import CORE
from .server.handler import WebSocketHandler
from .server.middleware import WebSocketMiddleware
from .server.registry import stats
from .server.server import WebSocketServer
from .server.stats import Stats
from .server.websocket import WebSocket

if TYPE_CHECKING:
    from .server.worker import Worker

__version__ = "0.1.0"
#: The active implementation of the core: "compiled" or "python".
__core__ = CORE

__all__ = [
    "Broadcast",
    "BroadcastError",
    "ClientWebSocket",
    "CloseCode",
    "ConnectionClosed",
    "Deflate",
    "HandshakeError",
    "InvalidPayload",
    "MessageTooBig",
    "Opcode",
    "ProtocolError",
    "Stats",
    "WebSocket",
    "WebSocketError",
    "WebSocketHandler",
    "WebSocketMiddleware",
    "WebSocketServer",
    "Worker",
    "__core__",
    "__version__",
    "connect",
    "reconnect",
    "stats",
]


def __getattr__(name: str) -> object:
    if name == "Worker":
        # Imported on first use, because gunicorn is optional.
        from .server.worker import Worker  # noqa: PLC0415

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
