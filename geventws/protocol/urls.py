"""WebSocket URLs, RFC 6455 section 3."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .frames import encode_text

_PORTS = {"ws": 80, "wss": 443}
#: What a path and a query may have as it is, RFC 3986 section 3.3 and 3.4, and what is quoted.
_SAFE = "/?:@!$&'()*+,;=-._~%[]"
#: The name or the address of a host in ASCII, RFC 3986 section 3.2.2, also with a zone (RFC 6874).
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
    host = ascii_host(parts.hostname)
    resource = parts.path or "/"
    if parts.query:
        resource += f"?{parts.query}"
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Target(parts.scheme == "wss", host, port, quote(resource, _SAFE), userinfo_of(parts))


def ascii_host(host: str) -> str:
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


def userinfo_of(parts: SplitResult) -> str:
    """``user:password``; bytes that are escaped and no UTF-8 stay what they are."""
    return unquote(parts.netloc.rpartition("@")[0], errors="surrogateescape")
