"""The origin policy: which pages may connect, RFC 6455 section 10.2 and RFC 6454.

Browsers send cookies with a WebSocket that any page opens. Without this check, every page on the
web could act in the name of a logged-in user (cross-site WebSocket hijacking).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from ..typing import Environ
from .headers import split_list

#: The longest Origin or Host in characters. A host name has at most 253.
MAX_HOST = 1024
#: The longest origin that is compared, from whichever header.
_MAX_ORIGIN = 2 * MAX_HOST
_IS_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9_.:%\[\]-]*").fullmatch
_LOCAL_HOSTS = ("localhost", "127.0.0.1")


def is_origin_allowed(
    environ: Environ, allowed_origins: Sequence[str], trusted_proxies: Sequence[str]
) -> bool:
    """Whether the page that sends the request may connect.

    Only browsers send Origin, and no page can forge it. A request without one is allowed.
    """
    origin = environ.get("HTTP_ORIGIN")
    if origin is None or "*" in allowed_origins:
        return True
    own = request_origin(environ, trusted_proxies)
    given = _normal_origin(origin)
    return any(
        (given == own and given != "") if allowed == "self" else _matches(given, allowed)
        for allowed in allowed_origins
    )


def can_match(allowed: str) -> bool:
    """Whether the Origin of a page can match this element of ``allowed_origins``.

    Browsers send a scheme, a host in ASCII and a port that is not the scheme's default.
    """
    example = _normal_origin(allowed.replace("*://", "https://").replace("*", "1"))
    scheme, _, rest = example.partition("://")
    has_host = bool(rest) or scheme == "file"
    return has_host and _IS_ORIGIN(example) is not None and _matches(example, allowed)


def similar_origin(text: str) -> str:
    """Return what may have been meant by an origin that no page has, or an empty string."""
    scheme, slashes, rest = text.strip().rpartition("://")
    host, colon, port = rest.partition("/")[0].partition(":")
    if not slashes:
        scheme = "http" if host in _LOCAL_HOSTS else "https"
    if port == {"http": "80", "https": "443"}.get(scheme):
        colon = port = ""
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return ""
    origin = f"{scheme}://{host}{colon}{port}".lower()
    return origin if can_match(origin) else ""


def request_origin(environ: Environ, trusted_proxies: Sequence[str]) -> str:
    """The origin of this server, as the client sees it."""
    scheme = environ.get("wsgi.url_scheme", "http")
    host = environ.get("HTTP_HOST", "")
    if is_trusted(environ.get("REMOTE_ADDR", ""), trusted_proxies):
        # The proxy next to this server has set the last value.
        for proto in split_list(environ.get("HTTP_X_FORWARDED_PROTO", ""))[-1:]:
            scheme = proto
        for forwarded in split_list(environ.get("HTTP_X_FORWARDED_HOST", ""))[-1:]:
            host = forwarded
    return _normal_origin(f"{scheme}://{host}")


def is_trusted(address: str, trusted_proxies: Sequence[str]) -> bool:
    """Whether a peer may set X-Forwarded-Proto and X-Forwarded-Host.

    The peer of a unix socket has no address. It is trusted, as by gunicorn: it is a local process
    with access to the socket's file.
    """
    if not address or "*" in trusted_proxies:
        return True
    return bool(trusted_proxies) and _is_in(address, tuple(trusted_proxies))


@lru_cache(maxsize=64)
def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A listener for IPv6 and IPv4 sees IPv4 peers as ::ffff:192.0.2.1.
    addresses = {ip, getattr(ip, "ipv4_mapped", None) or ip}
    return any(
        each in network for network in map(ipaddress.ip_network, networks) for each in addresses
    )


def _normal_origin(origin: str) -> str:
    """The origin in lower case and without the default port, RFC 6454 section 6.2.

    A page has no origin with the scheme ``ws`` or ``wss``, but some clients and proxies name the
    scheme of the WebSocket. Empty if the text is not an origin, or is too long.
    """
    return "" if len(origin) > _MAX_ORIGIN else _normalize(origin)


@lru_cache(maxsize=64)
def _normalize(origin: str) -> str:
    try:
        parts = urlsplit(origin.strip(" \t").lower())
        port = parts.port
    except ValueError:
        return ""
    if not parts.scheme or not parts.hostname:
        return origin.strip(" \t").lower()
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None or port == {"http": 80, "https": 443}.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def _matches(origin: str, allowed: str) -> bool:
    """Whether an origin matches a pattern, in which ``*`` stands for a part of host and port."""
    if "*" not in allowed:
        return origin == _normal_origin(allowed)
    # A regular expression with several stars would take exponential time.
    first, *between, last = allowed.strip().lower().split("*")
    if not origin.startswith(first):
        return False
    position = len(first)
    for piece in between:
        found = origin.find(piece, position)
        if found < 0 or not _may_be_star(origin[position:found]):
            return False
        position = found + len(piece)
    end = len(origin) - len(last)
    return end >= position and origin.endswith(last) and _may_be_star(origin[position:end])


def _may_be_star(text: str) -> bool:
    return "/" not in text and "@" not in text
