"""``geventwebsocket.protocols``: protocols between a WebSocket and its application."""

from __future__ import annotations

from types import FunctionType
from typing import Any

# Any: as in gevent-websocket, an application is any object with the methods of a
# WebSocketApplication, and a subclass may define its own type of messages.


class BaseProtocol:
    """A protocol that passes all events on to the application."""

    PROTOCOL_NAME = ""

    def __init__(self, app: Any) -> None:
        self._app = app

    def on_open(self) -> None:
        self.app.on_open()

    def on_message(self, message: Any) -> None:
        self.app.on_message(message)

    def on_close(self, reason: object = None) -> None:
        self.app.on_close(reason)

    @property
    def app(self) -> Any:
        if not self._app:
            raise RuntimeError("No application coupled")
        return self._app

    @property
    def server(self) -> Any:
        handler = self.handler
        return None if handler is None else handler.server

    @property
    def handler(self) -> Any:
        ws = getattr(self.app, "ws", None)
        return None if ws is None else ws.handler


class WampProtocol(BaseProtocol):
    """Version 1 of WAMP. gevent-websocket supported it only on Python 2."""

    PROTOCOL_NAME = "wamp"

    def __init__(self, app: object) -> None:
        raise NotImplementedError("WAMP 1 is not supported on Python 3, as in gevent-websocket")


def export_rpc(arg: Any = None) -> Any:
    """Mark a function as a remote procedure of WAMP."""
    if isinstance(arg, FunctionType):
        arg._rpc = arg.__name__  # type: ignore[attr-defined]
    return arg
