"""WSGI middleware: WebSockets for an application under any WSGI server on gevent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..connection.logs import logger
from ..protocol.server_handshake import is_websocket_request
from ..typing import Application, Environ, ExcInfo, Headers, Keywords, StartResponse, Write
from .adapters import find_adapter, restore_body
from .configuration import application_options, combine_options
from .exchange import WEBSOCKET, serve, serve_plain
from .registry import OpenWebSockets
from .stats import Stats
from .websocket import WebSocket


class WebSocketMiddleware:
    """WSGI middleware that sets ``environ["wsgi.websocket"]``, for any WSGI server on gevent::

        application = WebSocketMiddleware(application, max_message_size=10 << 20)

    It works with :mod:`gevent.pywsgi`, ``gunicorn -k gevent`` and ``gunicorn -k gevent_pywsgi``.
    Plain HTTP requests are passed to the application unchanged. Under a server of geventws, or
    inside another ``WebSocketMiddleware``, the middleware only holds the application's options.

    Other middleware may be inside or outside. Outside, :mod:`wsgiref.validate` does not work: it
    raises an exception for every ``101``.

    :param options: see :class:`geventws.options.Options`. They take precedence over the server's
        options, unless other middleware hides them from the server. Ignored options are logged.
    :raises RuntimeError: on a WebSocket request under a server without gevent, or if other
        middleware has replaced both ``wsgi.input`` and ``start_response``.
    """

    def __init__(self, application: Application, **options: Any) -> None:
        self.application = application
        #: The options of every connection.
        self.options = combine_options(None, options, application)
        #: The WebSockets whose views are running.
        self.websockets = OpenWebSockets()
        self._own = {**options, **application_options(application)}
        self._has_checked = False

    def geventws_options(self) -> Keywords:
        """Return the options of this middleware and of the application inside it."""
        return self._own

    def use_defaults(self, options: Keywords) -> None:
        """Use the options of a server, except for the options that this middleware sets."""
        self.options = combine_options(None, options, self)

    def stats(self) -> Stats:
        """Return the statistics of this middleware. May be called in any thread."""
        return self.websockets.stats()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if WEBSOCKET in environ:
            if not self._has_checked:
                self._has_checked = True
                self._check_options(environ[WEBSOCKET])
            return self._serve_inside(environ, start_response)
        if not is_websocket_request(environ):
            restore_body(environ, start_response)
            return serve_plain(self.application, environ, start_response)
        adapter = find_adapter(environ, start_response)
        return serve(self.application, environ, adapter, self.options, self.websockets)

    def _serve_inside(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a WebSocket of the server, or of the outer ``WebSocketMiddleware``."""
        ws: WebSocket = environ[WEBSOCKET]
        has_started = False

        def start(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
            nonlocal has_started
            has_started = True
            return start_response(status, headers, exc_info)

        result = self.application(environ, start)
        if getattr(ws, "accepted", False) and not has_started:
            # WebOb fails without this call. After the 101, the server drops the response.
            start_response("200 OK", [("Content-Type", "text/plain")])
        return result

    def _check_options(self, ws: WebSocket) -> None:
        """Log the options that the server has not used."""
        options = getattr(ws, "_options", None)
        unseen = [
            name
            for name in self.geventws_options()
            if options is not None and getattr(options, name) != getattr(self.options, name)
        ]
        if unseen:
            logger.warning(
                "The server does not use the option %s of the application: other middleware hides"
                " it. Put that middleware inside WebSocketMiddleware (with Flask: around"
                " app.wsgi_app), or set the option on the server",
                " and ".join(sorted(unseen)),
            )
