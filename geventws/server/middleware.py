"""WSGI middleware: WebSockets for an application under any WSGI server on gevent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..connection.logs import logger
from ..protocol.server_handshake import is_websocket_request
from ..typing import Application, Environ, StartResponse
from .adapters import find_adapter, restore_body
from .configuration import application_options, combine_options
from .exchange import WEBSOCKET, serve
from .registry import OpenWebSockets
from .stats import Stats


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
        self.options = combine_options(None, options, application)
        #: The WebSockets that views are busy with.
        self.websockets = OpenWebSockets()
        self._own = {**options, **application_options(application)}
        self._has_checked = False

    def geventws_options(self) -> dict[str, Any]:
        """The options that were set here, or by the application inside."""
        return self._own

    def use_defaults(self, options: Mapping[str, Any]) -> None:
        """Use the options of a server where nothing was chosen here."""
        self.options = combine_options(None, options, self)

    def stats(self) -> Stats:
        """What is open, and what has happened since this was made."""
        return self.websockets.stats()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if WEBSOCKET in environ:
            if not self._has_checked:
                self._has_checked = True
                self._check_options(environ[WEBSOCKET])
            return self.application(environ, start_response)
        if not is_websocket_request(environ):
            restore_body(environ, start_response)
            return self.application(environ, start_response)
        adapter = find_adapter(environ, start_response)
        return serve(self.application, environ, adapter, self.options, self.websockets)

    def _check_options(self, ws: Any) -> None:
        """Say so if whoever made the WebSocket has not seen the options."""
        options = getattr(ws, "_options", None)
        unseen = [
            name
            for name, value in self.geventws_options().items()
            if options is not None and getattr(options, name) != value
        ]
        if unseen:
            logger.warning(
                "The server cannot see that the application asks for %s: some middleware is"
                " between the two. Put it inside of WebSocketMiddleware (with Flask around"
                " app.wsgi_app), or give the options to the server",
                " and ".join(sorted(unseen)),
            )
