"""``geventwebsocket.handler``: open first, then ask the application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gevent.pywsgi import WSGIHandler

from ..server import handler as _handler
from ..server.exchange import WEBSOCKET, WEBSOCKET_VERSION
from ..typing import Application, StartResponse
from .logs import create_logger
from .websocket import Stream, WebSocket

__all__ = ["Client", "Stream", "WSGIHandler", "WebSocket", "WebSocketHandler", "create_logger"]


class Client:
    """One of ``server.clients``; applications set attributes of their own on it."""

    def __init__(self, address: Any, ws: WebSocket | None) -> None:
        self.address = address
        self.ws = ws


class WebSocketHandler(_handler.WebSocketHandler):
    """Upgrades the connection of a WebSocket request, and then calls the application.

    Subclasses may override :meth:`upgrade_websocket` to refuse: they call
    ``self.start_response("401 Unauthorized", [])`` and return a body.
    """

    SUPPORTED_VERSIONS = ("13",)
    GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    #: Do not call the application.
    prevent_wsgi_call = False

    websocket: WebSocket | None = None
    #: The :class:`geventws.WebSocket` inside of :attr:`websocket`.
    accepted: Any = None
    _key: Any = None
    _answer: tuple[str, Any] = "403 Forbidden", ()
    # Of gevent's handler, without the None that they become in the end.
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

    def _upgrade(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """What is called for a WebSocket request that RFC 6455 has no objections to."""
        self.application = self.server.application
        self.accepted = environ.pop(WEBSOCKET)
        version = environ.pop(WEBSOCKET_VERSION)
        body = self.upgrade_websocket()
        if self.websocket is None:
            start_response(*self._answer)
            return [chunk.encode() if isinstance(chunk, str) else chunk for chunk in body or [b""]]
        environ.update({WEBSOCKET: self.websocket, WEBSOCKET_VERSION: version})
        self.socket = self.accepted._sock  # ws.stream.handler.socket
        try:
            self.run_websocket()
        finally:
            self.socket = None
        return []

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        self._answer = status, headers
        return super().start_response(status, headers, exc_info)

    def upgrade_websocket(self) -> Any:
        """Decide whether to upgrade; without an upgrade, what is returned is the response."""
        return self.upgrade_connection()

    def upgrade_connection(self) -> Any:
        """Send the ``101``; sets :attr:`websocket`."""
        ws = self.accepted
        subprotocol = None
        if hasattr(self.application, "app_protocol"):
            spoken = self.application.app_protocol(ws.path)
            subprotocol = spoken if spoken in ws.requested_subprotocols else None
        ws.accept(subprotocol)
        self.websocket = WebSocket(ws.environ, Stream(self), self)

    def run_websocket(self) -> None:
        """Call the application; what it makes of HTTP is thrown away."""
        if self.prevent_wsgi_call:
            return
        clients = self.server.__dict__.setdefault("clients", {})
        # All clients of a unix socket have the same address.
        self._key = self.client_address or ("unix", id(self))
        clients[self._key] = Client(self.client_address, self.websocket)
        try:
            list(self.application(self.environ, lambda status, headers, exc_info=None: []))
        finally:
            del clients[self._key]

    @property
    def active_client(self) -> Client:
        client: Client = self.server.clients[self._key]
        return client

    @property
    def logger(self) -> Any:
        if not hasattr(self.server, "logger"):
            self.server.logger = create_logger(__name__)
        return self.server.logger
