"""WebSockets in Bottle, with the names of bottle-websocket::

@app.get("/echo", apply=[websocket])
def echo(ws):
    for message in ws:
        ws.send(message)

app.run(server=GeventWebSocketServer)
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from bottle import HTTPError, ServerAdapter, request, response
from gevent.local import local

from .connection.greenlets import check_function
from .connection.logs import logger, printable
from .integration import run_view
from .protocol.server_handshake import is_websocket_request
from .server.exchange import WEBSOCKET
from .server.server import WebSocketServer
from .server.websocket import WebSocket
from .typing import Application, Environ, Headers

__all__ = ["GeventWebSocketServer", "websocket"]

_WRONG_SERVER = (
    "This server cannot open the WebSocket {}. Run the application with"
    " app.run(server=GeventWebSocketServer), or with the command: python -m geventws MODULE:APP"
)


def websocket(callback: Callable[..., object]) -> Callable[..., object]:
    """Bottle plugin: the view gets a :class:`~geventws.WebSocket` as its first argument.

    Bottle's hooks and plugins run before the upgrade. The view may refuse the WebSocket with
    ``abort(401)`` or ``redirect()``. The ``101`` is sent when the view first uses the WebSocket,
    with the cookies and headers of :data:`bottle.response` at that time.

    The return value of the view is the response if the ``101`` was not sent, and dropped otherwise.
    A view that returns ``None`` without using the WebSocket accepts it; then it is closed with
    1000. A plain HTTP request gets the status 426.

    :raises TypeError: for an ``async def`` view.
    """
    check_function(callback)

    @functools.wraps(callback)
    def view(*args: Any, **kwargs: Any) -> object:
        ws: WebSocket | None = request.environ.get(WEBSOCKET)
        if ws is None:
            if is_websocket_request(request.environ):
                sentence = _WRONG_SERVER.format(printable(request.path))
                logger.error(sentence)
                raise HTTPError(501, sentence)
            # RFC 9110 section 15.5.22: "MUST send an Upgrade header field"; section 7.8 requires
            # "Connection: Upgrade" with it.
            raise HTTPError(
                426,
                "This URL is a WebSocket endpoint, and the request is a plain HTTP request.",
                Upgrade="websocket",
                Connection="Upgrade",
            )
        return run_view(
            ws,
            functools.partial(callback, ws, *args, **kwargs),
            functools.partial(_collect_headers, gevent.getcurrent(), _response_headers()),
            functools.partial(_context_of_event, request.environ),
        )

    return view


@contextlib.contextmanager
def _context_of_event(environ: Environ) -> Iterator[None]:
    """Bind Bottle's ``request`` for a callback of a detached WebSocket."""
    request.bind(environ)
    response.bind()
    yield


class GeventWebSocketServer(ServerAdapter):  # type: ignore[misc]
    """Bottle's adapter for :class:`geventws.WebSocketServer`: ``run(server=…)``.

    Keyword arguments of ``run()`` are options of the server. ``reloader=True`` works: open
    WebSockets are closed with 1001 before the program restarts.

    :raises RuntimeError: if ``gevent.monkey.patch_all()`` was not called. Bottle would confuse the
        requests of different greenlets.
    """

    def run(self, handler: Application) -> None:
        if not isinstance(threading.local(), local):
            raise RuntimeError(
                "Bottle needs gevent.monkey.patch_all() at the beginning of the program, before"
                " the import of bottle"
            )
        if self.quiet:
            self.options["log"] = None
        server = WebSocketServer((self.host, self.port), handler, **self.options)
        # Ctrl-C and Bottle's reloader send SIGINT. Python's default handler would raise
        # KeyboardInterrupt in any greenlet.
        previous = signal.signal(signal.SIGINT, lambda *_: gevent.spawn(server.stop))
        try:
            server.serve_forever()
        finally:
            signal.signal(signal.SIGINT, previous)


def _collect_headers(greenlet: object, initial: Headers) -> Headers:
    """Return the headers for the ``101``.

    ``response`` is specific to the greenlet of the view. Another greenlet that sends the ``101``
    gets the headers from before the view was called.
    """
    return _response_headers() if gevent.getcurrent() is greenlet else initial


def _response_headers() -> Headers:
    return [(name, value) for name, value in response.headerlist if name != "Content-Type"]
