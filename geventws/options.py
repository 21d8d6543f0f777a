"""The options of a connection. Server, handler, middleware, worker and client share them."""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from collections.abc import Iterable, Sequence
from json import JSONDecoder, JSONEncoder
from math import isinf
from typing import Any, NoReturn, Protocol

from .protocol.headers import is_token
from .protocol.origin import can_match, similar_origin
from .protocol.permessage_deflate import Deflate

_DEFLATE = Deflate()

#: The maximum for times: a hundred years, in seconds. Much larger values would overflow timers.
MAX_SECONDS = 3_155_760_000

#: Values of allowed_origins that are not origins. Browsers send "null" for pages without an origin.
_NO_ORIGINS = {"self", "null", "*"}
_COUNTS = (
    "max_message_size",
    "max_queued_messages",
    "max_queued_bytes",
    "max_send_buffer",
    "max_header_size",
    "max_connections",
    "max_callbacks",
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


class JSONCodec(Protocol):
    """Encodes and decodes JSON, as the modules :mod:`json` and ``orjson`` do."""

    def dumps(self, value: Any, /) -> str | bytes:
        """Return JSON for a value; bytes in UTF-8."""

    def loads(self, text: str, /) -> Any:
        """Return the value of JSON.

        :raises ValueError: if the text is not JSON.
        """


class _StandardJSON:
    """The module :mod:`json`, without spaces, NaN and Infinity."""

    def __init__(self) -> None:
        self.dumps = JSONEncoder(separators=(",", ":"), allow_nan=False).encode
        self.loads = JSONDecoder(parse_constant=self._refuse, parse_float=self._finite).decode

    @staticmethod
    def _refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    @staticmethod
    def _finite(text: str) -> float:
        number = float(text)
        if isinf(number):
            raise ValueError(f"{text:.50} is too large")
        return number

    def __repr__(self) -> str:
        return "json"


_JSON = _StandardJSON()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a connection, with their defaults. Sizes are in bytes, times in seconds.

    :raises TypeError: for an option of the wrong type.
    :raises ValueError: for an option out of range.
    """

    #: The maximum size of a received message. A larger message closes the connection with 1009
    #: before it is buffered. ``None`` sets no limit.
    max_message_size: int | None = 1 << 20
    #: The number of received messages that may wait for ``receive()``. Above it, nothing more is
    #: read from the peer.
    max_queued_messages: int = 32
    #: Bytes of memory that received messages may take while they wait. Above it, nothing more is
    #: read from the peer.
    max_queued_bytes: int = 64 << 10
    #: Bytes that may wait for the peer to read them. Above it, ``send()`` blocks.
    max_send_buffer: int = 256 << 10
    #: Seconds without progress while ``send()`` blocks because the peer does not read. Then the
    #: connection is dropped. ``None`` waits without a limit.
    send_timeout: float | None = 30.0
    #: Seconds without data from the peer before a Ping is sent. ``None`` sends none. Proxies drop
    #: idle connections: Heroku after 55 seconds, nginx after 60.
    ping_interval: float | None = 20.0
    #: Seconds after a Ping in which the peer must send something, or read data that was sent before
    #: the Ping. Otherwise the connection is dropped.
    ping_timeout: float = 20.0
    #: Seconds without progress while ``close()`` waits for the peer. Then the TCP connection is
    #: dropped.
    close_timeout: float = 10.0
    #: Seconds that a frame or a message may take from its first byte to its last. Then the
    #: connection is closed with 1008. ``None`` waits without a limit.
    message_timeout: float | None = 60.0
    #: Seconds that a new connection may take for the TLS handshake, and then for the head of its
    #: request. ``None`` waits without a limit. With gunicorn, ``--keep-alive`` limits the head.
    handshake_timeout: float | None = 10.0
    #: Seconds that an idle connection stays open for the next plain HTTP request. ``None`` sets no
    #: limit. It should be longer than the keep-alive time of the proxies in front of the server.
    keep_alive_timeout: float | None = 100.0
    #: Seconds without data from the client while the body of a plain HTTP request is read. Then the
    #: response is 408, or the connection is dropped. The total time has no limit. ``None`` waits
    #: without a limit. gunicorn has no such option. If the client does not read a plain HTTP
    #: response, the connection is dropped after ``send_timeout``.
    body_timeout: float | None = 10.0
    #: Seconds in which a view must accept or refuse its WebSocket. Then the ``101`` is sent
    #: automatically, and a later refusal closes the WebSocket with 1008. ``None`` waits without a
    #: limit.
    accept_after: float | None = 3.0
    #: Seconds that the server waits for views when it stops. Then it kills them. ``None`` waits
    #: without a limit. With gunicorn, ``--graceful-timeout`` is used.
    stop_timeout: float | None = 10.0
    #: The maximum size of all request headers together. gunicorn has its own limits.
    max_header_size: int = 64 << 10
    #: The maximum number of open WebSockets. Further requests get a 503 with Retry-After. ``None``
    #: sets no limit.
    max_connections: int | None = 20_000
    #: The number of callbacks of detached WebSockets that may run at the same time, each in a
    #: greenlet. Above it, messages wait, within the other limits.
    max_callbacks: int = 1_000
    #: The origins of pages that browsers may connect from. A list such as
    #: ``["https://example.com", "https://*.example.com"]``; by default the server's own origin.
    #: ``"*"`` allows every origin. This is dangerous: every web page can then use the cookies of a
    #: logged-in user (cross-site WebSocket hijacking).
    allowed_origins: Sequence[str] = ("self",)
    #: Addresses and networks of proxies whose X-Forwarded-Proto and X-Forwarded-Host are used.
    #: ``"*"`` trusts every peer. This is safe only if clients can connect only through the proxy.
    trusted_proxies: Sequence[str] = ()
    #: The subprotocols that the application supports, the preferred one first.
    subprotocols: Sequence[str] = ()
    #: Whether to compress messages (permessage-deflate, RFC 7692) if the peer supports it. A
    #: :class:`~geventws.Deflate` sets the parameters.
    compression: bool | Deflate = True
    #: What ``send_json()`` and ``receive_json()`` use: a module or an object with the functions
    #: ``dumps`` and ``loads``, such as ``orjson`` or Flask's ``app.json``. By default :mod:`json`,
    #: without spaces and without the values NaN and Infinity, which are not JSON.
    json: JSONCodec = _JSON

    def __post_init__(self) -> None:
        for name in _COUNTS:
            self._check_count(name)
        for name in _TIMES:
            self._check_time(name)
        for name in ("allowed_origins", "trusted_proxies", "subprotocols"):
            self._check_list(name)
        self._check_origins()
        self._check_proxies()
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise ValueError(f"{subprotocol!r} cannot be the name of a subprotocol")
        if not isinstance(self.compression, (bool, Deflate)):
            raise TypeError(
                f"compression must be True, False or a Deflate, not {self.compression!r}"
            )
        if not (hasattr(self.json, "dumps") and hasattr(self.json, "loads")):
            raise TypeError(f"json must have dumps() and loads(), but is {self.json!r}")

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if name in _MAY_BE_NONE and value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if value > sys.maxsize:
            raise ValueError(f"{name} must be at most {sys.maxsize}, not {value!r}")

    def _check_time(self, name: str) -> None:
        value = getattr(self, name)
        if name in _MAY_BE_NONE and value is None:
            return
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not value > 0:
            raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
        if value > MAX_SECONDS:
            raise ValueError(f"{name} must be at most {MAX_SECONDS} seconds, not {value!r}")

    def _check_list(self, name: str) -> None:
        value = getattr(self, name)
        allows_all = name != "subprotocols"
        if value == "*" and allows_all:
            value = [value]
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            wanted = 'a list of strings, or "*"' if allows_all else "a list of strings"
            raise TypeError(f"{name} must be {wanted}, not {value!r}")
        object.__setattr__(self, name, tuple(value))

    def _check_origins(self) -> None:
        for origin in self.allowed_origins:
            if origin in _NO_ORIGINS:
                continue
            if not isinstance(origin, str):
                raise ValueError(f"allowed_origins must be strings, not {origin!r}")
            if not can_match(origin):
                example = similar_origin(origin) or "https://example.com"
                raise ValueError(
                    f"allowed_origins: {origin!r} is not an origin that a page can have, such as"
                    f" {example!r}; 'self' is the server's own origin"
                )

    def _check_proxies(self) -> None:
        for proxy in self.trusted_proxies:
            try:
                if proxy != "*":
                    ipaddress.ip_network(proxy)
            except ValueError as problem:
                raise ValueError(f"trusted_proxies: {problem}") from None

    @property
    def compression_parameters(self) -> Deflate | None:
        """The parameters of permessage-deflate; ``None`` without compression."""
        return _DEFLATE if self.compression is True else self.compression or None

    @property
    def check_interval(self) -> float:
        """The maximum number of seconds between two checks of a connection."""
        return min(self.ping_interval or 60.0, self.message_timeout or 60.0, 60.0)


def how_to_allow(origins: list[str]) -> str:
    """Say how the pages of these origins are let in."""
    return (
        f"set the option allowed_origins={JSONEncoder().encode(origins)} (with the command geventws"
        f" --allowed-origins {','.join(origins)}; in Flask the configuration"
        " GEVENTWS_ALLOWED_ORIGINS, in Django the setting CSRF_TRUSTED_ORIGINS)"
    )
