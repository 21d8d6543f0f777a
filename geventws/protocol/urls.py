"""WebSocket URLs, RFC 6455 section 3."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .frames import encode_text

_PORTS = {"ws": 80, "wss": 443}
#: Characters that a path and a query contain unquoted, RFC 3986 sections 3.3 and 3.4.
_SAFE = "/?:@!$&'()*+,;=-._~%[]"
#: A host name or an IPv4 address in ASCII (RFC 3986 section 3.2.2); the last label may be empty.
_LABEL = r"[A-Za-z0-9\-_~!$&'()*+,;=]{1,63}"
_HOST = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(\.{_LABEL})*\.?")
#: The zone of an IPv6 address (RFC 6874 section 2), such as the name of a network interface.
_ZONE = re.compile(r"[A-Za-z0-9\-._~]{1,64}")
#: An IPv6 address and a port. urlsplit() ignores everything between the bracket and the colon.
_BRACKETS = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
#: urlsplit() would remove these characters, or ignore them at the beginning.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]|\A ")


class Target(NamedTuple):
    """The server of a ``ws://`` or ``wss://`` URL (RFC 6455 section 3)."""

    secure: bool
    #: A name, or an address without brackets. An IPv6 address may have a zone: ``fe80::1%eth0``.
    host: str
    port: int
    #: The path and the query, in ASCII.
    resource: str
    #: ``user:password``, if the URL has one.
    userinfo: str

    @property
    def name(self) -> str:
        """The host without a zone.

        RFC 6874 section 4: "An HTTP client, proxy, or other intermediary MUST remove any ZoneID
        attached to an outgoing URI", because it has a meaning only on this machine.
        """
        return self.host.partition("%")[0]

    @property
    def host_and_port(self) -> str:
        """The host, with brackets around an IPv6 address, and the port."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        default = _PORTS["wss" if self.secure else "ws"]
        return self.host_and_port.removesuffix(f":{default}")


class Proxy(NamedTuple):
    """The URL of a proxy."""

    scheme: str
    host: str
    port: int
    #: ``user:password``, if the URL has one.
    userinfo: str

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")


def parse_url(url: str) -> Target:
    """Parse the URL of a WebSocket.

    :raises ValueError: when it is not a WebSocket URL, or cannot be encoded.
    """
    check_characters(url)
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} begins neither with ws:// nor with wss://")
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host")
    if "#" in url:
        # "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be
        # used on these URIs."
        raise ValueError(f"{url!r} has a fragment")
    host = host_of(parts)
    resource = parts.path or "/"
    if parts.query:
        resource += f"?{parts.query}"
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Target(parts.scheme == "wss", host, port, quote(resource, _SAFE), userinfo_of(parts))


def check_characters(url: str, name: str = "the URL") -> None:
    """Check that a URL has no characters that :func:`urllib.parse.urlsplit` would remove.

    :raises ValueError: for control characters, a space at the beginning, and lone surrogates.
    """
    encode_text(url, name)
    if _CONTROL.search(url):
        raise ValueError(f"{url!r} has control characters, or begins with a space")


def host_of(parts: SplitResult) -> str:
    """The host of a URL in ASCII, without brackets.

    :raises ValueError: if it cannot be the name or the address of a host.
    """
    host = parts.hostname or ""
    place = parts.netloc.rpartition("@")[2]
    if "[" in place or "]" in place:
        if not _BRACKETS.fullmatch(place):
            raise ValueError(f"{place!r} is not an IPv6 address in brackets and a port")
        return _ipv6_host(host)
    try:
        # RFC 3986 section 3.2.2: the percent-encoded bytes of a name are UTF-8.
        name = unquote(host, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{host!r} cannot be the name of a host") from None
    return ascii_host(name)


def _ipv6_host(host: str) -> str:
    """Check an IPv6 address, and decode its zone (RFC 6874).

    The zone begins with ``%25``. As in curl, a bare ``%`` is understood, too.
    """
    address, percent, zone = host.partition("%")
    zone = unquote(zone.removeprefix("25") or zone)
    try:
        IPv6Address(address)
    except ValueError:
        raise ValueError(f"[{host}] is not an IPv6 address") from None
    if percent and not _ZONE.fullmatch(zone):
        raise ValueError(f"[{host}] has a zone that is not the name of a network interface")
    return f"{address}{percent}{zone}"


def is_ip_address(host: str) -> bool:
    """Whether it is an IPv4 address, or an IPv6 address without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def ascii_host(host: str) -> str:
    """Encode a host name in ASCII.

    With the package idna, IDNA 2008 applies (RFC 5891); without it, IDNA 2003 (RFC 3490).

    :raises ValueError: if it is not a host name.
    """
    try:
        encoded = host.lower() if host.isascii() else _encode_idna(host)
    except UnicodeError:
        encoded = ""  # a label is empty, too long, or has forbidden characters
    if not _HOST.fullmatch(encoded):
        raise ValueError(f"{host!r} cannot be the name of a host")
    return encoded


def _encode_idna(host: str) -> str:
    """:raises UnicodeError: if a label is not allowed."""
    try:
        import idna  # noqa: PLC0415 - an extra, which takes 10 ms and few URLs need
    except ImportError:
        return host.encode("idna").decode()
    # The mapping of UTS 46, as in browsers: "BÜCHER.example" is "bücher.example".
    return idna.encode(host, uts46=True).decode()


def userinfo_of(parts: SplitResult) -> str:
    """``user:password``, unquoted; RFC 7617 has a colon also if there is no password.

    Bytes that are not UTF-8 become surrogates.

    :raises ValueError: if the user name has a colon.
    """
    userinfo = parts.netloc.rpartition("@")[0]
    if not userinfo:
        return ""
    user, _, password = (
        unquote(part, errors="surrogateescape") for part in userinfo.partition(":")
    )
    if ":" in user:
        # RFC 7617 section 2: "a user-id containing a colon character is invalid".
        raise ValueError("a user name with a colon cannot be sent: it would end at the colon")
    return f"{user}:{password}"
