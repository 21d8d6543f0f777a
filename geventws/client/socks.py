"""SOCKS proxies, through the package python-socks (extra ``socks``).

Only :mod:`.proxies` imports this module, if a proxy is a SOCKS proxy.
"""

from __future__ import annotations

from socket import AF_INET, AF_UNSPEC, SOCK_STREAM
from typing import TYPE_CHECKING, Any

from gevent.socket import getaddrinfo

from ..exceptions import HandshakeError
from ..protocol.urls import Proxy, Target

try:
    from python_socks import ProxyError, ProxyType
    from python_socks.sync import Proxy as SocksProxy
except ImportError as problem:
    raise ImportError(
        "SOCKS proxies need the package python-socks: pip install geventws[socks]"
    ) from problem

if TYPE_CHECKING:
    from gevent.socket import socket

_TYPES = {
    "socks4": ProxyType.SOCKS4,
    "socks4a": ProxyType.SOCKS4,
    "socks5": ProxyType.SOCKS5,
    "socks5h": ProxyType.SOCKS5,
}
#: The schemes for which the proxy looks up the name of the server.
_REMOTE_LOOKUP = {"socks4a", "socks5h"}


class _Dialled(SocksProxy):
    """The first part of a chain of proxies: a socket that is connected to the next proxy."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock

    # Any: SocksProxy.connect() returns a socket.socket, which a gevent socket is not.
    def connect(self, *_: object, **__: object) -> Any:
        return self._sock


def open_socks_tunnel(sock: socket, target: Target, proxy: Proxy) -> None:
    """Ask a SOCKS proxy to connect the socket to the server. Blocks only this greenlet.

    :raises HandshakeError: if the proxy refuses, or its answer is invalid.
    :raises OSError: if the connection to the proxy fails, or the name of the server is unknown.
    """
    host = target.name
    if proxy.scheme not in _REMOTE_LOOKUP:
        # The resolver of python-socks would block all greenlets.
        family = AF_INET if proxy.scheme == "socks4" else AF_UNSPEC
        address = getaddrinfo(host, target.port, family, SOCK_STREAM)[0][4]
        host = str(address[0]).partition("%")[0]
    user, _, password = proxy.userinfo.partition(":")
    tunnel = SocksProxy(
        _TYPES[proxy.scheme],
        proxy.host,
        proxy.port,
        user or None,
        password or None,
        rdns=True,
        forward=_Dialled(sock),
    )
    try:
        tunnel.connect(host, target.port)
    except (ProxyError, ValueError) as problem:  # ValueError: a malformed answer
        raise HandshakeError("", f"the SOCKS proxy does not connect: {problem}") from problem


def check_userinfo(scheme: str, userinfo: str) -> None:
    """Check the ``user:password`` of a proxy's URL.

    :raises ValueError: if the protocol cannot send it.
    """
    user, _, password = userinfo.partition(":")
    if not userinfo:
        return
    if not userinfo.isascii() or "\0" in userinfo or max(len(user), len(password)) > 255:
        raise ValueError(
            "the user and the password of a SOCKS proxy must be ASCII, of at most 255 characters"
        )
    if scheme.startswith("socks4") and password:
        raise ValueError("SOCKS 4 has no passwords: use socks5://, or only a user name")
    if scheme.startswith("socks5") and not (user and password):
        # RFC 1929 section 2: both have a length from 1 to 255.
        raise ValueError("SOCKS 5 needs a user name and a password, or neither")
