"""WebSockets for WSGI applications on gevent."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import CORE
from .broadcast import Broadcast
from .client import ClientWebSocket, connect
from .drain import stats
from .exceptions import (
    BroadcastError,
    ConnectionClosed,
    HandshakeError,
    InvalidPayload,
    MessageTooBig,
    ProtocolError,
    WebSocketError,
)
from .frames import CloseCode, Opcode
from .handler import WebSocketHandler
from .middleware import WebSocketMiddleware
from .permessage_deflate import Deflate
from .server import WebSocketServer
from .totals import Stats
from .websocket import WebSocket

if TYPE_CHECKING:
    from .worker import Worker

__version__ = "0.1.0"
#: Which core runs: "compiled" or "python".
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
    "stats",
]


def __getattr__(name: str) -> Any:
    if name == "Worker":
        # On first use only: gunicorn is optional.
        from .worker import Worker  # noqa: PLC0415

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
