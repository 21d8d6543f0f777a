"""gevent's handler of HTTP requests: strict, with deadlines, and quiet about clients' faults."""

from __future__ import annotations

import errno
import logging
import socket
from ssl import SSLError
from typing import Any

from gevent.pywsgi import WSGIHandler

from ..connection.hub import hub_state
from ..connection.logs import peers, printable
from ..connection.tcp import reset_at_close, unacknowledged
from ..options import Options
from ..protocol.headers import has_token
from ..protocol.server_handshake import is_websocket_request
from ..typing import Environ
from .adapters import discard_queued
from .configuration import combine_options
from .request_body import Body, BodyError
from .request_head import BadRequest, check_fields, parse_header_line, parse_request_line

_RESPONSE = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
#: What gevent's handler keeps the headers in.
_Message: Any = type(WSGIHandler.headers)
_REQUEST_TIMEOUT = "408", _RESPONSE % b"408 Request Timeout"
#: How much of a response is given to the kernel at once.
_PIECE = 64 << 10


def _send_all(sock: Any, data: bytes, seconds: float | None) -> None:
    """Send, as long as the client takes some of it within each ``seconds``.

    :raises TimeoutError: when it takes nothing.
    """
    left = memoryview(data)
    before = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        while left:
            queued = unacknowledged(sock)
            try:
                left = left[sock.send(left[:_PIECE]) :]
            except TimeoutError:
                # The kernel says that there is room when a third of its buffer is free, which may
                # be a megabyte: what counts is whether the client has acknowledged some of it.
                if unacknowledged(sock) >= queued:
                    raise
    finally:
        sock.settimeout(before)


class _Gone(ValueError):
    """The client has gone in the middle of its request."""


