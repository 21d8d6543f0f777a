"""The ways to a server: directly, through a proxy, a unix socket, or a socket of the caller."""

from __future__ import annotations

import os
import socket as standard
import ssl
from copy import copy

from gevent import get_hub
from gevent.monkey import get_original
from gevent.socket import socket
from gevent.ssl import SSLSocket

from ..connection.tls import cooperative_context, default_context, start_tls
from ..exceptions import HandshakeError
from ..protocol.client_handshake import Response
from ..protocol.redirects import Request
from ..protocol.urls import Proxy, Target, ascii_host, is_ip_address
from .dialling import dial, dial_unix
from .proxies import open_tunnel, parse_proxy, proxy_from_environment


class Route:
    """What :func:`geventws.connect` was told about the way to the server.

    :raises TypeError: for an argument of the wrong type.
    :raises ValueError: for arguments that exclude each other.
    """

    def __init__(
        self,
        proxy: str | bool | None,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
        sock: socket | None,
        unix_socket: str | os.PathLike[str] | None,
    ) -> None:
        given = [
            name
            for name, value in (
                ("sock", sock),
                ("unix_socket", unix_socket),
                ("proxy", proxy if isinstance(proxy, str) else None),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be combined")
        if sock is not None:
            _check_socket(sock)
        self.proxy = proxy
        self.sock = sock
        self.unix_socket = None if unix_socket is None else os.fsdecode(unix_socket)
        self.server_hostname = None if server_hostname is None else _host_name(server_hostname)
        self.ssl_context = (
            None if ssl_context is None else cooperative_context(ssl_context, server_side=False)
        )

    def proxy_for(self, target: Target) -> Proxy | None:
        """Return the proxy for a server, or ``None`` for a connection without a proxy.

        :raises ImportError: if it is a SOCKS proxy, and python-socks is not installed.
        :raises ValueError: if its URL is not valid.
        """
        if self.sock is not None or self.unix_socket is not None:
            return None
        url = proxy_from_environment(target) if self.proxy is True else self.proxy
        proxy = parse_proxy(url) if url else None
        if proxy is not None and proxy.scheme == "https" and target.secure:
            raise ValueError(
                "wss:// through an https:// proxy would need TLS within TLS, which gevent does not"
                " support: use a proxy with http:// or socks5h://"
            )
        return proxy

    def check(self, target: Target) -> None:
        """Check that the socket of the caller suits the URL.

        :raises ValueError: if it has TLS already, and the URL asks for TLS.
        """
        if target.secure and isinstance(self.sock, SSLSocket):
            raise ValueError("sock has TLS already: use a ws:// URL, or pass the socket without it")

    def after(self, request: Request, redirect: Response) -> tuple[Route, Proxy | None]:
        """Return the route and the proxy for the request that follows a redirect.

        :raises HandshakeError: if a unix socket or the proxy cannot be used for the new URL.
        """
        route = copy(self)
        if request.has_left_origin:
            route.server_hostname = None
        try:
            if request.has_left_origin and self.unix_socket is not None:
                raise ValueError("it leads to another origin than that of the unix socket")
            return route, route.proxy_for(request.target)
        except ValueError as problem:
            why = f"cannot follow the redirect: {problem}"
            raise HandshakeError(redirect.status, why, redirect.headers) from None

    def open(self, target: Target, proxy: Proxy | None) -> socket:
        """Return a socket that is connected to the server, with TLS if the URL asks for it. Blocks.

        :raises HandshakeError: if the proxy refuses.
        :raises OSError: if the connection or the TLS handshake fails.
        """
        sock = self._dial(proxy or target)
        try:
            if proxy is not None:
                if proxy.scheme == "https":
                    sock = start_tls(sock, default_context(), proxy.host.partition("%")[0])
                open_tunnel(sock, target, proxy)
            if target.secure:
                context = self.ssl_context or default_context()
                sock = start_tls(sock, context, self.server_hostname or target.name)
        except BaseException:
            sock.close()
            raise
        return sock

    def _dial(self, first: Target | Proxy) -> socket:
        if self.sock is not None:
            self.sock.settimeout(None)
            return self.sock
        if self.unix_socket is not None:
            return dial_unix(self.unix_socket)
        return dial(first.host, first.port)


def _host_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"server_hostname must be a str, not {name!r}")
    return name if is_ip_address(name) else ascii_host(name)


def _check_socket(sock: object) -> None:
    """:raises TypeError: if operations on the socket would block all greenlets.

    :raises ValueError: if it is not connected, or belongs to another thread.
    """
    if not isinstance(sock, socket):
        recipe = "open it with gevent.socket.create_connection()"
        if isinstance(sock, get_original("ssl", "SSLSocket")):
            recipe += ", and use a wss:// URL for TLS"
        elif isinstance(sock, get_original("socket", "socket")):
            recipe += ", or convert it: gevent.socket.socket(fileno=sock.detach())"
        raise TypeError(
            f"sock is a {type(sock).__module__}.{type(sock).__qualname__}. It must be a"
            f" gevent.socket.socket, because others block all greenlets: {recipe}"
        )
    if sock.hub is not get_hub():  # type: ignore[attr-defined] # missing in types-gevent
        raise ValueError("sock belongs to the gevent hub of another thread: open it in this one")
    if sock.type != standard.SOCK_STREAM:
        raise ValueError("sock is not a stream socket")
    try:
        sock.getpeername()
    except OSError as problem:
        raise ValueError(f"sock is not connected: {problem.strerror}") from problem
