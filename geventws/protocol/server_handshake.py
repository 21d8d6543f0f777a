"""The server's side of the opening handshake, RFC 6455 section 4.2, without any I/O.

Input is a WSGI environ (PEP 3333). The result is the headers of the ``101``, or a
:exc:`~geventws.HandshakeError` with the response to send instead.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..exceptions import HandshakeError
from ..typing import Environ, HeaderPairs, Headers
from .headers import (
    MAX_CACHED_EXTENSIONS,
    MAX_EXTENSIONS,
    check_header,
    has_token,
    is_token,
    parse_extensions,
    split_list,
)
from .origin import MAX_HOST, is_origin_allowed, is_trusted
from .permessage_deflate import Agreement, Deflate, PerMessageDeflate, accept_offer
from .reader import CORE

VERSION = "13"
#: 16 bytes in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
#: Appended to the key before it is hashed, RFC 6455 section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT: Headers = [("Content-Type", "text/plain; charset=utf-8")]
#: In seconds: a restart takes less, and a client may wait so long.
_RETRY_AFTER = ("Retry-After", "5")
#: The longest value of each header that the handshake parses, in characters. A browser's
#: subprotocols may be an access token of some kilobytes.
_MAX_OPTIONS = 1024
_MAX_SIZES = {
    "Host": MAX_HOST,
    "Origin": MAX_HOST,
    "Upgrade": _MAX_OPTIONS,
    "Connection": _MAX_OPTIONS,
    "Sec-WebSocket-Extensions": MAX_EXTENSIONS,
    "Sec-WebSocket-Protocol": 16 << 10,
}
_LIMITS = [
    (f"HTTP_{name.upper().replace('-', '_')}", size, name) for name, size in _MAX_SIZES.items()
]
_MAX_SUBPROTOCOLS = 100
#: The variables of the environ that decide whether a request is accepted, except for the key.
_CHECKED = (
    "HTTP_HOST",
    "HTTP_ORIGIN",
    "HTTP_UPGRADE",
    "HTTP_CONNECTION",
    "HTTP_SEC_WEBSOCKET_VERSION",
    "HTTP_SEC_WEBSOCKET_EXTENSIONS",
    "HTTP_SEC_WEBSOCKET_PROTOCOL",
    "HTTP_TRANSFER_ENCODING",
    "CONTENT_LENGTH",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "wsgi.url_scheme",
)
#: Such values of requests that were accepted, their maximum number, and the maximum length of one.
_accepted: set[tuple[Any, ...]] = set()
_MAX_ACCEPTED = 64
_MAX_CACHED = 512
#: Headers of the 101 that belong to the handshake.
_RESERVED = {
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "sec-websocket-version",
}


def is_websocket_request(environ: Environ) -> bool:
    """Whether the client asks for the upgrade to a WebSocket, with a valid request or not."""
    return _names_websocket(environ) and not _reason_to_ignore(environ)


def ignored_upgrade(environ: Environ) -> str:
    """Why a request with ``Upgrade: websocket`` is plain HTTP; empty for all other requests."""
    return _reason_to_ignore(environ) if _names_websocket(environ) else ""


def _names_websocket(environ: Environ) -> bool:
    upgrade = environ.get("HTTP_UPGRADE")
    return upgrade is not None and _has_option(upgrade, "websocket")


def _reason_to_ignore(environ: Environ) -> str:
    """Why the header Upgrade of a request must or may be ignored, RFC 9110 section 7.8."""
    protocol = environ.get("SERVER_PROTOCOL", "HTTP/1.1")
    if protocol < "HTTP/1.1":
        # "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
        return (
            f"The request is {protocol}, and a WebSocket needs HTTP/1.1. If there is a proxy in"
            " front of the server, configure it: for nginx, proxy_http_version 1.1."
        )
    if environ["REQUEST_METHOD"] != "GET":
        # Section 4.1 of RFC 6455: "The method of the request MUST be GET".
        return f"The request is {environ['REQUEST_METHOD']}, and a WebSocket is opened with GET."
    if not _has_option(environ.get("HTTP_CONNECTION", ""), "upgrade"):
        # "the sender MUST also send a Connection header field", so that no proxy forwards Upgrade
        # by accident.
        return (
            "The header Connection: Upgrade is missing. If there is a proxy in front of the"
            " server, it must pass it on: for nginx, proxy_set_header Connection"
            " $connection_upgrade, with the map that nginx's documentation of WebSockets shows."
        )
    return ""


def _has_option(value: str, option: str) -> bool:
    """Whether the header Upgrade or Connection has an option."""
    if len(value) > _MAX_OPTIONS:
        return option in value.lower()  # the request will be refused
    return has_token(value, option)


def check_request(
    environ: Environ,
    allowed_origins: Sequence[str] = ("self",),
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Refuse a WebSocket request that RFC 6455 section 4.2.1 or the origin policy forbids.

    :raises HandshakeError: 400 for a malformed request, 426 for another version of the protocol,
        403 for an Origin that is not allowed. Lists are parsed only after the Origin is checked.
    """
    # Browsers send the same values again and again, except for the key.
    is_proxied = is_trusted(environ.get("REMOTE_ADDR", ""), trusted_proxies)
    values = select(environ, _CHECKED), is_proxied, tuple(allowed_origins)
    if values in _accepted:
        _check_key(environ)
        return
    _check_all(environ, allowed_origins, trusted_proxies)
    if sum(len(environ.get(name, "")) for name in _CHECKED) <= _MAX_CACHED:
        if len(_accepted) >= _MAX_ACCEPTED:
            _accepted.clear()
        _accepted.add(values)


