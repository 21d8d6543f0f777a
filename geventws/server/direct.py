"""Serve a WebSocket request without gevent's handler.

The handler is created only for what is not a ``101``: a response of HTTP, or an exception.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from time import time
from typing import TYPE_CHECKING, Any

from ..connection._arrivals import DirectSocket
from ..connection.accepted import AcceptedSocket
from ..connection.greenlets import LightGreenlet
from ..protocol.server_handshake import response_head
from ..typing import Environ, ExcInfo, Headers, Write
from .adapters import SWITCHING, Adapter
from .exchange import serve
from .fast_path import Request, complete_environ
from .handler import WebSocketHandler
from .request_body import EMPTY_BODY, EmptyInput

if TYPE_CHECKING:
    from .accepting import Address

#: The methods of a handler that are not called for a WebSocket. A handler that overrides one of
#: them serves all requests itself.
_SKIPPED = (
    "__init__",
    "end_with_websocket_request",
    "format_request",
    "get_environ",
    "handle_one_response",
    "handle_websocket_request",
    "log_request",
    "options",
    "process_result",
    "run_application",
    "websocket_application",
)
#: The modules that define these methods.
_STOCK = {"gevent.pywsgi", "geventws.server.handler", "geventws.server.http_handler"}


@lru_cache(maxsize=16)
def is_stock(handler_class: type[WebSocketHandler]) -> bool:
    """Whether a handler does for a WebSocket what :func:`serve_directly` does.

    Methods that are replaced after the first call have no effect: to look at them for each request
    would take 0.5 µs, one percent of a handshake.
    """
    return all(_is_stock_method(getattr(handler_class, name)) for name in _SKIPPED)


def _is_stock_method(method: object) -> bool:
    function = getattr(method, "fget", method)
    # functools.wraps() copies the name of the module.
    is_wrapper = hasattr(function, "__wrapped__")
    return not is_wrapper and getattr(function, "__module__", None) in _STOCK


class _Input(EmptyInput):
    """The body of a request whose gevent socket is created when the application takes it."""

    __slots__ = ("_adapter",)

    def __init__(self, adapter: DirectAdapter) -> None:
        self._adapter = adapter
        #: Whether the application has taken the socket.
        self.is_taken = False

    @property
    def _sock(self) -> Any:
        self.is_taken = True
        return self._adapter.lend_socket()


class DirectAdapter(Adapter):
    """An adapter to a connection without a handler, for its first request.

    :param early: the bytes that were read after the request.
    """

    __slots__ = (
        "_accepted",
        "_direct",
        "_handler",
        "_request",
        "address",
        "environ",
        "length",
        "line",
        "server",
        "started",
    )

    # Any: the server has the attributes of a WebSocketServer.
    def __init__(
        self, server: Any, sock: DirectSocket, address: Address, request: Request, early: bytes
    ) -> None:
        self.server = server
        self.address = address
        self.line = request.line
        self.lent = _Input(self)
        self.environ: Environ = {}
        self._request: Request | None = request
        self.started = time()
        #: The number of bytes of the ``101``; 0 before it was sent.
        self.length = 0
        self._early, self._sent_before = early, 0
        self._handler: WebSocketHandler | None = None
        self._accepted: AcceptedSocket | None = None
        self._direct = sock

    @property
    def sock(self) -> AcceptedSocket:  # type: ignore[override] # an attribute of other adapters
        """The gevent socket. It is created on first use."""
        if self._accepted is None:
            self._accepted = AcceptedSocket(self._direct)
            if self.length:
                self._accepted.disown()  # it belongs to the WebSocket
        return self._accepted

    def prepare(self) -> None:
        """Create the environ. A server may block in its ``get_environ()``, or raise."""
        request, self._request = self._request, None
        if request is not None:
            self.environ = self.server.get_environ()
            complete_environ(self.environ, self.lent, self.address, request.variables)

    def is_used_by_application(self) -> bool:
        return self._accepted is not None and super().is_used_by_application()

    def close(self) -> None:
        """Close the connection, if no WebSocket has it."""
        self.lent = None
        del self.environ  # breaks reference cycles: its wsgi.input refers to this object
        if self._accepted is not None:
            self._accepted.close()
        elif not self.length:
            self._direct.close()

    @property
    def handler(self) -> WebSocketHandler:
        """The handler of this request. It is created on first use."""
        if self._handler is None:
            self._handler = self.server.handler_class(self.sock, self.address, self.server)
            self._handler.take_over(self.environ, self.line, self.started)
            if self.length:
                self._handler.note_101(self.length)
        return self._handler

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Write:
        return self.handler.start_response(status, headers, exc_info)

    def switch_protocols(self, headers: Headers) -> tuple[Any, bytes]:
        head = response_head(SWITCHING, headers)
        sent = self._direct.try_send(head)
        if sent < len(head):
            self.sock.sendall(head[sent:])
        self.length = len(head)
        self.environ["wsgi.input"] = EMPTY_BODY  # it refers to this object
        self.lent = None
        if self._accepted is not None:
            self._accepted.disown()
        return self._direct, self.take_early()

    def log_request(self) -> None:
        """Write the line of gevent's access log."""
        if self.server.logs_requests:
            now = time()
            self.server.log.write(
                f'{self.address[0]} - - [{_format(int(now))}] "{self.line}" 101'
                f" {self.length} {now - self.started:.6f}\n"
            )


def serve_directly(adapter: DirectAdapter) -> None:
    """Serve the first request of a connection, as ``handle_websocket_request()`` does."""
    server = adapter.server
    try:
        adapter.prepare()
        try:
            body = serve(
                server.application, adapter.environ, adapter, server.options, server.websockets
            )
        except BaseException as problem:  # noqa: BLE001 - the handler reports it
            adapter.handler.end_response((), problem)
        else:
            if adapter.length:
                adapter.log_request()
            else:
                adapter.handler.end_response(body)
    finally:
        adapter.close()


class ViewGreenlet(LightGreenlet):
    """The greenlet of a view. With the function as an argument, it would have a ``__dict__``."""

    _run = staticmethod(serve_directly)


@lru_cache(maxsize=1)
def _format(seconds: int) -> str:
    """Format a time as gevent's access log does."""
    return str(datetime.fromtimestamp(seconds))
