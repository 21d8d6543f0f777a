"""``geventwebsocket.handler``: the handler that sends the ``101`` before the application runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import Logger
from typing import Any

from gevent.pywsgi import WSGIHandler

from ..server import handler as _handler
from ..server.exchange import WEBSOCKET, WEBSOCKET_VERSION, close_result
from ..server.websocket import WebSocket as _WebSocket
from ..typing import Application, Environ, ExcInfo, Headers, StartResponse
from .logs import create_logger
from .websocket import Stream, WebSocket

__all__ = ["Client", "Stream", "WSGIHandler", "WebSocket", "WebSocketHandler", "create_logger"]


class Client:
    """A value of ``server.clients``. Applications may set further attributes."""

    def __init__(self, address: object, ws: WebSocket | None) -> None:
        self.address = address
        self.ws = ws


class WebSocketHandler(_handler.WebSocketHandler):
    """A handler that accepts WebSocket requests, and then calls the application.

    To refuse a request, override :meth:`upgrade_websocket`: call
    ``self.start_response("401 Unauthorized", [])`` and return a body.
    """

    SUPPORTED_VERSIONS = ("13",)
    GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    #: Whether the application is not called.
    prevent_wsgi_call = False

    websocket: WebSocket | None = None
    #: The :class:`geventws.WebSocket` inside of :attr:`websocket`.
    accepted: _WebSocket
    #: The key of this connection in ``server.clients``.
    _key: object = None
    #: The status and the headers of a refusal.
    _refusal: tuple[str, Headers] = "403 Forbidden", []
    # Any: gevent annotates these attributes with None, or without the attributes that
    # gevent-websocket adds.
    application: Any
    environ: Any
    server: Any
    socket: Any

    def run_application(self) -> None:
        hook = getattr(self.server, "pre_start_hook", None)
        if hook and hook(self):
            self.end_with_websocket_request()
            WSGIHandler.run_application(self)
        else:
            super().run_application()

    @property
    def websocket_application(self) -> Application:
        return self._upgrade

    def _upgrade(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a valid WebSocket request."""
        self.application = self.server.application
        self.accepted = environ.pop(WEBSOCKET)
        version = environ.pop(WEBSOCKET_VERSION)
        sock = self.socket
        body = self.upgrade_websocket()
        if self.websocket is None:
            start_response(*self._refusal)
            return [chunk.encode() if isinstance(chunk, str) else chunk for chunk in body or [b""]]
        environ.update({WEBSOCKET: self.websocket, WEBSOCKET_VERSION: version})
        self.socket = sock  # applications use ws.stream.handler.socket
        try:
            self.run_websocket()
        finally:
            self.socket = None
        return []

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        self._refusal = status, headers
        return super().start_response(status, headers, exc_info)

    def upgrade_websocket(self) -> Iterable[str | bytes] | None:
        """Accept the WebSocket, or return the body of a refusal."""
        return self.upgrade_connection()

    def upgrade_connection(self) -> Iterable[str | bytes] | None:
        """Send the ``101``; sets :attr:`websocket`."""
        ws = self.accepted
        subprotocol = None
        if hasattr(self.application, "app_protocol"):
            supported = self.application.app_protocol(ws.path)
            subprotocol = supported if supported in ws.requested_subprotocols else None
        ws.accept(subprotocol)
        self.websocket = WebSocket(ws.environ, Stream(self), self)
        return None

    def run_websocket(self) -> None:
        """Call the application, and ignore its HTTP response."""
        if self.prevent_wsgi_call:
            return
        clients = self.server.__dict__.setdefault("clients", {})
        # All clients of a unix socket have the same address, which is empty.
        self._key = self.client_address or ("unix", id(self))
        clients[self._key] = Client(self.client_address, self.websocket)
        try:
            result = self.application(self.environ, lambda status, headers, exc_info=None: [])
            try:
                # Views for gevent-websocket, also in its documentation, return None.
                for _ in result or ():
                    pass
            finally:
                close_result(result)
        finally:
            if not self.accepted._is_detached:
                self.remove_client()

    def remove_client(self) -> None:
        """Remove this connection from ``server.clients``."""
        self.server.clients.pop(self._key, None)

    @property
    def active_client(self) -> Client:
        """The value of ``server.clients`` for this connection."""
        client: Client = self.server.clients[self._key]
        return client

    @property
    def logger(self) -> Logger:
        """The logger of the server; it is created on first use."""
        if not hasattr(self.server, "logger"):
            self.server.logger = create_logger(__name__)
        logger: Logger = self.server.logger
        return logger
