"""The client: :func:`connect` and the WebSocket that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..connection.connection import Connection
from ..exceptions import ConnectionClosed, HandshakeError
from ..options import Options
from ..protocol import client_handshake
from ..protocol.frames import CloseCode
from ..protocol.permessage_deflate import PerMessageDeflate
from ..protocol.redirects import Redirects, Request
from ..protocol.urls import Target, parse_url
from ..typing import HeaderPairs, Headers, Keywords
from .dialling import time_limit
from .response import read_body, read_response
from .route import Route

if TYPE_CHECKING:
    import os
    import ssl

    from gevent.socket import socket

#: Options that only servers have.
_SERVER_OPTIONS = {
    "accept_after",
    "allowed_origins",
    "body_timeout",
    "handshake_timeout",
    "keep_alive_timeout",
    "max_connections",
    "max_header_size",
    "stop_timeout",
    "trusted_proxies",
}

#: The close codes after which the server has nothing more to send.
NORMAL_ENDS = {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}


class Opening(NamedTuple):
    """The request of an opening handshake, and its Sec-WebSocket-Key."""

    key: str
    head: bytes


class ClientWebSocket(Connection):
    """The client's side of a connection, returned by :func:`geventws.connect`.

    It is open from the beginning, and then works as :class:`geventws.WebSocket` does. The end of a
    ``with`` block closes it. The socket stays open until one of the two sides closes the WebSocket.

    An iteration ends if the close code is 1000, 1001 or 1005 (no code). After any other end, such
    as a lost connection (1006), it raises :exc:`ConnectionClosed`: messages may be missing.
    """

    __slots__ = (
        "_is_reconnecting",
        "_requested",
        "_response_headers",
        "_target",
    )

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options, client=True)
        self._owns_socket = True
        self._target = target
        self._requested = list(options.subprotocols)
        self._response_headers: Headers = []
        #: Whether the ``with`` block suppresses the ConnectionClosed of this connection.
        self._is_reconnecting = False

    def __repr__(self) -> str:
        state = self._endpoint.state.name.lower()
        return f"<{type(self).__name__} {self.path} {state}>"

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc_info: object) -> bool | None:
        is_end = self._is_ending and isinstance(exc_info[1], ConnectionClosed)
        self.close()
        return is_end and self._is_reconnecting

    # -------------------------------------------------------------- handshake

    def _request(self, headers: Headers, origin: str | None) -> Opening:
        """Build the request.

        :raises ValueError: for an invalid header.
        """
        key = client_handshake.new_key()
        return Opening(
            key,
            client_handshake.request_head(
                self._target,
                key,
                subprotocols=self._requested,
                origin=origin,
                compression=self._options.compression_parameters,
                headers=headers,
            ),
        )

    def _perform_handshake(
        self, sock: socket, opening: Opening, redirects: Redirects
    ) -> client_handshake.Response | None:
        """Perform the opening handshake on a socket. The socket belongs to this object afterwards.

        Return ``None``, or a redirect that can be followed; then the socket is closed.

        :raises HandshakeError: if the server refuses. The socket is closed.
        """
        parameters = self._options.compression_parameters
        try:
            sock.sendall(opening.head)
            response, early = read_response(sock)
            if redirects.is_redirect(response):
                sock.close()
                return response
            if response.code != 101:
                raise HandshakeError(
                    response.status, read_body(sock, response, early), response.headers
                )
            self._subprotocol, agreement = client_handshake.check_response(
                response, opening.key, self._requested, parameters
            )
        except BaseException:
            sock.close()
            raise
        self._response_headers = response.headers
        self._extensions = response.get("Sec-WebSocket-Extensions")
        self._start(sock, PerMessageDeflate.of(agreement, parameters, client=True), early)
        return None

    def _open(self) -> None:
        raise AssertionError("connect() returns only open WebSockets")

    def _end_of_iteration(self) -> Exception:
        return StopIteration() if self.close_code in NORMAL_ENDS else self._closed_error()

    @property
    def requested_subprotocols(self) -> list[str]:
        """The subprotocols that this client offered, the preferred one first."""
        return self._requested

    @property
    def response_headers(self) -> Headers:
        """The headers of the ``101``."""
        return self._response_headers

    @property
    def path(self) -> str:
        """The path of the request, without the query."""
        return self._target.resource.partition("?")[0]

    @property
    def remote_address(self) -> tuple[str, int]:
        """The host and the port of the server in the URL."""
        return self._target.host, self._target.port


T = TypeVar("T", bound=ClientWebSocket)


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | HeaderPairs = (),
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    proxy: str | bool | None = True,
    sock: socket | None = None,
    unix_socket: str | os.PathLike[str] | None = None,
    max_redirects: int = 0,
    open_timeout: float | None = 10.0,
    **options: Any,
) -> ClientWebSocket:
    """Open a WebSocket to a server. Blocks until it is open::

        with connect("wss://example.com/chat", headers={"Authorization": "Bearer …"}) as ws:
            ws.send("hello")
            for message in ws:
                print(message)

    :param url: a ``ws://`` or ``wss://`` URL. A user name and a password in it are sent with HTTP
        Basic authentication, unless ``headers`` has an Authorization.
    :param subprotocols: the subprotocols to offer, the preferred one first.
    :param headers: additional request headers, a mapping or pairs. ``Host`` replaces the Host
        header of the URL.
    :param cookies: names and values for the Cookie header. They are sent unchanged.
    :param origin: the Origin header. Only browsers must send one.
    :param ssl_context: an :class:`ssl.SSLContext` for ``wss://``, from :mod:`ssl` or
        :mod:`gevent.ssl`. By default, certificates are verified with the system's certificates, and
        the host name is checked.
    :param server_hostname: the name for TLS: it is sent to the server (SNI) and must be in its
        certificate. By default, the host of the URL. Needed if the URL has an address.
    :param proxy: the URL of a proxy, or ``None`` for a direct connection. The schemes are
        ``http://``, ``https://`` (only for ``ws://`` servers) and, with the extra ``socks``,
        ``socks5h://``, ``socks5://``, ``socks4a://`` and ``socks4://``. With ``socks5h`` and
        ``socks4a``, the proxy looks up the host name. By default, the proxy is taken from the
        environment (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``).
    :param sock: a connected gevent socket, on which the handshake is performed. TLS is started if
        the URL is a ``wss://`` URL. No proxy is used. The WebSocket owns the socket: it closes it,
        also if the handshake fails.
    :param unix_socket: the path of a unix socket to connect to; not on Windows. No proxy is used.
        The URL sets the request and the Host header.
    :param max_redirects: how many redirects (301, 302, 303, 307 and 308) are followed. By default
        none: :exc:`HandshakeError` has the header ``Location``. No redirect from ``wss://`` to
        ``ws://`` is followed. Another origin does not get the cookies, the Authorization, the user
        of the URL and the Host header; it gets all other ``headers``.
    :param open_timeout: the maximum number of seconds for everything, including the DNS lookup and
        redirects. ``None`` waits without a limit. If the host has several addresses, an attempt to
        connect to the next one starts after 250 ms: an unreachable address causes no longer delay.
    :param options: ``max_message_size``, ``max_queued_messages``, ``max_queued_bytes``,
        ``max_send_buffer``, ``send_timeout``, ``ping_interval``, ``ping_timeout``,
        ``close_timeout``, ``message_timeout`` and ``compression``; see
        :class:`geventws.options.Options`.
    :raises TypeError: for an argument of the wrong type, such as a ``sock`` that is not gevent's.
    :raises ValueError: for an invalid URL, header, cookie or subprotocol, and for arguments that
        cannot be combined.
    :raises ImportError: if a SOCKS proxy is set, and the extra ``socks`` is not installed.
    :raises HandshakeError: if the server or the proxy refuses, or its response is invalid.
    :raises TimeoutError: if the WebSocket is not open after ``open_timeout`` seconds.
    :raises OSError: if no address of the host can be connected to, or the server's certificate is
        not valid.
    """
    target = parse_url(url)
    route = Route(proxy, ssl_context, server_hostname, sock, unix_socket)
    redirects = Redirects(_checked_limit(max_redirects, route))
    request = Request(target, _request_headers(headers, cookies))
    ws = ClientWebSocket(options_for(subprotocols, options), target)
    # Wrong arguments are reported before anything is sent.
    route.check(target)
    first_proxy = route.proxy_for(target)
    opening = ws._request(request.headers, origin)
    with time_limit(open_timeout):
        opened = route.open(target, first_proxy)
        while redirect := ws._perform_handshake(opened, opening, redirects):
            request = redirects.follow(request, redirect)
            route, next_proxy = route.after(request, redirect)
            ws._target = request.target
            opening = ws._request(request.headers, origin)
            opened = route.open(request.target, next_proxy)
    return ws


def _request_headers(
    headers: Mapping[str, str] | HeaderPairs, cookies: Mapping[str, str] | None
) -> Headers:
    """Return the headers of the caller and the cookies; add a User-Agent if there is none."""
    fields = client_handshake.pairs(headers)
    if cookies is not None:
        cookie = client_handshake.cookie_header(cookies, fields)
        fields += [cookie] if cookies else []
    if not any(name.lower() == "user-agent" for name, _ in fields):
        fields.append(("User-Agent", "geventws"))
    return fields


def _checked_limit(max_redirects: int, route: Route) -> int:
    if not isinstance(max_redirects, int) or isinstance(max_redirects, bool):
        raise TypeError(f"max_redirects must be an integer, not {max_redirects!r}")
    if max_redirects < 0:
        raise ValueError(f"max_redirects must not be negative, but is {max_redirects}")
    if max_redirects and route.sock is not None:
        raise ValueError("sock and max_redirects cannot be combined: a redirect needs a new socket")
    return max_redirects


def open_on(
    sock: socket,
    ws: T,
    headers: Mapping[str, str] | HeaderPairs,
    origin: str | None,
    timeout: float | None,
) -> T:
    """Open ``ws`` on a connected gevent socket, within ``timeout`` seconds; return ``ws``.

    :raises TimeoutError: if it is not open in time.
    """
    try:
        opening = ws._request(client_handshake.pairs(headers), origin)
    except BaseException:
        sock.close()
        raise
    with time_limit(timeout):
        ws._perform_handshake(sock, opening, Redirects(0))
    return ws


def options_for(subprotocols: Sequence[str], options: Keywords) -> Options:
    """Return the options of a client.

    :raises TypeError: for an unknown option, or an option of servers.
    """
    for name in options:
        if name in _SERVER_OPTIONS:
            raise TypeError(f"{name} is an option of servers")
        if name not in Options.__dataclass_fields__:
            raise TypeError(f"connect() has no option {name!r}")
    return Options(subprotocols=subprotocols, **options)