def _check_all(
    environ: Environ, allowed_origins: Sequence[str], trusted_proxies: Sequence[str]
) -> None:
    _check_sizes(environ)
    _check_request_itself(environ)
    if not is_origin_allowed(environ, allowed_origins, trusted_proxies):
        raise HandshakeError(
            "403 Forbidden",
            f"WebSockets from {environ['HTTP_ORIGIN']!a} are not allowed here.\n",
            _TEXT,
        )
    if "HTTP_SEC_WEBSOCKET_PROTOCOL" in environ:
        subprotocols = requested_subprotocols(environ)
        if len(subprotocols) > _MAX_SUBPROTOCOLS or not all(map(is_token, subprotocols)):
            raise _bad_request(
                "The header Sec-WebSocket-Protocol is not a list of tokens, or of more than"
                f" {_MAX_SUBPROTOCOLS}."
            )
    if "HTTP_SEC_WEBSOCKET_EXTENSIONS" in environ:
        try:
            parse_extensions(environ["HTTP_SEC_WEBSOCKET_EXTENSIONS"])
        except ValueError:
            raise _bad_request("The header Sec-WebSocket-Extensions is malformed.") from None


def _check_sizes(environ: Environ) -> None:
    """Refuse headers that are longer than any client's, before time is spent on parsing them."""
    for variable, size, name in _LIMITS:
        if variable in environ and len(environ[variable]) > size:
            raise _bad_request(f"The header {name} is longer than {size:,} bytes.")


def _check_request_itself(environ: Environ) -> None:
    """Refuse a malformed opening handshake."""
    if not environ.get("HTTP_HOST"):
        raise _bad_request("The header Host is missing.")
    if environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ:
        # A proxy would take the following bytes for a body, this server for frames.
        raise _bad_request("A WebSocket request has no body.")
    version = environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip(" \t")
    if version != VERSION:
        raise HandshakeError(
            "426 Upgrade Required",
            f"This server speaks version {VERSION} of the WebSocket protocol.\n",
            [*_TEXT, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)],
        )
    _check_key(environ)


def _check_key(environ: Environ) -> None:
    if not is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip(" \t")):
        raise _bad_request("The header Sec-WebSocket-Key is not 16 bytes in base64.")


