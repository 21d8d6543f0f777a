"""The client: ``with connect("wss://…") as ws``, in the same blocking style as a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ssl import PROTOCOL_TLS_CLIENT
from typing import Any, NamedTuple, TypeVar

from gevent.ssl import SSLContext

from ..connection.connection import Connection
from ..exceptions import HandshakeError
from ..options import Options
from ..protocol import client_handshake
from ..protocol.permessage_deflate import PerMessageDeflate
from ..protocol.server_handshake import VERSION
from ..protocol.urls import Target, parse_url
from ..typing import HeaderPairs, Headers
from .dialling import dial, time_limit
from .proxies import open_tunnel, parse_proxy, proxy_from_environment
from .response import read_body, read_response

#: The options that have no meaning for a client.
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
    """The opening handshake's request, and the key that the answer must prove to have read."""

    key: str
    head: bytes


class ClientWebSocket(Connection):
    """The client's side of a connection, open from the beginning.

    Like :class:`geventws.WebSocket` in all that comes after the opening handshake. Leaving a
    ``with`` block closes it. It keeps its socket open until it is closed or the server has closed.
    """

    _owns_socket = True

    __slots__ = (
        "_extensions",
        "_requested",
        "_response_headers",
        "_subprotocol",
        "_target",
    )

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options, client=True)
        self._target = target
        self._requested = list(options.subprotocols)
        self._subprotocol: str | None = None
        self._extensions = ""
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
        """Make the request.

        :raises ValueError: for a header that cannot be sent.
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

    def _shake_hands(self, sock: Any, opening: Opening) -> None:
        """Open the connection on a socket, which is this object's from now on."""
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
        raise AssertionError("a client is open before anybody can use it")

    @property
    def requested_subprotocols(self) -> list[str]:
        """The subprotocols that were offered, the preferred one first."""
        return self._requested

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen."""
        return self._subprotocol

    @property
    def extensions(self) -> str:
        """The extensions that were agreed on: permessage-deflate or none."""
        return self._extensions

    @property
    def response_headers(self) -> list[tuple[str, str]]:
        """The headers of the ``101``."""
        return self._response_headers

    @property
    def path(self) -> str:
        """The path of the request, without the query."""
        return self._target.resource.partition("?")[0]

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol: ``"13"``."""
        return VERSION

    @property
    def remote_address(self) -> tuple[str, int]:
        """Host and port of the server, as the URL has them."""
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
    """Open a WebSocket to a server; blocks until it is open::

        with connect("wss://example.com/chat", headers={"Authorization": "Bearer …"}) as ws:
            ws.send("hello")
            for message in ws:
                print(message)

    Redirects are not followed: the :exc:`HandshakeError` has their ``Location``.

    :param url: ``ws://`` or ``wss://``; a user and a password in it become HTTP's Basic
        authentication.
    :param subprotocols: what is offered, the preferred one first.
    :param headers: more headers of the request, a mapping or pairs.
    :param origin: the header Origin; programs that are no browsers need none.
    :param ssl_context: of :mod:`gevent.ssl`, for ``wss://``; by default the system's certificates
        are trusted and the host's name is checked.
    :param proxy: the URL of an HTTP proxy, or None for none. By default the environment says
        (``https_proxy``, ``http_proxy``, ``no_proxy``).
    :param open_timeout: how many seconds all of that may take, from asking the name server on;
        None waits for ever. If the host has several addresses, an attempt to connect to the next
        one begins after 250 ms, so that one that is dead costs no more.
    :param options: ``max_message_size``, ``max_queued_messages``, ``max_queued_bytes``,
        ``max_send_buffer``, ``send_timeout``, ``ping_interval``, ``ping_timeout``,
        ``close_timeout``, ``message_timeout`` and ``compression``, see
        :class:`geventws.options.Options`.
    :raises ValueError: for a URL, a header or a subprotocol that is none.
    :raises HandshakeError: when the server or the proxy answers something else than "open".
    :raises TimeoutError: when it takes too long.
    :raises OSError: when there is no connection, by any of the host's addresses, or no trust in
        the server's certificate.
    """
    target = parse_url(url)
    fields = client_handshake.pairs(headers)
    if not any(name.lower() == "user-agent" for name, _ in fields):
        fields.append(("User-Agent", "geventws"))
    ws = ClientWebSocket(options_for(subprotocols, options), target)
    if proxy is True:
        proxy = proxy_from_environment(target)
    through = parse_proxy(proxy) if proxy else None
    opening = ws._request(fields, origin)
    with time_limit(open_timeout):
        ws._shake_hands(_reach(target, through, ssl_context), opening)
    return ws


def _reach(target: Target, proxy: Target | None, context: SSLContext | None) -> Any:
    """Return a socket whose other end is the server."""
    if context is None:
        context = _default_context() if target.secure else None
    elif not isinstance(context, SSLContext):
        raise TypeError("ssl_context must be a gevent.ssl.SSLContext: any other would block")
    first = proxy or target
    sock = dial(first.host, first.port)
    try:
        if proxy is not None:
            if proxy.secure:
                sock = _start_tls(sock, _default_context(), proxy.host)
            open_tunnel(sock, target, proxy)
        if target.secure and context is not None:
            sock = _start_tls(sock, context, target.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _start_tls(sock: Any, context: SSLContext, host: str) -> Any:
    secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except BaseException:
        secure.close()  # wrap_socket() has taken the descriptor from the other one
        raise
    return secure


def _default_context() -> SSLContext:
    """What ssl.create_default_context() makes, but of gevent's kind: it checks everything."""
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def open_on(
    sock: Any,
    ws: T,
    headers: Mapping[str, str] | HeaderPairs,
    origin: str | None,
    timeout: float | None,
) -> T:
    """Open ``ws`` on a gevent socket that is connected, within ``timeout`` seconds."""
    try:
        opening = ws._request(client_handshake.pairs(headers), origin)
    except BaseException:
        sock.close()
        raise
    with time_limit(timeout):
        ws._shake_hands(sock, opening)
    return ws


def options_for(subprotocols: Sequence[str], options: dict[str, Any]) -> Options:
    """The options of a client.

    :raises TypeError: for one that only a server has.
    """
    for name in options:
        if name in _SERVER_OPTIONS:
            raise TypeError(f"{name} is an option of servers")
        if name not in Options.__dataclass_fields__:
            raise TypeError(f"connect() has no option {name!r}")
    return Options(subprotocols=subprotocols, **options)
