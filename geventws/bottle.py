"""WebSockets in Bottle, by the names of bottle-websocket::

@app.get("/echo", apply=[websocket])
def echo(ws):
    for message in ws:
        ws.send(message)

app.run(server=GeventWebSocketServer)
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any

import gevent
from bottle import HTTPError, ServerAdapter, request, response
from gevent.local import local

from .integration import run_view
from .server.exchange import WEBSOCKET
from .server.server import WebSocketServer
from .server.websocket import WebSocket
from .typing import Application, Headers

__all__ = ["GeventWebSocketServer", "websocket"]


def websocket(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Bottle plugin: the view gets a :class:`~geventws.WebSocket` as its first argument.

    What Bottle does before a view works before the upgrade, as do ``abort(401)`` and
    ``redirect()`` in it. The ``101`` goes out when the view first uses the WebSocket, with the
    cookies and headers that :data:`bottle.response` has by then. What the view returns after
    that is dropped; without it, it is the response, or, if it is ``None``, the WebSocket is closed
    with 1000. A plain request gets 426.
    """

    @functools.wraps(callback)
    def view(*args: Any, **kwargs: Any) -> Any:
        ws: WebSocket | None = request.environ.get(WEBSOCKET)
        if ws is None:
            # RFC 9110 section 15.5.22: "MUST send an Upgrade header field", and 7.8
            raise HTTPError(
                426,
                "This address speaks WebSocket, and your request is a plain one.",
                Upgrade="websocket",
                Connection="Upgrade",
            )
        return run_view(
            ws,
            functools.partial(callback, ws, *args, **kwargs),
            functools.partial(_gathered_headers, gevent.getcurrent(), _response_headers()),
        )

    return view


class GeventWebSocketServer(ServerAdapter):  # type: ignore[misc]
    """``run(server=GeventWebSocketServer)``: :class:`geventws.WebSocketServer` for Bottle.

    Its options are those of that server, as keywords of ``run()``. ``reloader=True`` works: open
    WebSockets are closed with 1001 before the program starts anew.

    :raises RuntimeError: when the program is not patched: Bottle would mix up the requests of
        several greenlets.
    """

    def run(self, handler: Application) -> None:
        if not isinstance(threading.local(), local):
            raise RuntimeError(
                "Bottle needs gevent.monkey.patch_all() at the very beginning of the program,"
                " before bottle is imported"
            )
        if self.quiet:
            self.options["log"] = None
        server = WebSocketServer((self.host, self.port), handler, **self.options)
        # Ctrl-C, and by the same way Bottle's reloader. A KeyboardInterrupt would hit whatever
        # greenlet is running.
        before = signal.signal(signal.SIGINT, lambda *_: gevent.spawn(server.stop))
        try:
            server.serve_forever()
        finally:
            signal.signal(signal.SIGINT, before)


def _gathered_headers(greenlet: object, before: Headers) -> Headers:
    """The headers for the 101: only the view's own greenlet finds them in ``response``."""
    return _response_headers() if gevent.getcurrent() is greenlet else before


def _response_headers() -> Headers:
    return [(name, value) for name, value in response.headerlist if name != "Content-Type"]
