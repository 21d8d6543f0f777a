"""The exchange of one WebSocket request with the application: a WebSocket or an HTTP response."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from gevent import GreenletExit
from gevent.socket import socket as gevent_socket

from ..connection.logs import logger, name_of_peer, peers, printable
from ..exceptions import ConnectionClosed, HandshakeError
from ..options import Options, how_to_allow
from ..protocol import server_handshake as handshake
from ..protocol.frames import CloseCode
from ..protocol.origin import request_origin, similar_origin
from ..typing import Application, Environ, ExcInfo, HeaderPairs, Headers, StartResponse, Write
from .adapters import Adapter, closing
from .engineio_driver import use_if_imported
from .registry import OpenWebSockets
from .websocket import WebSocket

# Looking up a member of an enum takes ten times as long as a global.
_NORMAL_CLOSURE = CloseCode.NORMAL_CLOSURE
#: Keys of the environ. They are only set for WebSocket requests.
WEBSOCKET = "wsgi.websocket"
WEBSOCKET_VERSION = "wsgi.websocket_version"
#: The longest origin that is repeated in the log, in characters.
_MAX_LOGGED = 200


def serve(
    application: Application,
    environ: Environ,
    adapter: Adapter,
    options: Options,
    websockets: OpenWebSockets,
) -> Iterable[bytes]:
    """Serve one WebSocket request. Return the body for the server; it is empty after a ``101``."""
    try:
        handshake.check_request(environ, options.allowed_origins, options.trusted_proxies)
        _check_capacity(websockets, options)
    except HandshakeError as refusal:
        websockets.totals.refused[refusal.status_code] += 1
        _log_refusal(_peer(environ, adapter.sock), environ, refusal, options)
        length = ("Content-Length", str(len(refusal.body)))
        adapter.start_response(refusal.status, [*refusal.headers, length, ("Connection", "close")])
        return adapter.refusal([refusal.body])
    ws = websockets.websocket_class(environ, adapter, options, websockets.totals)
    del adapter  # the WebSocket releases it with the 101
    environ[WEBSOCKET] = ws
    environ[WEBSOCKET_VERSION] = ws.version
    use_if_imported()
    websockets.add(ws)
    ws._expect_answer()
    try:
        return _Exchange(ws).run(application)
    except GreenletExit:
        if not ws.accepted:
            raise
        return []  # the view was killed; gunicorn logs only requests whose application returns
    finally:
        ws._view = None
        if not ws.accepted and ws._is_used_by_application:
            ws._adapter.shut_down_output()
        # The environ and the WebSocket refer to each other. Without this, their memory is only
        # released by the garbage collector.
        environ.pop(WEBSOCKET, None)
        if ws._is_detached:
            ws._leave_view(websockets)
        else:
            try:
                websockets.discard(ws)
            finally:
                # The server closes the descriptor: from now on, the WebSocket must not use it.
                ws._drop()


def serve_plain(
    application: Application, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    """Serve a request that asks for no WebSocket.

    If it has ``Upgrade: websocket`` nevertheless, this is logged, and the response is the last one
    of the connection: a proxy may forward all that follows, because of this header.
    """
    reason = handshake.ignored_upgrade(environ)
    if reason:
        # Frameworks such as Werkzeug would take the request for a WebSocket, too.
        del environ["HTTP_UPGRADE"]
        peers.log(
            logging.WARNING,
            "Ignored the header Upgrade: websocket of a request from %s: %s",
            _peer(environ),
            printable(reason, limit=400),
        )
        start_response = closing(environ, start_response)
    return application(environ, start_response)


def _check_capacity(websockets: OpenWebSockets, options: Options) -> None:
    """Refuse the request if the server is stopping, or has too many WebSockets.

    :raises HandshakeError: with the status 503.
    """
    if websockets.draining:
        raise handshake.unavailable("The server is about to stop.")
    if options.max_connections is not None and len(websockets) >= options.max_connections:
        raise handshake.unavailable("Too many WebSockets are open (max_connections).")


class _Exchange:
    """The ``start_response()`` of one WebSocket request, and the call of the application."""

    __slots__ = ("exc_info", "headers", "server_write", "status", "ws")

    def __init__(self, ws: WebSocket) -> None:
        self.ws = ws
        self.status = ""
        self.headers: HeaderPairs = ()
        self.exc_info: ExcInfo | None = None
        self.server_write: Write | None = None

    def run(self, application: Application) -> Iterable[bytes]:
        ws = self.ws
        try:
            result = application(ws.environ, self)
            try:
                body = self.read(result)
            except BaseException:
                close_result(result)
                raise
        except ConnectionClosed:
            if self.may_respond():
                raise
            if not ws.accepted:
                return []
        except Exception:
            if self.may_respond():
                raise
            logger.exception(
                "Exception in the view of %s [%s]",
                printable(ws.path),
                ws.id,
                extra={"connection_id": ws.id},
            )
            ws._start_close(CloseCode.INTERNAL_ERROR)
        except BaseException:
            # GreenletExit or SystemExit: the server is stopping, and cannot wait for the peer.
            if ws.accepted:
                ws._start_close(CloseCode.GOING_AWAY)
                ws._drop()
            raise
        else:
            if body is not None:
                refusal: Iterable[bytes] = ws._adapter.refusal(body)
                return refusal
        self.finish()
        return []

    def __call__(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
        """Store the status and the headers (``start_response()`` of PEP 3333).

        The application may still use the WebSocket instead.
        """
        self.status = status
        self.headers = headers
        self.exc_info = exc_info
        if status[:1] != "2":
            self.ws._stop_expecting_answer()
        return self.write

    def may_respond(self) -> bool:
        """Return whether HTTP may be sent: not after the ``101``, nor after a part of it.

        Blocks while another greenlet sends the ``101``.
        """
        self.ws._wait_while_accepting()
        return not self.ws.accepted and not self.ws._client_left

    def write(self, data: bytes) -> None:
        """Send data of the body (``write()`` of PEP 3333)."""
        if self.may_respond():
            self.respond()(data)

    def respond(self) -> Write:
        """Start the application's response. The WebSocket cannot be used afterwards."""
        if self.server_write is None:
            self.ws._note_response(self.status)
            headers = [
                (name, value) for name, value in self.headers if name.lower() != "connection"
            ]
            headers.append(("Connection", "close"))
            self.server_write = self.ws._adapter.start_response(self.status, headers, self.exc_info)
        return self.server_write

    def read(self, result: Iterable[bytes]) -> Iterable[bytes] | None:
        """Return the body of the response, or ``None`` if the application used the WebSocket.

        If the view is a generator, its code runs here.
        """
        if not self.status and type(result) is list and not result:
            return None
        if hasattr(result, "__len__") and self.status and self.may_respond():
            self.respond()
            return result  # unchanged: the server can read its length
        chunks = iter(result)
        first = next((chunk for chunk in chunks if chunk), b"")
        if self.status and self.may_respond():
            self.respond()
            return _Body(first, chunks, result)
        for _ in chunks:
            pass
        close_result(result)
        return None

    def finish(self) -> None:
        """Close the WebSocket after the end of the view."""
        ws = self.ws
        if not self.status:
            if ws._has_ended:
                ws._log_fault()
                return
            if ws._is_used_by_application:
                return  # another library has sent its own 101 and its own Close frame
        code, reason = self.close_arguments()
        if ws._is_detached:
            if code is not _NORMAL_CLOSURE:
                ws._start_close(code, reason)
            return
        try:
            ws.close(code, reason)
        except ConnectionClosed:
            return  # the client disconnected before the 101
        ws._log_fault()

    def close_arguments(self) -> tuple[CloseCode, str]:
        """Return the close code and the reason, after the end of the view."""
        ws = self.ws
        # A status 5xx: a framework has caught and logged an exception.
        code = CloseCode.INTERNAL_ERROR if self.status[:1] == "5" else _NORMAL_CLOSURE
        if not ws._was_accepted_late or self.status[:1] not in {"3", "4", "5"}:
            return code, ""
        if code is _NORMAL_CLOSURE:
            code = CloseCode.POLICY_VIOLATION
        status = printable(self.status, limit=100)
        ws._warn(
            "The view of %s answered after its WebSocket had been accepted automatically"
            " (accept_after, %g seconds): %s, closed with %d",
            status,
            int(code),
        )
        return code, status


