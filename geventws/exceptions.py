"""The exceptions of geventws::

    OSError
    ├── BroadcastError          the broadcast backend does not work; connections are not affected
    └── WebSocketError          the base class to catch around receive() and send()
        ├── ConnectionClosed    the connection has ended; has code, reason and by_peer
        ├── HandshakeError      the opening handshake failed; has status, headers and body
        └── ProtocolError       the peer violated RFC 6455 (close code 1002)
            ├── InvalidPayload  a text message is not UTF-8 (1007)
            └── MessageTooBig   a message is larger than max_message_size (1009)

A view never gets ``ProtocolError`` or its subclasses: the connection is closed with their close
code, and ``receive()`` returns ``None``. A timeout raises the built-in ``TimeoutError``. An invalid
argument raises ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

#: The maximum number of bytes of a response body in the text of an error.
_MAX_TEXT = 200


class BroadcastError(OSError):
    """The broadcast backend does not answer, or answers with an error."""


class WebSocketError(OSError):
    """The base class of all errors of a connection."""


class ConnectionClosed(WebSocketError):
    """The connection has ended: nothing can be sent or received.

    :ivar code: the close code. 1005 if the Close frame had no code, 1006 without a Close frame.
    :ivar reason: the close reason, or an empty string.
    :ivar by_peer: whether the peer closed or lost the connection. ``False`` if this side did.
    """

    def __init__(self, code: int, reason: str = "", *, by_peer: bool = True) -> None:
        # OSError would use the first of several arguments as the errno.
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), by_peer=self.by_peer), (self.code, self.reason)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}, {self.reason!r}, by_peer={self.by_peer})"

    def __str__(self) -> str:
        side = "by the peer" if self.by_peer else "by this side"
        reason = f": {self.reason}" if self.reason else ""
        return f"connection closed {side} with code {self.code}{reason}"


class HandshakeError(WebSocketError):
    """The opening handshake failed.

    :ivar status: the HTTP status, such as ``"400 Bad Request"``. Empty without a response.
    :ivar status_code: the number of the status, such as 400. 0 without a response.
    :ivar headers: the headers of the response, pairs of strings.
    :ivar body: the body of the response in bytes.
    """

    def __init__(
        self, status: str, body: str | bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(status)
        self.status = status
        self.status_code = int(status[:3]) if status[:3].isdecimal() else 0
        self.headers = list(headers)
        self.body = body.encode() if isinstance(body, str) else body

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.status, self.body, self.headers)

    def __str__(self) -> str:
        text = self.body[:_MAX_TEXT].decode(errors="replace").strip()
        if len(self.body) > _MAX_TEXT:
            text += "..."
        location = [value for name, value in self.headers if name.lower() == "location"]
        parts = [self.status, *location, text]
        return ": ".join(part for part in parts if part)


class ProtocolError(WebSocketError):
    """The peer violated RFC 6455. The connection is closed with ``close_code``."""

    close_code = 1002


class InvalidPayload(ProtocolError):
    """The peer sent a text message that is not UTF-8 (RFC 6455 section 8.1)."""

    close_code = 1007


class MessageTooBig(ProtocolError):
    """The peer sent a message that is larger than ``max_message_size`` bytes."""

    close_code = 1009
