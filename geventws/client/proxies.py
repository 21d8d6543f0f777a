"""HTTP and SOCKS proxies between the client and the server (RFC 6455 section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..exceptions import HandshakeError
from ..protocol.client_handshake import basic_authorization, encode_head
from ..protocol.urls import Proxy, Target, check_characters, host_of, userinfo_of
from .response import read_body, read_response

if TYPE_CHECKING:
    from gevent.socket import socket

#: The schemes of proxies and their default ports.
_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}


def proxy_from_environment(target: Target) -> str | None:
    """Return the URL of the proxy that the environment sets; ``None`` without one."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - the import takes 30 ms

    if proxy_bypass(f"{target.host}:{target.port}"):
        return None
    proxies = getproxies()
    # The order of RFC 6455 section 4.1: a proxy for HTTPS is preferred.
    schemes = ("wss", "https") if target.secure else ("ws", "https", "http")
    return next((proxies[scheme] for scheme in (*schemes, "all") if proxies.get(scheme)), None)


def parse_proxy(url: str) -> Proxy:
    """Parse the URL of a proxy.

    :raises ImportError: if it is a SOCKS proxy, and python-socks is not installed.
    :raises ValueError: if it is not the URL of a proxy.
    """
    check_characters(url, "the URL of the proxy")
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a proxy with one of: {', '.join(_PORTS)}")
    proxy = Proxy(
        parts.scheme, host_of(parts), parts.port or _PORTS[parts.scheme], userinfo_of(parts)
    )
    if proxy.is_socks:
        from .socks import check_userinfo  # noqa: PLC0415 - needs an extra

        check_userinfo(proxy.scheme, proxy.userinfo)
    return proxy


def connect_head(target: Target, proxy: Proxy) -> bytes:
    """Return the head of a CONNECT request (RFC 9110 section 9.3.6)."""
    authority = target.host_and_port
    fields = [("Host", authority)]
    if proxy.userinfo:
        fields.append(("Proxy-Authorization", basic_authorization(proxy.userinfo)))
    return encode_head(f"CONNECT {authority} HTTP/1.1", fields)


def open_tunnel(sock: socket, target: Target, proxy: Proxy) -> None:
    """Ask a proxy to connect the socket to the server. Blocks.

    :raises HandshakeError: if the proxy refuses.
    """
    if proxy.is_socks:
        from .socks import open_socks_tunnel  # noqa: PLC0415 - needs an extra

        open_socks_tunnel(sock, target, proxy)
    else:
        _open_http_tunnel(sock, target, proxy)


def _open_http_tunnel(sock: socket, target: Target, proxy: Proxy) -> None:
    """Send CONNECT (RFC 9110 section 9.3.6), and read the response."""
    sock.sendall(connect_head(target, proxy))
    response, early = read_response(sock)
    if not 200 <= response.code < 300:
        body = read_body(sock, response, early)
        raise HandshakeError(response.status, body, response.headers)
    if early:
        raise HandshakeError(response.status, "the proxy sent data after its response")