class _Body:
    """The body of a response after its first chunk was read."""

    def __init__(self, first: bytes, rest: Iterator[bytes], result: Iterable[bytes]) -> None:
        self._first = first
        self._rest = rest
        self._result = result

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        yield from self._rest

    def close(self) -> None:
        close_result(self._result)


def close_result(result: object) -> None:
    """Close the result of an application (PEP 3333)."""
    if hasattr(result, "close"):
        result.close()


def _log_refusal(peer: str, environ: Environ, refusal: HandshakeError, options: Options) -> None:
    if refusal.status.startswith("403"):
        origin = environ.get("HTTP_ORIGIN", "")
        peers.log(
            logging.WARNING,
            "Refused a WebSocket from %s: its Origin is %.200r, and the origin of this server is"
            " %r. If you trust the Origin, %s. If a proxy is in front of the server, configure it"
            " to forward the Host header, or to set X-Forwarded-Proto and X-Forwarded-Host, and add"
            " it to trusted_proxies",
            peer,
            origin,
            request_origin(environ, options.trusted_proxies),
            _way_in(origin, options.allowed_origins),
        )
    else:
        level = logging.WARNING if refusal.status.startswith("503") else logging.INFO
        peers.log(level, "Refused a WebSocket from %s: %s", peer, refusal)


def _way_in(origin: str, allowed_origins: Sequence[str]) -> str:
    """Say which option lets in the pages of an origin."""
    # Origins of browsers are short, and in ASCII. IDNA would take long for others.
    is_usual = len(origin) <= _MAX_LOGGED and origin.isascii() and "://" in origin
    wanted = similar_origin(origin) if is_usual and "*" not in origin else ""
    if not wanted:
        return "add it to allowed_origins"
    return how_to_allow([*allowed_origins, wanted])


def _peer(environ: Environ, sock: gevent_socket | None = None) -> str:
    return name_of_peer(environ.get("REMOTE_ADDR"), sock)