def requested_subprotocols(environ: Environ) -> list[str]:
    """The subprotocols that the client offers, in its order of preference."""
    return split_list(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))


def choose_subprotocol(offered: Sequence[str], spoken: Sequence[str]) -> str | None:
    """The first supported subprotocol that is offered, or ``None`` (RFC 6455 section 4.2.2)."""
    return next((subprotocol for subprotocol in spoken if subprotocol in offered), None)


def choose_extension(
    environ: Environ, compression: Deflate | None
) -> tuple[str, PerMessageDeflate | None]:
    """The answer to the extensions that the client offers, and the extension that is agreed on."""
    offers = environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS")
    if compression is None or offers is None or _keeps_its_context(environ, compression):
        return "", None
    answer = _answer_cached if len(offers) <= MAX_CACHED_EXTENSIONS else _answer
    text, agreement, shared = answer(offers, compression)
    return text, shared or PerMessageDeflate.of(agreement, compression, client=False)


def _answer(
    offers: str, compression: Deflate
) -> tuple[str, Agreement | None, PerMessageDeflate | None]:
    """The answer, the agreement, and the extension if connections share it."""
    accepted = accept_offer(parse_extensions(offers), compression)
    if accepted is None:
        return "", None, None
    text, agreement = accepted
    extension = PerMessageDeflate.of(agreement, compression, client=False)
    return text, agreement, extension if extension and extension.is_shared else None


_answer_cached = lru_cache(maxsize=64)(_answer)


def _keeps_its_context(environ: Environ, compression: Deflate) -> bool:
    """Whether the client would ignore ``client_no_context_takeover`` in the answer.

    Tornado's client drops parameters without a value. Chromium sends the same offer, so only
    User-Agent tells them apart.
    """
    is_tornado = environ.get("HTTP_USER_AGENT", "").startswith("Tornado/")
    return is_tornado and not compression.client_context_takeover


def response_headers(
    environ: Environ,
    subprotocol: str | None = None,
    extensions: str = "",
    extra: HeaderPairs = (),
) -> Headers:
    """The headers of the ``101``, RFC 6455 section 4.2.2.

    :raises TypeError: if the name or the value of an extra header is not a str.
    :raises ValueError: for an extra header that belongs to the handshake or cannot be sent.
    """
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(environ["HTTP_SEC_WEBSOCKET_KEY"].strip(" \t"))),
    ]
    if subprotocol is not None:
        if subprotocol not in requested_subprotocols(environ):
            # "the client MUST _Fail the WebSocket Connection_", section 4.1
            raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}")
        headers.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        headers.append(("Sec-WebSocket-Extensions", extensions))
    for name, value in extra:
        check_header(name, value)
        if name.lower() in _RESERVED:
            raise ValueError(f"the header {name} belongs to the handshake")
        headers.append((name, value))
    return headers


def is_key(value: str) -> bool:
    """Whether a value of Sec-WebSocket-Key is 16 bytes in base64."""
    return _KEY.fullmatch(value) is not None


def accept_key(key: str) -> str:
    """The value of Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def select(environ: Environ, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The values of an environ for some names, ``None`` for what it lacks."""
    return tuple(map(environ.get, names))


def response_head(status: str, headers: Headers) -> bytes:
    """The head of a response of HTTP/1.1, in bytes."""
    lines = map(": ".join, headers)
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "\r\n")).encode("latin-1")


if not TYPE_CHECKING and CORE == "compiled":
    from ._handshake import accept_key, is_key, response_head, select  # noqa: F401


def unavailable(why: str) -> HandshakeError:
    """The refusal of a request that may succeed a little later, or at another server."""
    return HandshakeError("503 Service Unavailable", why + "\n", [*_TEXT, _RETRY_AFTER])


def _bad_request(why: str) -> HandshakeError:
    return HandshakeError("400 Bad Request", why + "\n", _TEXT)
