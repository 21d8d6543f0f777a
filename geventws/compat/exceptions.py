"""The exceptions by their old names; they are those of :mod:`geventws`."""

from __future__ import annotations

from ..exceptions import ConnectionClosed, MessageTooBig, ProtocolError, WebSocketError

__all__ = ["FrameTooLargeException", "ProtocolError", "SocketDead", "WebSocketError"]

FrameTooLargeException = MessageTooBig


class SocketDead(ConnectionClosed):
    """The :exc:`WebSocketError` that users of gevent-websocket catch, with its text."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(code)
        self.args = (text,)

    def __str__(self) -> str:
        return str(self.args[0])
