"""WebSockets for :class:`gevent.pywsgi.WSGIServer`, through its ``handler_class``."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from gevent.ssl import SSLSocket

from ..protocol import server_handshake as handshake
from ..typing import Application, Environ, Headers, StartResponse
from .adapters import SWITCHING, PywsgiAdapter, discard_queued, hand_over, send_head
from .configuration import combine_options
from .exchange import serve, serve_plain
from .fast_path import PEEK_SIZE, Request, complete_environ, parse_request
from .http_handler import HTTPHandler
from .registry import OpenWebSockets
from .request_body import EMPTY_BODY, EmptyInput

if TYPE_CHECKING:
    from io import BufferedReader

    from gevent.pywsgi import WSGIServer

_SWITCHING = SWITCHING.encode()


class WebSocketHandler(HTTPHandler):
    """A handler for WebSocket and plain HTTP requests::

        WSGIServer(("127.0.0.1", 8000), application, handler_class=WebSocketHandler)

    Set the options of :class:`geventws.options.Options` as attributes of a subclass::

        class Handler(WebSocketHandler):
            max_message_size = 10 << 20

    :raises TypeError: when the subclass is defined, for an option of the wrong type.
    :raises ValueError: when the subclass is defined, for an option out of range.
    """

    # Any: gevent's annotations do not include None, no tuple for the address, and no bytes.
    client_address: Any
    rfile: Any
    socket: Any
    status: Any
    #: The WebSocket request that the fast parser has read, and the bytes that were read after it.
    _request: Request | None = None
    _early = b""
    #: Whether the fast parser has found a WebSocket request.
    _is_websocket = False
    #: Whether the request was served without this handler, see :meth:`end_response`.
    _is_resumed = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        combine_options(cls, {})

    # Like the inherited method, but without the buffered file: it takes 8 KiB, and WebSockets do
    # not need it.
    def __init__(
        self,
        sock: socket.socket,
        address: object,
        server: WSGIServer,
        rfile: BufferedReader | None = None,
    ) -> None:
        self.socket = sock
        self.client_address = address
        self.server = server
        self.rfile = rfile

    def handle_one_request(self) -> tuple[str, bytes] | Literal[True] | None:
        if self.rfile is None:
            self._request = self._take_websocket_request()
            if self._request is not None:
                self._handle_websocket_request()
                return None
            self.rfile = self.socket.makefile("rb", -1)
        return super().handle_one_request()

    def _take_websocket_request(self) -> Request | None:
        """Read a WebSocket request with the fast parser, or read nothing and return ``None``."""
        if isinstance(self.socket, SSLSocket):
            return None  # TLS sockets do not support MSG_PEEK
        try:
            request = parse_request(self.socket.recv(PEEK_SIZE, socket.MSG_PEEK))
        except OSError:
            return None  # the general parser gets the same error, and handles it
        if request is None or request.size > self.options.max_header_size:
            return None
        self.socket.recv(request.size)
        return request

    def handle_websocket_request(self, request: Request, early: bytes) -> None:
        """Serve the first request of a connection, which was read without this handler.

        :param early: the bytes that were read after the request.
        """
        self._request, self._early = request, early
        try:
            self._handle_websocket_request()
        finally:
            if self.socket is not None:
                discard_queued(self.socket)

    def _handle_websocket_request(self) -> None:
        """Serve the parsed request, as the inherited ``handle_one_request()`` does."""
        self._is_websocket = True
        self.environ = self.get_environ()
        self.application = self.server.application
        self.handle_one_response()

    def get_environ(self) -> Environ:
        request, self._request = self._request, None
        if request is not None:
            self._note_request(request.line)
            body = EmptyInput(self.socket)
            environ = self.server.get_environ()
            complete_environ(environ, body, self.client_address, request.variables)
            return environ
        environ = super().get_environ()
        has_body = self.content_length or "HTTP_TRANSFER_ENCODING" in environ
        if not has_body and handshake.is_websocket_request(environ):
            environ["wsgi.input"] = EmptyInput(self.socket)
        return environ

    def _note_request(self, line: str) -> None:
        """Set the attributes that the inherited ``read_request()`` sets."""
        self.requestline = line
        self.command, self.path, self.request_version = line.split(" ")
        self.wsgi_input = EMPTY_BODY

    def run_application(self) -> None:
        if self._is_resumed:
            pass  # the application has run without this handler
        elif self.end_with_websocket_request():
            self.application = self._serve_websocket
        elif handshake.ignored_upgrade(self.environ or {}):
            self.application = partial(serve_plain, self.server.application)
        super().run_application()

    def end_with_websocket_request(self) -> bool:
        """Return whether this is a WebSocket request. Then no other request follows it."""
        if not self._is_websocket and not handshake.is_websocket_request(self.environ or {}):
            return False
        self.close_connection = True
        return True

    # ----------------------------------------------- requests that were served without a handler

    def take_over(self, environ: Environ, line: str, started: float) -> None:
        """Get ready for the response to a WebSocket request that was served without this handler.

        :param started: the ``time()`` of the request.
        """
        self.environ = environ
        self.time_start = started
        self.close_connection = self._is_websocket = self._is_resumed = True
        self._note_request(line)

    def note_101(self, length: int) -> None:
        """The ``101`` has been sent: the handler writes no response."""
        # For the access log.
        self.status, self._orig_status, self.code = _SWITCHING, SWITCHING, 101
        self.response_length = length
        self.headers_sent = True
        # Release memory that is not needed: the WebSocket may be idle for hours. After the view,
        # the server closes the socket; the handler does not read another request.
        self.socket = None

    def end_response(self, body: Iterable[bytes], problem: BaseException | None = None) -> None:
        """Send the rest of a response, after :meth:`take_over`, and log the request.

        :param problem: the exception of the application.
        """
        started = dict(self.__dict__)

        def resume(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            self.__dict__.update(started)  # gevent has reset the attributes of the response
            if problem is not None:
                raise problem
            return body

        self.application = resume
        try:
            self.handle_one_response()
        finally:
            self.application = problem = None  # break reference cycles
            if self.socket is not None:
                discard_queued(self.socket)

    # ----------------------------------------------------------------------------------------

    def log_request(self) -> None:
        if getattr(self.server, "logs_requests", True):
            super().log_request()

    def _serve_websocket(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.application = None  # breaks the reference cycle of a bound method of this handler
        server: Any = self.server  # a plain WSGIServer gets the attribute `websockets` here
        websockets = getattr(server, "websockets", None)
        if websockets is None:
            websockets = server.websockets = OpenWebSockets()
            # gevent's stop() ends only the greenlets of the server.
            server._stop_event.rawlink(lambda _: websockets.close_detached())
        del start_response  # the adapter releases it with the 101; a variable would not
        return serve(self.websocket_application, environ, _Adapter(self), self.options, websockets)

    @property
    def websocket_application(self) -> Application:
        """The application for WebSocket requests. ``environ["wsgi.websocket"]`` is set."""
        return self.server.application


class _Adapter(PywsgiAdapter):
    """An adapter that uses the handler instead of PEP 3333's ``start_response()``."""

    __slots__ = ("handler",)

    # Any: the handler's attributes are set to None, which gevent's annotations do not allow.
    def __init__(self, handler: Any) -> None:
        self.handler = handler
        if handler.rfile is None:
            # The first request of a plain connection was read without a buffered file.
            self.rfile, self.sock = None, handler.socket
            self._start_response = handler.start_response
            self._early, self._sent_before = handler._early, 0
        else:
            super().__init__(handler.socket, handler.rfile, handler.start_response)
        if self._early:
            handler.environ["wsgi.input"] = EmptyInput(self.lend_socket())
        self.lent = handler.environ["wsgi.input"]

    def switch_protocols(self, headers: Headers) -> tuple[socket.socket, bytes]:
        handler = self.handler
        handler.note_101(send_head(self.sock, headers))
        handler.wsgi_input = handler.environ["wsgi.input"] = EMPTY_BODY
        if self.rfile is not None:
            self.rfile.close()
            self.rfile = handler.rfile = None
            del handler.headers
        return hand_over(self.sock), self.take_early()
