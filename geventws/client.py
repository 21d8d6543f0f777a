"""The client: ``with connect("wss://…") as ws``, in the same blocking style as a view."""
from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from ssl import PROTOCOL_TLS_CLIENT
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from gevent import sleep
from gevent.ssl import SSLContext

from . import client_handshake, handshake
from .client_handshake import Response, Target, parse_proxy, parse_url, proxy_from_environment
from .connection import Connection
from .dialling import Expired, dial, time_limit
from .exceptions import HandshakeError
from .handshake import Headers
from .options import Options
from .permessage_deflate import PerMessageDeflate
from .protocol import Protocol
from .threads import is_running

#: The most bytes of a response's head, with the interim responses before it, and of the body of a
#: refusal, as it is transferred.
_MAX_HEAD = 64 << 10
_MAX_BODY = 1 << 20
#: The options that mean nothing to a client.
_OF_SERVERS = {
    "accept_after", "allowed_origins", "body_timeout", "handshake_timeout", "keep_alive_timeout",
    "max_connections", "max_header_size", "trusted_proxies",
}
#: How many bytes of a body are read at once: 2 ms of work if its chunks have one byte each.
_PIECE = 4096
#: For how many seconds a body is read without a pause for other greenlets, and for how many the
#: pause lasts. With sleep(0), gevent calls back 50 times before it looks at timers and sockets.
_SLICE, _PAUSE = 0.002, 1e-4


class Opening(NamedTuple):
    """The opening handshake's request, and the key that the answer must prove to have read."""

    key: str
    head: bytes


class ClientWebSocket(Connection):
    """The client's side of a connection, open from the beginning.

    Like :class:`geventws.WebSocket` in all that comes after the opening handshake. Leaving a
    ``with`` block closes it. It keeps its socket open until it is closed or the server has closed.
    """

    __slots__ = (
        "_extensions", "_requested", "_response_headers", "_subprotocol", "_target",
    )

    def __init__(self, options: Options, target: Target) -> None:
        super().__init__(options)
        self._target = target
        self._requested = list(options.subprotocols)
        self._subprotocol: str | None = None
        self._extensions = ""
        self._response_headers: Headers = []

    def __repr__(self) -> str:
        state = self._protocol.state.name.lower() if self._opened else "not open yet"
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
        return Opening(key, client_handshake.request_head(
            self._target, key, subprotocols=self._requested, origin=origin,
            deflate=self._options.deflate, headers=headers,
        ))

    def _shake_hands(self, sock: Any, opening: Opening) -> None:
        """Open the connection on a socket, which is this object's from now on."""
        deflate = self._options.deflate
        try:
            sock.sendall(opening.head)
            response, early = read_response(sock)
            if response.code != 101:
                raise HandshakeError(
                    response.status, read_body(sock, response, early), response.headers
                )
            self._subprotocol, agreement = client_handshake.check_response(
                response, opening.key, self._requested, deflate
            )
        except BaseException:
            sock.close()
            raise
        self._response_headers = response.headers
        self._extensions = response.get("Sec-WebSocket-Extensions")
        protocol = Protocol(
            client=True, max_message_size=self._options.max_message_size,
            deflate=PerMessageDeflate.of(agreement, deflate, client=True),
        )
        self._attach(sock, protocol, early)

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
        return handshake.VERSION

    @property
    def remote_address(self) -> tuple[str, int]:
        """Host and port of the server, as the URL has them."""
        return self._target.host, self._target.port

    # ---------------------------------------------------------------- closing

    def _lost(self) -> None:
        super()._lost()
        if is_running(self._hub):
            self._sock.close()
        else:
            self._sock._sock.close()  # the gevent socket would notify its loop


T = TypeVar("T", bound=ClientWebSocket)


