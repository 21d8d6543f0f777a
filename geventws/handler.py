"""WebSockets for :class:`gevent.pywsgi.WSGIServer`, through its ``handler_class``."""
from __future__ import annotations

from typing import Any

from gevent.pywsgi import WSGIHandler

from . import handshake
from .hosts import Pywsgi, StartResponse
from .middleware import serve
from .options import Options
from .websocket import WebSocket


class WebSocketHandler(WSGIHandler):
    """Serves WebSocket requests to the application, and everything else as gevent does::

        WSGIServer(("127.0.0.1", 8000), application, handler_class=WebSocketHandler)

    The options of :class:`geventws.options.Options` are set as attributes of a subclass::

        class Handler(WebSocketHandler):
            max_message_size = 10 << 20
    """

    def run_application(self) -> None:
        if handshake.is_websocket_request(self.environ or {}):
            # Whatever becomes of it: what follows on this connection is not HTTP.
            self.close_connection = True
            self.application = self._serve_websocket
        super().run_application()

    def _serve_websocket(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Any:
        server: Any = self.server
        options = getattr(server, "websocket_options", None)
        if options is None:
            # A plain WSGIServer: what the handler says holds for all of its requests.
            options = server.websocket_options = Options.of(type(self), {})
        websockets: set[WebSocket] = getattr(server, "websockets", set())
        host = Pywsgi(self.rfile, start_response)
        return serve(server.application, environ, host, options, websockets)
