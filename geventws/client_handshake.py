"""The client's side of the opening handshake, RFC 6455 section 4.1, without any I/O."""
from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .exceptions import HandshakeError
from .frames import encode_text
from .handshake import VERSION, Headers, accept_key
from .headers import check_header, has_token, is_token, parse_extensions
from .permessage_deflate import Agreement, Deflate, accept_answer, offer

#: The headers of the request that are the handshake's own.
_RESERVED = {
    "connection", "content-length", "host", "origin", "sec-websocket-extensions",
    "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version", "transfer-encoding",
    "upgrade",
}
_PORTS = {"ws": 80, "wss": 443}
#: What a path and a query may have as it is, RFC 3986 section 3.3 and 3.4, and what is quoted.
_SAFE = "/?:@!$&'()*+,;=-._~%[]"
#: The code of a response and its reason, RFC 9112 section 4.
_STATUS = re.compile(r"[1-9][0-9]{2}( .*)?", re.DOTALL)
#: The name or the address of a host in ASCII, RFC 3986 section 3.2.2, also with a zone (RFC 6874).
_HOST = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%:]{1,255}")


class Target(NamedTuple):
    """Where a proxy is, or where a ``ws://`` or ``wss://`` URL points to, RFC 6455 section 3."""

    secure: bool
    host: str
    port: int
    #: The path and the query, in ASCII.
    resource: str
    #: ``user:password``, if the URL has one.
    userinfo: str

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == _PORTS["wss" if self.secure else "ws"]
        return host if is_default else f"{host}:{self.port}"


class Response(NamedTuple):
    """The head of a response."""

    code: int
    #: Such as ``"404 Not Found"``.
    status: str
    headers: Headers

    def get(self, name: str) -> str:
        """The values of a header, joined by commas; an empty string if there is none."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())


def parse_url(url: str) -> Target:
    """Take a WebSocket's URL apart.

    :raises ValueError: when it is none, or cannot be encoded, in one sentence.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} begins neither with ws:// nor with wss://")
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host")
    if "#" in url:
        # "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be
        # used on these URIs."
        raise ValueError(f"{url!r} has a fragment")
    encode_text(url, "the URL")
    host = _ascii_host(parts.hostname)
    resource = parts.path or "/"
    if parts.query:
        resource += f"?{parts.query}"
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Target(parts.scheme == "wss", host, port, quote(resource, _SAFE), _userinfo(parts))


def _ascii_host(host: str) -> str:
    """A host in ASCII, RFC 3490 section 4.

    :raises ValueError: if it cannot be the name of one.
    """
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError:
        encoded = ""  # a label of no or more than 63 characters, or one that is not allowed
    if not _HOST.fullmatch(encoded):
        raise ValueError(f"{host!r} cannot be the name of a host")
    return encoded


def _userinfo(parts: SplitResult) -> str:
    """``user:password``; bytes that are escaped and no UTF-8 stay what they are."""
    return unquote(parts.netloc.rpartition("@")[0], errors="surrogateescape")


def proxy_from_environment(target: Target) -> str | None:
    """The URL of the proxy that the environment has for a WebSocket, RFC 6455 section 4.1."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - 30 ms for few

    if proxy_bypass(f"{target.host}:{target.port}"):
        return None
    proxies = getproxies()
    wanted = ("wss", "https") if target.secure else ("ws", "https", "http")
    return next((proxies[scheme] for scheme in wanted if proxies.get(scheme)), None)


def parse_proxy(url: str) -> Target:
    """Take the URL of a proxy apart.

    :raises ValueError: when it is none that speaks HTTP.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of an HTTP proxy")
    encode_text(url, "the URL of the proxy")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    return Target(secure, _ascii_host(parts.hostname), port, "", _userinfo(parts))


def connect_head(target: Target, proxy: Target) -> bytes:
    """The request for a tunnel, RFC 9110 section 9.3.6."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = f"{host}:{target.port}"
    fields = [("Host", authority)]
    if proxy.userinfo:
        fields.append(("Proxy-Authorization", basic_authorization(proxy.userinfo)))
    return encode_head(f"CONNECT {authority} HTTP/1.1", fields)


def new_key() -> str:
    """A nonce of 16 random bytes in base64, as Sec-WebSocket-Key has it."""
    return base64.b64encode(os.urandom(16)).decode()


def pairs(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    """Headers that were given as a mapping or as pairs, as pairs.

    :raises ValueError: for a header that cannot be sent.
    """
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in fields:
        check_header(name, value)
    return fields


def request_head(
    target: Target, key: str, *, subprotocols: Sequence[str] = (), origin: str | None = None,
    deflate: Deflate | None = None, headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The request.

    :raises ValueError: for a subprotocol or a header that cannot be sent.
    """
    fields = [
        ("Host", target.authority),
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
    if deflate is not None:
        fields.append(("Sec-WebSocket-Extensions", offer(deflate)))
    if target.userinfo:
        fields.append(("Authorization", basic_authorization(target.userinfo)))
    for name, value in headers:
        if name.lower() in _RESERVED:
            raise ValueError(f"the header {name} belongs to the handshake")
        fields.append((name, value))
    return encode_head(f"GET {target.resource} HTTP/1.1", fields)


def basic_authorization(userinfo: str) -> str:
    """The value of the header Authorization for ``user:password``, RFC 7617."""
    return f"Basic {base64.b64encode(userinfo.encode(errors='surrogateescape')).decode()}"


def encode_head(first: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """A request line and its headers.

    :raises ValueError: for a header that cannot be sent.
    """
    lines = [first]
    for name, value in fields:
        check_header(name, value)
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse_response(head: bytes) -> Response:
    """The head of a response, without the empty line that ends it.

    :raises HandshakeError: when it is no HTTP.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not _STATUS.fullmatch(status):
        raise HandshakeError("", f"what came is no answer in HTTP/1.1: {first[:80]!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not is_token(name):
            raise HandshakeError(status, f"a malformed header: {line[:80]!r}")
        headers.append((name, value.strip(" \t")))
    return Response(int(status[:3]), status, headers)


def check_response(
    response: Response, key: str, subprotocols: Sequence[str], deflate: Deflate | None
) -> tuple[str | None, Agreement | None]:
    """See that a ``101`` is the answer to our request.

    Returns the subprotocol and what is agreed on about compression.

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
    if extensions and deflate is None:
        raise fail("the server agrees to an extension that was not offered")
    if deflate is not None:
        try:
            agreement = accept_answer(parse_extensions(extensions), deflate)
        except ValueError as problem:
            raise fail(str(problem)) from None
    subprotocol = response.get("Sec-WebSocket-Protocol")
    if subprotocol and subprotocol not in subprotocols:
        raise fail("the answer has a subprotocol that was not offered")
    return subprotocol or None, agreement
