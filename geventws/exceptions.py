"""What can go wrong::

    OSError
    ├── BroadcastError          what carries a broadcast does not work; the sockets are fine
    └── WebSocketError          catch this one around receive() and send()
        ├── ConnectionClosed    the connection is over; has code, reason and by_peer
        ├── HandshakeError      no WebSocket came to be; has status, headers and body
        └── ProtocolError       the peer broke RFC 6455 (close code 1002)
            ├── InvalidPayload  text that is not UTF-8 (1007)
            └── MessageTooBig   a message over max_message_size (1009)

``ProtocolError`` and its kin do not reach a view: the connection is closed with their code, and
the view's ``receive()`` returns ``None``. A wait that ends too late raises the builtin
``TimeoutError``; a wrong argument raises ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

#: How much of a refusal's body goes into the text of its error, in bytes.
_MAX_TEXT = 200


class BroadcastError(OSError):
    """What carries a broadcast does not answer, or answers with an error."""


class WebSocketError(OSError):
    """The root of what this package raises on account of a connection."""


class ConnectionClosed(WebSocketError):
    """The connection is over: nothing can be sent, nothing more will be received.

    :ivar code: the close code; 1005 if the Close frame had none, 1006 if there was no Close frame.
    :ivar reason: the text that came with it.
    :ivar by_peer: whether the peer closed or vanished, rather than this side.
    """

    def __init__(self, code: int, reason: str = "", *, by_peer: bool = True) -> None:
        # Of several arguments OSError would take the first for an errno.
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), by_peer=self.by_peer), (self.code, self.reason)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}, {self.reason!r}, by_peer={self.by_peer})"

    def __str__(self) -> str:
        side = "by the peer" if self.by_peer else "by this side"
        reason = f": {self.reason}" if self.reason else ""
        return f"connection closed {side} with code {self.code}{reason}"


class HandshakeError(WebSocketError):
    """The opening handshake ends without a WebSocket.

    :ivar status: the HTTP status, such as ``"400 Bad Request"``; empty if there was no answer.
    :ivar status_code: the same as a number, such as 400; 0 if there was no answer.
    :ivar headers: the response's headers, pairs of strings.
    :ivar body: the response's body in bytes.
    """

    def __init__(
        self, status: str, body: str | bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(status)
        self.status = status
        self.status_code = int(status[:3]) if status[:3].isdecimal() else 0
        self.headers = list(headers)
        self.body = body.encode() if isinstance(body, str) else body

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.body, self.headers)

    def __str__(self) -> str:
        text = self.body[:_MAX_TEXT].decode(errors="replace").strip()
        if len(self.body) > _MAX_TEXT:
            text += "..."
        location = [value for name, value in self.headers if name.lower() == "location"]
        parts = [self.status, *location, text]
        return ": ".join(part for part in parts if part)


class ProtocolError(WebSocketError):
    """The peer broke RFC 6455. ``close_code`` is what the connection is closed with."""

    close_code = 1002


class InvalidPayload(ProtocolError):
    """The peer sent as text what is not UTF-8 (RFC 6455 section 8.1)."""

    close_code = 1007


class MessageTooBig(ProtocolError):
    """The peer sent more than ``max_message_size`` bytes in one message."""

    close_code = 1009
