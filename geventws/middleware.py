"""WSGI middleware: the exchange between a WebSocket request and the application."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import handshake
from .drain import OpenWebSockets
from .exceptions import ConnectionClosed, HandshakeError
from .frames import CloseCode
from .hosts import Host, StartResponse, find_host, restore_body
from .logs import logger, peers, printable
from .options import Options, options_of
from .totals import Stats
from .websocket import WebSocket

Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

#: The environ's keys, of which the first is on WebSocket requests only.
WEBSOCKET = "wsgi.websocket"
WEBSOCKET_VERSION = "wsgi.websocket_version"


class WebSocketMiddleware:
    """Gives an application its ``environ["wsgi.websocket"]`` under any WSGI server on gevent::

        application = WebSocketMiddleware(application, max_message_size=10 << 20)

    Works under :mod:`gevent.pywsgi`, ``gunicorn -k gevent`` and ``-k gevent_pywsgi``. Requests
    that are not for a WebSocket pass through untouched. Under a server that knows WebSockets, or
    inside of another one, this is only where the application has its options.

    :param options: see :class:`geventws.options.Options`. They go before those of the server, as
        long as no other middleware hides them from it; the log tells if something is ignored.
    :raises RuntimeError: on a WebSocket request under a server without gevent.
    """

    def __init__(self, application: Application, **options: Any) -> None:
        self.application = application
        #: Those of every connection.
        self.options = Options.of(None, options, application)
        #: The WebSockets that views are busy with.
        self.websockets = OpenWebSockets()
        self._own = {**options, **options_of(application)}
        self._has_checked = False

    def websocket_options(self) -> dict[str, Any]:
        """The options that were chosen here, or by the application inside."""
        return self._own

    def use_defaults(self, options: Mapping[str, Any]) -> None:
        """Use the options of a server where nothing was chosen here."""
        self.options = Options.of(None, options, self)

    def stats(self) -> Stats:
        """What is open, and what has happened since this was made."""
        return self.websockets.stats()

    def __call__(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        if WEBSOCKET in environ:
            if not self._has_checked:
                self._has_checked = True
                self._check_options(environ[WEBSOCKET])
            return self.application(environ, start_response)
        if not handshake.is_websocket_request(environ):
            restore_body(environ, start_response)
            return self.application(environ, start_response)
        host = find_host(environ, start_response)
        return serve(self.application, environ, host, self.options, self.websockets)

    def _check_options(self, ws: Any) -> None:
        """Say so if whoever made the WebSocket has not seen the options."""
        options = getattr(ws, "_options", None)
        unseen = [
            name for name, value in self.websocket_options().items()
            if options is not None and getattr(options, name) != value
        ]
        if unseen:
            logger.warning(
                "The server cannot see that the application asks for %s: some middleware is"
                " between the two. Put it inside of WebSocketMiddleware (with Flask around"
                " app.wsgi_app), or give the options to the server", " and ".join(sorted(unseen)),
            )


def serve(
    application: Application, environ: dict[str, Any], host: Host, options: Options,
    websockets: OpenWebSockets,
) -> Iterable[bytes]:
    """Answer one WebSocket request; returns the body for the server, empty after a ``101``."""
    try:
        handshake.check_request(environ, options)
        _check_capacity(websockets, options)
    except HandshakeError as refusal:
        websockets.totals.refused[refusal.status_code] += 1
        _log_refusal(environ, refusal, options)
        length = ("Content-Length", str(len(refusal.body)))
        host.start_response(refusal.status, [*refusal.headers, length, ("Connection", "close")])
        return host.refusal([refusal.body])
    ws = WebSocket(environ, host, options, websockets.totals)
    del host  # it goes with the 101
    environ[WEBSOCKET] = ws
    environ[WEBSOCKET_VERSION] = ws.version
    websockets.add(ws)
    ws._expect_answer()
    try:
        return _Exchange(ws).run(application)
    finally:
        ws._view = None
        # The two refer to each other; without this their memory waits for the collector.
        environ.pop(WEBSOCKET, None)
        try:
            websockets.discard(ws)
        finally:
            # Whatever has ended the view: from here on the descriptor is the server's.
            ws._drop()


def _check_capacity(websockets: OpenWebSockets, options: Options) -> None:
    """Refuse what would be too much."""
    if websockets.draining:
        raise handshake.unavailable("The server is about to stop.")
    if options.max_connections is not None and len(websockets) >= options.max_connections:
        raise handshake.unavailable("Too many WebSockets are open (max_connections).")


class _Exchange:
    """What the application makes of a WebSocket request: a conversation or a response."""

    __slots__ = ("exc_info", "headers", "server_write", "status", "ws")

    def __init__(self, ws: WebSocket) -> None:
        self.ws = ws
        self.status = ""
        self.headers: Iterable[tuple[str, str]] = ()
        self.exc_info: Any = None
        self.server_write: Callable[[bytes], object] | None = None

    def run(self, application: Application) -> Iterable[bytes]:
        ws = self.ws
        try:
            result = application(ws.environ, self)
            try:
                body = self.read(result)
            except BaseException:
                _close(result)
                raise
        except ConnectionClosed:
            if not self.is_accepted and not ws._left:
                raise
            if ws._left:
                return []
        except Exception:
            if not self.is_accepted:
                raise
            logger.exception(
                "Exception in the view of %s [%s]", printable(ws.path), ws.id,
                extra={"connection_id": ws.id},
            )
            ws._begin_close(CloseCode.INTERNAL_ERROR)
        except BaseException:
            # GreenletExit, SystemExit: the server is stopping, there is no time to wait.
            if ws._opened:
                ws._begin_close(CloseCode.GOING_AWAY)
                ws._drop()
            raise
        else:
            if body is not None:
                return ws._host.refusal(body)
        self.finish()
        return []

    def __call__(
        self, status: str, headers: handshake.Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """The application's start_response(), PEP 3333: it may still use the WebSocket instead."""
        self.status = status
        self.headers = headers
        self.exc_info = exc_info
        if status[:1] != "2" and not self.ws._opened:
            self.ws._sweeper.remove(self.ws)  # it is an answer
        return self.write

    @property
    def is_accepted(self) -> bool:
        """Whether the ``101`` has been sent; blocks while another greenlet sends it."""
        self.ws._wait_while_accepting()
        return self.ws._opened

    def write(self, data: bytes) -> None:
        """What start_response() returns, PEP 3333."""
        if not self.is_accepted:
            self.respond()(data)

    def respond(self) -> Callable[[bytes], object]:
        """Pass the application's response on; from now on there is no WebSocket."""
        if self.server_write is None:
            self.ws._refuse(self.status)
            headers = [(name, value) for name, value in self.headers
                       if name.lower() != "connection"]
            headers.append(("Connection", "close"))
            self.server_write = self.ws._host.start_response(self.status, headers, self.exc_info)
        return self.server_write

    def read(self, result: Iterable[bytes]) -> Iterable[bytes] | None:
        """The body of the response, or None if the application used the WebSocket.

        A view may be a generator: it runs only here.
        """
        if hasattr(result, "__len__") and self.status and not self.is_accepted:
            self.respond()
            return result  # as it is: the server sees how long it is
        chunks = iter(result)
        first = next((chunk for chunk in chunks if chunk), b"")
        if self.status and not self.is_accepted:
            self.respond()
            return _Body(first, chunks, result)
        for _ in chunks:
            pass
        _close(result)
        return None

    def finish(self) -> None:
        """The view is done, and the conversation with it."""
        ws = self.ws
        try:
            ws.close(*self.close_arguments())
        except ConnectionClosed:
            return  # the client has gone before it was accepted
        complaint = ws._complaint
        if complaint is not None:
            peers.log(
                logging.INFO, "%s %s [%s]", _peer(ws.environ), complaint, ws.id,
                extra={"connection_id": ws.id},
            )


    def close_arguments(self) -> tuple[CloseCode, str]:
        """The code and the reason for an open WebSocket whose view has given a status."""
        ws = self.ws
        # A 5xx: a framework has caught and logged the exception.
        code = CloseCode.INTERNAL_ERROR if self.status[:1] == "5" else CloseCode.NORMAL_CLOSURE
        if not ws._accepted_late or self.status[:1] not in {"3", "4", "5"}:
            return code, ""
        if code is CloseCode.NORMAL_CLOSURE:
            code = CloseCode.POLICY_VIOLATION
        status = printable(self.status, limit=100)
        peers.log(
            logging.WARNING,
            "The view of %s answered %s after its WebSocket had been accepted (accept_after, %g"
            " seconds): closed with %d [%s]",
            printable(ws.path), status, ws._options.accept_after, code, ws.id,
            extra={"connection_id": ws.id},
        )
        return code, status