def connect(
    url: str, *,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
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
    :param options: ``max_message_size``, ``max_queue``, ``max_queue_size``, ``max_send_buffer``,
        ``send_timeout``, ``ping_interval``, ``ping_timeout``, ``close_timeout`` and
        ``compression`` of :class:`geventws.options.Options`.
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
            _tunnel(sock, target, proxy)
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


def _tunnel(sock: Any, target: Target, proxy: Target) -> None:
    """Ask a proxy for the way to the server, RFC 9110 section 9.3.6."""
    sock.sendall(client_handshake.connect_head(target, proxy))
    response, early = read_response(sock)
    if not 200 <= response.code < 300:
        body = read_body(sock, response, early)
        raise HandshakeError(response.status, body, response.headers)
    if early:
        raise HandshakeError(response.status, "the proxy sent more than its answer")


def open_on(
    sock: Any, ws: T, headers: Mapping[str, str] | Iterable[tuple[str, str]],
    origin: str | None, timeout: float | None,
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


def read_response(sock: Any) -> tuple[Response, bytes]:
    """The head of the response and what came behind it; interim responses are passed over."""
    data = bytearray()
    start = searched = 0
    while True:
        end = data.find(b"\r\n\r\n", searched)
        if end >= 0:
            response = client_handshake.parse_response(bytes(data[start:end]))
            start = searched = end + 4
            if response.code >= 200 or response.code == 101:
                return response, bytes(data[start:])
            continue  # RFC 9110 section 15.2: a client may ignore other interim responses
        if len(data) > _MAX_HEAD:
            raise HandshakeError("", f"the answer has a head of more than {_MAX_HEAD} bytes")
        searched = max(start, len(data) - 3)
        more = sock.recv(16384)
        if not more:
            raise HandshakeError("", "the server closed the connection without an answer")
        data += more


def read_body(sock: Any, response: Response, early: bytes) -> bytes:
    """The body of a refusal, as far as it comes in time, is well-formed and at most 1 MiB.

    :param early: what was read behind the head.
    """
    body = bytearray()
    rest = _Rest(sock, _framing(response) + early)
    parser = HTTPResponse(rest)  # type: ignore[arg-type] # it needs no more than makefile()
    try:
        parser.begin()
        while piece := parser.read1(_PIECE):
            body += piece
    except (HTTPException, OSError, OverflowError, Expired):
        pass  # what has come tells more than this; a negative size of a chunk may overflow
    finally:
        parser.close()
    return bytes(body)


def _framing(response: Response) -> bytes:
    """As much of a response's head as says where its body ends, RFC 9112 section 6.3."""
    fields = ""
    codings = response.get("Transfer-Encoding").lower()
    length = response.get("Content-Length")
    if codings.rpartition(",")[2].strip(" \t") == "chunked":
        fields = "Transfer-Encoding: chunked\r\n"
    elif not codings and length.isdecimal():
        fields = f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {response.code} \r\n{fields}\r\n".encode("latin-1")


class _Rest(io.RawIOBase):
    """The bytes that have been read from a socket, then up to 1 MiB that are still to come."""

    def __init__(self, sock: Any, data: bytes) -> None:
        self._sock = sock
        self._data = memoryview(data)
        self._left = _MAX_BODY
        self._paused = monotonic()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file for :class:`http.client.HTTPResponse`."""
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._data and self._left:
            if monotonic() - self._paused > _SLICE:
                # A socket that always has something to read never lets the loop run.
                sleep(_PAUSE)
                self._paused = monotonic()
            self._data = memoryview(self._sock.recv(min(_PIECE, self._left)))
            self._left -= len(self._data)
        size = min(len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


def options_for(subprotocols: Sequence[str], options: dict[str, Any]) -> Options:
    """The options of a client.

    :raises TypeError: for one that only a server has.
    """
    for name in options:
        if name in _OF_SERVERS:
            raise TypeError(f"{name} is an option of servers")
        if name not in Options.__dataclass_fields__:
            raise TypeError(f"connect() has no option {name!r}")
    return Options(subprotocols=subprotocols, **options)
