"""WebSockets for :class:`gevent.pywsgi.WSGIServer`, through its ``handler_class``."""
from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

from gevent.pywsgi import WSGIHandler

from . import handshake
from .hosts import SWITCHING, Pywsgi, StartResponse
from .middleware import serve
from .options import Options
from .websocket import WebSocket

#: The end of a request's head, and a sign that it may ask for a WebSocket.
_END = b"\r\n\r\n"
_WEBSOCKET = re.compile(rb"\r?\nupgrade:[^\r\n]*websocket", re.IGNORECASE)
#: A header line as RFC 9112 section 5 wants it, without obsolete folding and stray controls.
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_MAX_HEADERS = 100  # as many as the standard library's parser takes
#: What stands in for the request's body after the upgrade: there was none.
_NO_INPUT = BytesIO()
#: Attributes of gevent's handler that nothing needs after the upgrade, 3 KiB a connection.
_DONE_WITH = {"command", "content_length", "headers", "path", "request_version", "rfile"}


class WebSocketHandler(WSGIHandler):
    """Serves WebSocket requests to the application, and everything else as gevent does::

        WSGIServer(("127.0.0.1", 8000), application, handler_class=WebSocketHandler)

    The options of :class:`geventws.options.Options` are set as attributes of a subclass::

        class Handler(WebSocketHandler):
            max_message_size = 10 << 20
    """

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802 - gevent's name for it
        """The headers of a request.

        Those of a well-formed WebSocket request are parsed here, an order of magnitude cheaper
        than by the e-mail parser of the standard library, which gets all others.
        """
        return _parse_websocket_head(rfile) or super().MessageClass(rfile, *args)

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        headers: object = self.headers
        if isinstance(headers, _Headers):
            headers.add_to(environ)
        return environ

    def run_application(self) -> None:
        if handshake.is_websocket_request(self.environ or {}):
            # Whatever becomes of it: what follows on this connection is not HTTP.
            self.close_connection = True
            self.application = self._serve_websocket
        try:
            super().run_application()
        finally:
            self.application = None  # a bound method would keep the handler alive

    def log_request(self) -> None:
        if getattr(self.server, "logs_requests", True):
            super().log_request()

    def _serve_websocket(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Any:
        server: Any = self.server
        options = getattr(server, "websocket_options", None)
        if options is None:
            # A plain WSGIServer: what the handler says holds for all of its requests.
            options = server.websocket_options = Options.of(type(self), {})
        websockets: set[WebSocket] = getattr(server, "websockets", set())
        host = _Host(self, start_response)
        return serve(server.application, environ, host, options, websockets)


class _Host(Pywsgi):
    """What is shorter with the handler at hand than through PEP 3333."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any, start_response: StartResponse) -> None:
        super().__init__(handler.rfile, start_response)
        self.handler = handler

    def switch_protocols(self, headers: handshake.Headers) -> tuple[Any, bytes]:
        handler = self.handler
        early = self.take_early()
        lines = [f"HTTP/1.1 {SWITCHING}", *(f"{name}: {value}" for name, value in headers), "\r\n"]
        head = "\r\n".join(lines).encode("latin-1")
        sent = self.sock.send(head)  # sendall() asks the kernel for its buffer's size first
        if sent < len(head):
            self.sock.sendall(head[sent:])
        # For the access log, and so that nothing more is written as HTTP.
        handler.status, handler._orig_status, handler.code = SWITCHING.encode(), SWITCHING, 101
        handler.response_headers = headers
        handler.response_length = len(head)
        handler.headers_sent = True
        # The connection is over when the view is: gevent's server closes the socket then, and its
        # handler need not look for a next request. Until then it may sit idle for hours.
        handler.socket = None
        handler.environ["wsgi.input"] = _NO_INPUT
        self.rfile.close()
        self.rfile = handler.wsgi_input.rfile = _NO_INPUT
        handler.__dict__ = {
            name: value for name, value in vars(handler).items() if name not in _DONE_WITH
        }
        return self.sock, early

    def take_early(self) -> bytes:
        headers = self.handler.headers
        return headers.early if isinstance(headers, _Headers) else super().take_early()


def _parse_websocket_head(rfile: Any) -> _Headers | None:
    """The headers of a WebSocket request that has been read whole and leaves no doubt."""
    buffered = rfile.peek()
    end = buffered.find(_END)
    if end < 0 or not _WEBSOCKET.search(b"\n" + buffered[:end]):
        return None
    lines = buffered[:end].split(b"\r\n")
    if len(lines) > _MAX_HEADERS:
        return None
    fields = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2].strip(b" \t")))
    rfile.read(len(buffered))
    return _Headers(fields, buffered[end + len(_END):])


class _Headers:
    """What gevent's handler asks of the headers of a request."""

    __slots__ = ("_fields", "_values", "early")

    status = ""
    #: The lines, of which gevent would make variables of the environ; :meth:`add_to` does.
    headers = ()

    def __init__(self, fields: list[tuple[bytes, bytes]], early: bytes) -> None:
        self._fields = fields
        self._values = {name.lower(): value for name, value in reversed(fields)}
        #: What came behind them.
        self.early = early

    @property
    def typeheader(self) -> str | None:
        return self.get("content-type")

    def get(self, name: str, default: str | None = None) -> str | None:
        value = self._values.get(name.lower().encode())
        return default if value is None else value.decode("latin-1")

    getheader = get

    def __delitem__(self, name: str) -> None:
        wanted = name.lower().encode()
        self._fields = [field for field in self._fields if field[0].lower() != wanted]
        self._values.pop(wanted, None)

    def items(self) -> Iterator[tuple[str, str]]:
        for name, value in self._fields:
            yield name.decode(), value.decode("latin-1")

    def add_to(self, environ: dict[str, Any]) -> None:
        """Add the variables, as gevent does: PEP 3333, which follows RFC 3875 section 4.1.18."""
        for name, value in self._fields:
            variable = _variable(name)
            if variable is None:
                continue
            text = value.decode("latin-1")
            if variable in environ:
                separator = "; " if "COOKIE" in variable else ","
                text = f"{environ[variable]}{separator}{text}"
            environ[variable] = text


@lru_cache(maxsize=256)
def _variable(name: bytes) -> str | None:
    """The variable for a header; names with an underscore could pose as another's."""
    variable = name.decode().upper().replace("-", "_")
    if b"_" in name or variable in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
        return None
    return f"HTTP_{variable}"