class HTTPHandler(WSGIHandler):
    """Ends connections that do not send a request in time, or do not read the response.

    The time for the head of a request begins when the connection is there, or with the end of the
    response before; that for its body and for the response begins anew with everything that comes
    or goes.
    """

    wsgi_input: Any
    _due: int
    #: Whether the sweeper is asked to look at this connection.
    _is_watched = False
    _is_late = False

    def handle(self) -> None:
        self._watch(self.options.handshake_timeout)
        try:
            super().handle()
        except OSError:
            pass  # the client has gone; it was about to be told what is wrong with its request
        finally:
            self._unwatch()

    def handle_one_response(self) -> None:
        self._unwatch()
        super().handle_one_response()
        if self.code == 101:
            self.close_connection = True  # RFC 9110 section 7.8: what follows is not HTTP
        error = getattr(self.wsgi_input, "error", None)
        if error is not None:
            # Nobody knows where the next request begins, whatever the application made of it.
            self.close_connection = True
            if error.status is not None:
                self.log_error(str(error))
                discard_queued(self.socket)
        if not self.close_connection:
            self._watch(self.options.keep_alive_timeout)

    @property
    def options(self) -> Options:
        """The options of the server. A plain WSGIServer gets those of this class."""
        server: Any = self.server
        options: Options | None = getattr(server, "options", None)
        if options is None:
            options = server.options = combine_options(type(self), {}, server.application)
        return options

    # ------------------------------------------------------- deadline of the head

    def _watch(self, seconds: float | None) -> None:
        if seconds is not None:
            self._is_watched = True
            hub_state().sweeper.add(self, seconds)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            hub_state().sweeper.remove(self)

    def _check(self) -> None:
        """Its time is over: let whoever reads the request meet the end of it; in the hub."""
        self._is_watched = False
        self._is_late = True
        try:
            # Of the socket below: that of gevent's TLS would go on in clear.
            self.socket._sock.shutdown(socket.SHUT_RD)  # type: ignore[attr-defined]
        except OSError:
            pass  # the client was quicker

    def _abandon(self) -> None:
        """In a child process: gevent's server has both read, and the first one gets it."""

    # ------------------------------------------------------------------ the head

    def read_requestline(self) -> str:
        line = super().read_requestline()
        if line == "\r\n":
            # RFC 9112 section 2.2: "SHOULD ignore at least one empty line".
            line = super().read_requestline()
        return line

    def read_request(self, raw_requestline: str) -> Any:
        """Parse the head of a request.

        :raises ValueError: for a request that is malformed, too late, or not whole.
        """
        try:
            understood = self._read_request(raw_requestline)
        except OSError as problem:
            raise _Gone from problem
        if self._is_late:
            raise _Gone  # what was read is cut off
        return understood

    def _read_request(self, raw_requestline: str) -> Any:
        if not raw_requestline.endswith("\n"):
            raise _Gone
        line = parse_request_line(raw_requestline)
        self.request_version = line.version
        understood = super().read_request(raw_requestline)
        self.path = line.target
        if line.host is not None:
            # RFC 9112 section 3.2.2: "MUST ignore the received Host header field".
            del self.headers["Host"]
            self.headers["Host"] = line.host
        connection = self.headers.get_all("Connection", ())
        if line.method == "CONNECT" or any(has_token(value, "close") for value in connection):
            # RFC 9112 section 9.3; behind a CONNECT follows what is not HTTP, RFC 9110 9.3.6.
            self.close_connection = True
        return understood

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802 - gevent's name for it
        """Read the headers, as what gevent's own parser makes of them; it costs a multiple."""
        message: Any = _Message()
        fields = []
        left = self.options.max_header_size
        while True:
            line = rfile.readline(left + 1)
            left -= len(line)
            if left < 0:
                raise BadRequest("its headers are too large", "431 Request Header Fields Too Large")
            if line == b"\r\n":
                break
            if not line.endswith(b"\n"):
                raise _Gone  # RFC 9112 section 8: "MUST NOT" be taken for a whole one
            name, value = parse_header_line(line)
            fields.append((name.lower(), value))
            message[name] = value
        check_fields(fields, self.request_version)  # type: ignore[arg-type]
        return message

    # ------------------------------------------------------------------ the body

    def get_environ(self) -> Environ:
        environ: Environ = super().get_environ()
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        expects = "HTTP_EXPECT" in environ and self.request_version != "HTTP/1.0"  # 9110 10.1.1
        body = self.wsgi_input = Body(
            self.rfile,
            self.socket,
            self.content_length or 0,
            chunked,
            self.options.body_timeout,
            expects,
        )
        has_body = chunked or self.content_length
        if has_body or self.command != "GET" or not is_websocket_request(environ):
            # gevent gives out the connection's file for each request with Connection: upgrade,
            # which nginx can be told to send always. What it reads then is never found again.
            environ["wsgi.input"] = body
            environ["wsgi.input_terminated"] = True
        return environ

    # -------------------------------------------------------------- the response

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """Start the response, PEP 3333."""
        error = getattr(self.wsgi_input, "error", None)
        if error is not None and error.status is not None and status.startswith("5"):
            status = error.status  # the application blames itself for a fault of the client
        return super().start_response(status, headers, exc_info)

    def finalize_headers(self) -> None:
        self.wsgi_input.refuse_continue()
        super().finalize_headers()

    def _sendall(self, data: bytes) -> None:
        """What gevent's handler sends with, within ``send_timeout``."""
        try:
            _send_all(self.socket, data, self.options.send_timeout)
        except OSError as problem:
            self.status = f"socket error: {problem}"
            if isinstance(problem, SSLError):
                # gevent would log a traceback of it.
                raise BrokenPipeError(errno.EPIPE, "the client has gone") from problem
            if not isinstance(problem, TimeoutError):
                raise
            self._drop()
            # gevent ends a connection with this error without a traceback.
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from problem
        self.response_length += len(data)

    def _drop(self) -> None:
        """Have the kernel forget what it holds for a client that does not read."""
        peers.log(logging.INFO, "%s did not read a response in time", self._peer)
        reset_at_close(self.socket)

    def handle_error(self, kind: Any, error: Any, traceback: Any) -> None:
        """Answer what the application has raised; a fault of the client is no error of ours."""
        if not isinstance(error, BodyError):
            super().handle_error(kind, error, traceback)
            return
        self.close_connection = True
        if error.status is not None and not self.response_length:
            headers = [("Connection", "close"), ("Content-Length", "0")]
            try:
                self.start_response(error.status, headers)
                self.write(b"")
            except OSError:
                pass  # the client has gone

    # --------------------------------------------------------------------- log

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        """The whole response to a request that could not be read; None just ends."""
        if self._is_late:
            self.log_error("it did not come in time")
            return _REQUEST_TIMEOUT
        if isinstance(ex, _Gone):
            return None
        if isinstance(ex, BadRequest):
            self.log_error(str(ex))
            discard_queued(self.socket)
            return ex.status[:3], _RESPONSE % ex.status.encode()
        return super()._handle_client_error(ex)  # type: ignore[misc, no-any-return]

    def log_error(self, msg: str, *args: Any) -> None:
        """What gevent has to say of a bad request; by itself it would have no limit."""
        peers.log(
            logging.INFO,
            "Bad request from %s: %s",
            self._peer,
            printable(msg % args if args else msg),
        )

    @property
    def _peer(self) -> str:
        return printable(str(self.client_address[0])) if self.client_address else "peer"

    def format_request(self) -> str:
        return printable(super().format_request(), limit=16 << 10)
