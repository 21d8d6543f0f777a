"""``geventwebsocket.exceptions``: the exceptions of :mod:`geventws` with their old names."""

from __future__ import annotations

from ..exceptions import ConnectionClosed, MessageTooBig, ProtocolError, WebSocketError

__all__ = ["FrameTooLargeException", "ProtocolError", "SocketDead", "WebSocketError"]

FrameTooLargeException = MessageTooBig


class SocketDead(ConnectionClosed):
    """The exception after the end of a connection, with the text of gevent-websocket."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(code)
        self.args = (text,)

    def __str__(self) -> str:
        return str(self.args[0])
