"""The options of a connection: server, handler, middleware, worker and client take the same."""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from collections.abc import Iterable, Sequence

from .protocol.headers import is_token
from .protocol.permessage_deflate import Deflate

_DEFLATE = Deflate()

#: A hundred years, in seconds: timers would overflow with much more.
_LONGEST = 3_155_760_000

#: What allowed_origins may have beside origins; browsers send null for pages without an origin.
_WORDS = {"self", "null"}
_COUNTS = (
    "max_message_size",
    "max_queued_messages",
    "max_queued_bytes",
    "max_send_buffer",
    "max_header_size",
    "max_connections",
)
_TIMES = (
    "send_timeout",
    "ping_interval",
    "ping_timeout",
    "close_timeout",
    "message_timeout",
    "handshake_timeout",
    "keep_alive_timeout",
    "body_timeout",
    "accept_after",
    "stop_timeout",
)
_MAY_BE_NONE = {
    "accept_after",
    "max_message_size",
    "send_timeout",
    "ping_interval",
    "message_timeout",
    "handshake_timeout",
    "keep_alive_timeout",
    "body_timeout",
    "max_connections",
    "stop_timeout",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a connection, with their defaults. Sizes are in bytes, times in seconds."""

    #: The longest message that is received; a longer one closes with 1009 before it is buffered.
    #: None sets no limit.
    max_message_size: int | None = 1 << 20
    #: How many received messages wait for ``receive()`` before reading from the peer stops.
    max_queued_messages: int = 32
    #: How many bytes of memory the received messages that wait may take before reading from the
    #: peer stops.
    max_queued_bytes: int = 64 << 10
    #: How much may wait for the peer to read it before ``send()`` blocks.
    max_send_buffer: int = 256 << 10
    #: For how long the peer may read nothing while ``send()`` blocks; then the connection is
    #: dropped. None waits for ever.
    send_timeout: float | None = 30.0
    #: After how much silence from the peer it is sent a Ping; None sends none. Proxies drop
    #: connections that are silent for longer: Heroku after 55 seconds, nginx after 60.
    ping_interval: float | None = 20.0
    #: For how long a peer may then send nothing, and read nothing of what was sent before the Ping,
    #: before the connection is dropped.
    ping_timeout: float = 20.0
    #: For how long the peer may read nothing and answer nothing while ``close()`` blocks; then TCP
    #: is dropped.
    close_timeout: float = 10.0
    #: How long a message, or any frame, may take from its first byte to its last; a peer that
    #: needs longer is closed with 1008. None waits for ever.
    message_timeout: float | None = 60.0
    #: How long a new connection may take to send the head of its request, and before it to shake
    #: hands for TLS; None waits for ever. For gunicorn's own parser it is ``--keep-alive``.
    handshake_timeout: float | None = 10.0
    #: How long a connection on which a plain HTTP request was answered is kept for the next one;
    #: None keeps it for ever. Longer than the proxies that keep connections to us open for reuse.
    keep_alive_timeout: float | None = 100.0
    #: How long the client of a plain HTTP request may send nothing while its body is read; then it
    #: gets a 408, or is dropped. A client that goes on sending has as long as it needs. None waits
    #: for ever. gunicorn has no such limit. A client that does not read a plain response is dropped
    #: after ``send_timeout``.
    body_timeout: float | None = 10.0
    #: How long a view may take to accept or refuse its WebSocket; then the ``101`` goes out by
    #: itself, and what the view refuses later is closed with 1008. None waits for ever.
    accept_after: float | None = 3.0
    #: How many seconds the server waits for the views when it stops; then it kills them. None
    #: waits without a limit. For gunicorn it is ``--graceful-timeout``.
    stop_timeout: float | None = 10.0
    #: How much the headers of a request may be, together; gunicorn has limits of its own.
    max_header_size: int = 64 << 10
    #: How many WebSockets are open at once; who asks for another gets a 503 with Retry-After.
    #: None sets no limit.
    max_connections: int | None = 20_000
    #: Pages that browsers may connect from: a list such as
    #: ``["https://example.com", "https://*.example.com"]``; by default the server's own origin.
    #: ``"*"`` allows every page. Then any web page can act in the name of a user who is logged in
    #: with a cookie (cross-site WebSocket hijacking).
    allowed_origins: Sequence[str] = ("self",)
    #: Addresses and networks of proxies whose X-Forwarded-Proto and X-Forwarded-Host are used.
    #: ``"*"`` trusts every peer, which is safe only if nobody but the proxy can connect.
    trusted_proxies: Sequence[str] = ()
    #: The subprotocols that are spoken, the preferred one first.
    subprotocols: Sequence[str] = ()
    #: Whether messages are compressed (permessage-deflate, RFC 7692) if the client offers it, and
    #: how, if a :class:`~geventws.Deflate` says so.
    compression: bool | Deflate = True

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if name in _MAY_BE_NONE and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
            if value > sys.maxsize:
                raise ValueError(f"{name} must be at most {sys.maxsize}, not {value!r}")
        for name in _TIMES:
            value = getattr(self, name)
            if name in _MAY_BE_NONE and value is None:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not value > 0:
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
            if value > _LONGEST:
                raise ValueError(f"{name} must be at most {_LONGEST} seconds, not {value!r}")
        for name in ("allowed_origins", "trusted_proxies", "subprotocols"):
            value = getattr(self, name)
            if value == "*" and name != "subprotocols":
                object.__setattr__(self, name, ("*",))
            elif isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise TypeError(f"{name} must be a list of strings, not {value!r}")
        for origin in self.allowed_origins:
            is_str = isinstance(origin, str)
            if not is_str or (origin not in _WORDS and "://" not in origin and "*" not in origin):
                raise ValueError(
                    f"allowed_origins: {origin!r} is not an origin such as 'https://example.com',"
                    " and not 'self'"
                )
        for proxy in self.trusted_proxies:
            try:
                if proxy != "*":
                    ipaddress.ip_network(proxy)
            except ValueError as problem:
                raise ValueError(f"trusted_proxies: {problem}") from None
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise ValueError(f"{subprotocol!r} cannot be the name of a subprotocol")

        if not isinstance(self.compression, (bool, Deflate)):
            raise TypeError(
                f"compression must be True, False or a Deflate, not {self.compression!r}"
            )

    @property
    def compression_parameters(self) -> Deflate | None:
        """Parameters of permessage-deflate; None without compression."""
        return _DEFLATE if self.compression is True else self.compression or None

    @property
    def check_interval(self) -> float:
        """How often a connection is looked after, at least."""
        return min(self.ping_interval or 60.0, self.message_timeout or 60.0, 60.0)
