"""WebSockets for :class:`gevent.pywsgi.WSGIServer`, through its ``handler_class``."""

from __future__ import annotations

import socket
from io import BufferedReader, BytesIO
from typing import Any

from gevent.ssl import SSLSocket

from ..protocol import server_handshake as handshake
from ..typing import Application, Environ, Headers, StartResponse
from .adapters import SWITCHING, PywsgiAdapter
from .configuration import combine_options
from .exchange import serve
from .fast_path import Request, parse_request
from .http_handler import HTTPHandler
from .registry import OpenWebSockets
from .request_body import Body

#: How far a request is looked into before it is read. Longer ones are read by gevent's handler.
_PEEK = 8 << 10
_SWITCHING = SWITCHING.encode()
#: The body of a WebSocket request: there is none.
_NO_INPUT = Body(BufferedReader(BytesIO()))


class WebSocketHandler(HTTPHandler):
    """Serves WebSocket requests to the application, and everything else as gevent does::

        WSGIServer(("127.0.0.1", 8000), application, handler_class=WebSocketHandler)

    The options of :class:`geventws.options.Options` are set as attributes of a subclass::

        class Handler(WebSocketHandler):
            max_message_size = 10 << 20

    :raises ValueError: when the subclass is made, for an option that has no sensible value.
    """

    client_address: Any
    rfile: Any
    #: The request, if it is a WebSocket's and came in the first bytes of the connection.
    _request: Request | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        combine_options(cls, {})

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        # As the inherited one, but for the buffered file: 8 KiB that a WebSocket does not need.
        self.socket = sock
        self.client_address = address
        self.server = server
        self.rfile = rfile

    def handle_one_request(self) -> Any:
        if self.rfile is None:
            self._request = self._take_websocket_request()
            if self._request is not None:
                return self._handle_websocket_request()
            self.rfile = self.socket.makefile("rb", -1)
        return super().handle_one_request()

    def _take_websocket_request(self) -> Request | None:
        """Read a WebSocket request, or nothing at all."""
        if isinstance(self.socket, SSLSocket):
            return None  # it cannot peek
        try:
            request = parse_request(self.socket.recv(_PEEK, socket.MSG_PEEK))
        except OSError:
            return None  # the next read fails likewise, and whoever reads handles it
        if request is None or request.size > self.options.max_header_size:
            return None
        self.socket.recv(request.size)
        return request

    def _handle_websocket_request(self) -> None:
        """What the inherited method does with a request when it is parsed."""
        self.environ = self.get_environ()
        self.application = self.server.application
        self.handle_one_response()

    def get_environ(self) -> Environ:
        request = self._request
        if request is None:
            return super().get_environ()
        environ: Environ = self.server.get_environ()
        if isinstance(self.client_address, tuple):
            environ["REMOTE_ADDR"] = str(self.client_address[0])
            environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["REQUEST_METHOD"] = "GET"
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
        environ["SCRIPT_NAME"] = ""
        environ["wsgi.input"] = _NO_INPUT
        environ["wsgi.input_terminated"] = True
        environ.update(request.variables)
        self.requestline, self.path = request.line, request.target
        self.command, self.request_version = "GET", "HTTP/1.1"
        self.wsgi_input = _NO_INPUT
        self._request = None
        return environ

    def run_application(self) -> None:
        if self.end_with_websocket_request():
            self.application = self._serve_websocket
        super().run_application()

    def end_with_websocket_request(self) -> bool:
        """Whether the request is for a WebSocket; if so, no other is read on the connection."""
        if not handshake.is_websocket_request(self.environ or {}):
            return False
        self.close_connection = True
        return True

    def log_request(self) -> None:
        if getattr(self.server, "logs_requests", True):
            super().log_request()

    def _serve_websocket(self, environ: Environ, start_response: StartResponse) -> Any:
        self.application = None  # a bound method of its own would keep the handler alive
        server: Any = self.server
        websockets = getattr(server, "websockets", None)
        if websockets is None:
            websockets = server.websockets = OpenWebSockets()
        del start_response  # the adapter has it until the 101; a variable would keep it for hours
        return serve(self.websocket_application, environ, _Adapter(self), self.options, websockets)

    @property
    def websocket_application(self) -> Application:
        """What is called for a WebSocket request; ``environ["wsgi.websocket"]`` is there."""
        return self.server.application


class _Adapter(PywsgiAdapter):
    """What is shorter with the handler at hand than through PEP 3333."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        super().__init__(handler.socket, handler.rfile, handler.start_response)
        self.handler = handler

    def switch_protocols(self, headers: Headers) -> tuple[Any, bytes]:
        handler = self.handler
        lines = [f"HTTP/1.1 {SWITCHING}", *(f"{name}: {value}" for name, value in headers), "\r\n"]
        head = "\r\n".join(lines).encode("latin-1")
        sent = self.sock.send(head)  # sendall() asks the kernel for its buffer's size first
        if sent < len(head):
            self.sock.sendall(head[sent:])
        # For the access log, and so that nothing more is written as HTTP.
        handler.status, handler._orig_status, handler.code = _SWITCHING, SWITCHING, 101
        handler.response_length = len(head)
        handler.headers_sent = True
        # The connection is over when the view is: gevent's server closes the socket then, and its
        # handler need not look for a next request. Until then it may sit idle for hours.
        handler.socket = None
        if self.rfile is not None:
            self.rfile.close()
            self.rfile = handler.rfile = None
            handler.wsgi_input = handler.environ["wsgi.input"] = _NO_INPUT
            del handler.headers
        return self.sock, self.take_early()