class _Body:
    """The rest of a response whose first chunk has been taken."""

    def __init__(self, first: bytes, rest: Iterator[bytes], result: Iterable[bytes]) -> None:
        self._first = first
        self._rest = rest
        self._result = result

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        yield from self._rest

    def close(self) -> None:
        _close(self._result)


def _close(result: Iterable[bytes]) -> None:
    if hasattr(result, "close"):
        result.close()


def _log_refusal(environ: dict[str, Any], refusal: HandshakeError, options: Options) -> None:
    peer = _peer(environ)
    if refusal.status.startswith("403"):
        peers.log(
            logging.WARNING,
            "Refused a WebSocket from %s: its Origin is %.200r, and this server is %r. If that is"
            " a page of yours, name it in allowed_origins; if there is a proxy in front, it must"
            " pass the header Host on, or set X-Forwarded-* and be named in trusted_proxies",
            peer, environ.get("HTTP_ORIGIN"),
            handshake.request_origin(environ, options.trusted_proxies),
        )
    else:
        level = logging.WARNING if refusal.status.startswith("503") else logging.INFO
        peers.log(level, "Refused a WebSocket from %s: %s", peer, refusal)


def _peer(environ: dict[str, Any]) -> str:
    return printable(environ.get("REMOTE_ADDR") or "peer")
