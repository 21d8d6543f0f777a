"""``geventwebsocket.protocols``: what stands between a WebSocket and its application."""

from __future__ import annotations

from types import FunctionType
from typing import Any


class BaseProtocol:
    """Passes everything on to the application."""

    PROTOCOL_NAME = ""

    def __init__(self, app: Any) -> None:
        self._app = app

    def on_open(self) -> None:
        self.app.on_open()

    def on_message(self, message: Any) -> None:
        self.app.on_message(message)

    def on_close(self, reason: Any = None) -> None:
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
    """Version 1 of WAMP, which gevent-websocket had only on Python 2."""

    PROTOCOL_NAME = "wamp"

    def __init__(self, app: Any) -> None:
        raise NotImplementedError("WAMP 1 does not run on Python 3, nor did gevent-websocket's")


def export_rpc(arg: Any = None) -> Any:
    """Mark a function for WAMP."""
    if isinstance(arg, FunctionType):
        arg._rpc = arg.__name__  # type: ignore[attr-defined]
    return arg
