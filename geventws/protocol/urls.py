"""WebSocket URLs, RFC 6455 section 3."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .frames import encode_text

_PORTS = {"ws": 80, "wss": 443}
#: Characters that a path and a query contain unquoted, RFC 3986 sections 3.3 and 3.4.
_SAFE = "/?:@!$&'()*+,;=-._~%[]"
#: A host name or address in ASCII (RFC 3986 section 3.2.2), also with a zone (RFC 6874).
_HOST = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%:]{1,255}")


class Target(NamedTuple):
    """The server of a ``ws://`` or ``wss://`` URL (RFC 6455 section 3), or a proxy."""

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


def parse_url(url: str) -> Target:
    """Parse the URL of a WebSocket.

    :raises ValueError: when it is not a WebSocket URL, or cannot be encoded.
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
    host = ascii_host(parts.hostname)
    resource = parts.path or "/"
    if parts.query:
        resource += f"?{parts.query}"
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Target(parts.scheme == "wss", host, port, quote(resource, _SAFE), userinfo_of(parts))


def ascii_host(host: str) -> str:
    """Encode a host name in ASCII, RFC 3490 section 4.

    :raises ValueError: if it is not a host name.
    """
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError:
        encoded = ""  # a label is empty, too long, or has forbidden characters
    if not _HOST.fullmatch(encoded):
        raise ValueError(f"{host!r} cannot be the name of a host")
    return encoded


def userinfo_of(parts: SplitResult) -> str:
    """``user:password``, unquoted. Bytes that are not UTF-8 become surrogates."""
    return unquote(parts.netloc.rpartition("@")[0], errors="surrogateescape")
