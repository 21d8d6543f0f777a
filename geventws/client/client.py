"""The client: :func:`connect` and the WebSocket that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ssl import PROTOCOL_TLS_CLIENT
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gevent.ssl import SSLContext

from ..connection.connection import Connection
from ..exceptions import HandshakeError
from ..options import Options
from ..protocol import client_handshake
from ..protocol.permessage_deflate import PerMessageDeflate
from ..protocol.urls import Target, parse_url
from ..typing import HeaderPairs, Headers, Keywords
from .dialling import dial, time_limit
from .proxies import open_tunnel, parse_proxy, proxy_from_environment
from .response import read_body, read_response

if TYPE_CHECKING:
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


class Opening(NamedTuple):
    """The request of an opening handshake, and its Sec-WebSocket-Key."""

    key: str
    head: bytes


class ClientWebSocket(Connection):
    """The client's side of a connection, returned by :func:`geventws.connect`.

    It is open from the beginning, and then works as :class:`geventws.WebSocket` does. The end of a
    ``with`` block closes it. The socket stays open until one of the two sides closes the WebSocket.
    """

    _owns_socket = True

    __slots__ = (
        "_requested",
        "_response_headers",
        "_target",
    )

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options, client=True)
        self._target = target
        self._requested = list(options.subprotocols)
        self._response_headers: Headers = []

    def __repr__(self) -> str:
        state = self._endpoint.state.name.lower()
        return f"<{type(self).__name__} {self.path} {state}>"

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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

    def _perform_handshake(self, sock: socket, opening: Opening) -> None:
        """Perform the opening handshake on a socket. The socket belongs to this object afterwards.

        :raises HandshakeError: if the server refuses. The socket is closed.
        """
        parameters = self._options.compression_parameters
        try:
            sock.sendall(opening.head)
            response, early = read_response(sock)
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

    def _open(self) -> None:
        raise AssertionError("connect() returns only open WebSockets")

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
    origin: str | None = None,
    ssl_context: SSLContext | None = None,
    proxy: str | bool | None = True,
    open_timeout: float | None = 10.0,
    **options: Any,
) -> ClientWebSocket:
    """Open a WebSocket to a server. Blocks until it is open::

        with connect("wss://example.com/chat", headers={"Authorization": "Bearer …"}) as ws:
            ws.send("hello")
            for message in ws:
                print(message)

    Redirects are not followed: :exc:`HandshakeError` has the header ``Location``.

    :param url: a ``ws://`` or ``wss://`` URL. A user name and a password in it are sent with HTTP
        Basic authentication.
    :param subprotocols: the subprotocols to offer, the preferred one first.
    :param headers: additional request headers, a mapping or pairs.
    :param origin: the Origin header. Only browsers must send one.
    :param ssl_context: a context of :mod:`gevent.ssl` for ``wss://``. By default, certificates are
        verified with the system's certificates, and the host name is checked.
    :param proxy: the URL of an HTTP proxy, or ``None`` for a direct connection. By default, the
        proxy is taken from the environment (``https_proxy``, ``http_proxy``, ``no_proxy``).
    :param open_timeout: the maximum number of seconds for everything, including the DNS lookup.
        ``None`` waits without a limit. If the host has several addresses, an attempt to connect to
        the next one starts after 250 ms: an unreachable address causes no longer delay.
    :param options: ``max_message_size``, ``max_queued_messages``, ``max_queued_bytes``,
        ``max_send_buffer``, ``send_timeout``, ``ping_interval``, ``ping_timeout``,
        ``close_timeout``, ``message_timeout`` and ``compression``; see
        :class:`geventws.options.Options`.
    :raises ValueError: for an invalid URL, header or subprotocol.
    :raises HandshakeError: if the server or the proxy refuses, or its response is invalid.
    :raises TimeoutError: if the WebSocket is not open after ``open_timeout`` seconds.
    :raises OSError: if no address of the host can be connected to, or the server's certificate is
        not valid.
    """
    target = parse_url(url)
    fields = client_handshake.pairs(headers)
    if not any(name.lower() == "user-agent" for name, _ in fields):
        fields.append(("User-Agent", "geventws"))
    ws = ClientWebSocket(options_for(subprotocols, options), target)
    if proxy is True:
        proxy = proxy_from_environment(target)
    parsed_proxy = parse_proxy(proxy) if proxy else None
    opening = ws._request(fields, origin)
    with time_limit(open_timeout):
        ws._perform_handshake(_open_socket(target, parsed_proxy, ssl_context), opening)
    return ws


def _open_socket(target: Target, proxy: Target | None, context: SSLContext | None) -> socket:
    """Return a socket that is connected to the server, with TLS and through the proxy if needed."""
    if context is None:
        context = _default_context() if target.secure else None
    elif not isinstance(context, SSLContext):
        raise TypeError(
            "ssl_context must be a gevent.ssl.SSLContext: any other context would block the thread"
        )
    first = proxy or target
    sock = dial(first.host, first.port)
    try:
        if proxy is not None:
            if proxy.secure:
                sock = _start_tls(sock, _default_context(), proxy.name)
            open_tunnel(sock, target, proxy)
        if target.secure and context is not None:
            sock = _start_tls(sock, context, target.name)
    except BaseException:
        sock.close()
        raise
    return sock


def _start_tls(sock: socket, context: SSLContext, host: str) -> socket:
    secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except BaseException:
        secure.close()  # wrap_socket() has moved the descriptor to the new socket
        raise
    return secure


def _default_context() -> SSLContext:
    """Return gevent's equivalent of ``ssl.create_default_context()``: it verifies certificates."""
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


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
        ws._perform_handshake(sock, opening)
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
