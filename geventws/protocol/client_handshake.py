"""The client's side of the opening handshake, RFC 6455 section 4.1, without any I/O."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..exceptions import HandshakeError
from ..typing import HeaderPairs, Headers
from .headers import check_header, has_token, is_token, is_value, pairs_of, parse_extensions
from .permessage_deflate import Agreement, Deflate, accept_answer, offer
from .server_handshake import VERSION, accept_key
from .urls import Target

#: Headers of the request that belong to the handshake.
_RESERVED = {
    "connection",
    "content-length",
    "origin",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
}
#: Arguments of ``connect()`` that set such headers.
_ARGUMENTS = {
    "origin": "origin",
    "sec-websocket-extensions": "compression",
    "sec-websocket-protocol": "subprotocols",
}
#: The value of a cookie. RFC 6265 section 4.1.1 is stricter, but servers set values with spaces,
#: commas and backslashes, and browsers return them unchanged (section 5.4).
_COOKIE_VALUE = re.compile(r"([!-:<-~]([ -:<-~]*[!-:<-~])?)?")
#: RFC 9112 section 4: the version, and the code with its reason, which has no control characters.
_STATUS_LINE = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2}(?: [\t -~\x80-\xff]*)?)")


class Response(NamedTuple):
    """The head of a response."""

    code: int
    #: Such as ``"404 Not Found"``.
    status: str
    headers: Headers

    def get(self, name: str) -> str:
        """The values of a header, joined by commas; an empty string if there is none."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())


def new_key() -> str:
    """A nonce of 16 random bytes in base64, as Sec-WebSocket-Key has it."""
    return base64.b64encode(os.urandom(16)).decode()


def pairs(headers: Mapping[str, str] | HeaderPairs) -> Headers:
    """Convert headers, a mapping or pairs, to pairs.

    :raises TypeError: if a name or a value is not a str.
    :raises ValueError: for a header that cannot be sent.
    """
    fields = pairs_of(headers)
    for name, value in fields:
        check_header(name, value)
    return fields


def cookie_header(cookies: Mapping[str, str], headers: Headers) -> tuple[str, str]:
    """Return the header Cookie (RFC 6265 section 4.2).

    :raises TypeError: if a name or a value is not a str.
    :raises ValueError: if one cannot be sent, or the headers have a Cookie already.
    """
    if not isinstance(cookies, Mapping):
        raise TypeError(f"cookies must be a mapping of names to values, not {cookies!r}")
    if any(name.lower() == "cookie" for name, _ in headers):
        raise ValueError("cookies cannot be combined with a Cookie in headers")
    for name, value in cookies.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"the cookie {name!r}: {value!r} is not of two str")
        if not is_token(name) or not _COOKIE_VALUE.fullmatch(value):
            raise ValueError(
                f"the cookie {name!r}: {value!r} cannot be sent: the name must be a token, and the"
                " value ASCII without control characters, semicolons and outer spaces"
            )
    return "Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())


def request_head(
    target: Target,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    compression: Deflate | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The request.

    The headers may have another Host, and another Authorization than the URL.

    :raises TypeError: if the name or the value of a header is not a str.
    :raises ValueError: for a subprotocol or a header that cannot be sent.
    """
    headers = list(headers)
    hosts = [value for name, value in headers if name.lower() == "host"]
    if len(hosts) > 1:
        # RFC 9112 section 3.2: a server must answer 400 to "more than one Host header field line".
        raise ValueError("the header Host is given more than once")
    fields = [
        ("Host", hosts[0] if hosts else target.authority),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    ]
    if origin is not None:
        fields.append(("Origin", origin))
    if subprotocols:
        if not all(map(is_token, subprotocols)) or len(set(subprotocols)) < len(subprotocols):
            raise ValueError(f"{list(subprotocols)!r} are not distinct tokens")
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if compression is not None:
        fields.append(("Sec-WebSocket-Extensions", offer(compression)))
    if target.userinfo and not any(name.lower() == "authorization" for name, _ in headers):
        fields.append(("Authorization", basic_authorization(target.userinfo)))
    for name, value in headers:
        if name.lower() in _RESERVED:
            argument = _ARGUMENTS.get(name.lower())
            hint = f": use the argument {argument}" if argument else ""
            raise ValueError(f"the header {name} belongs to the handshake{hint}")
        if name.lower() != "host":
            fields.append((name, value))
    return encode_head(f"GET {target.resource} HTTP/1.1", fields)


def basic_authorization(userinfo: str) -> str:
    """The value of the header Authorization for ``user:password``, RFC 7617."""
    return f"Basic {base64.b64encode(userinfo.encode(errors='surrogateescape')).decode()}"


def encode_head(first: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """A request line and its headers.

    :raises TypeError: if a name or a value is not a str.
    :raises ValueError: for a header that cannot be sent.
    """
    lines = [first]
    for name, value in fields:
        check_header(name, value)
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse_response(head: bytes) -> Response:
    """The head of a response, without the empty line that ends it.

    :raises HandshakeError: when it is not a response of HTTP/1.1.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise HandshakeError("", f"the response is not HTTP/1.1: {first[:80]!r}")
    status = match[1]
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not is_token(name) or not is_value(value):
            raise HandshakeError(status, f"a malformed header: {line[:80]!r}")
        headers.append((name, value))
    return Response(int(status[:3]), status, headers)


def check_response(
    response: Response, key: str, subprotocols: Sequence[str], compression: Deflate | None
) -> tuple[str | None, Agreement | None]:
    """Check that a ``101`` answers our request.

    Returns the subprotocol and the agreed parameters of permessage-deflate.

    :raises HandshakeError: when "the client MUST _Fail the WebSocket Connection_".
    """

    def fail(why: str) -> HandshakeError:
        return HandshakeError(response.status, why, response.headers)

    if response.get("Upgrade").lower() != "websocket":
        raise fail("the answer lacks Upgrade: websocket")
    if not has_token(response.get("Connection"), "upgrade"):
        raise fail("the answer lacks Connection: Upgrade")
    if response.get("Sec-WebSocket-Accept") != accept_key(key):
        raise fail("the answer has a wrong Sec-WebSocket-Accept")
    extensions = response.get("Sec-WebSocket-Extensions")
    agreement = None
    if extensions and compression is None:
        raise fail("the server agrees to an extension that was not offered")
    if compression is not None:
        try:
            agreement = accept_answer(parse_extensions(extensions), compression)
        except ValueError as problem:
            raise fail(str(problem)) from None
    subprotocol = response.get("Sec-WebSocket-Protocol")
    if subprotocol and subprotocol not in subprotocols:
        raise fail("the answer has a subprotocol that was not offered")
    return subprotocol or None, agreement
