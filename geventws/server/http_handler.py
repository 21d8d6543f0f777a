"""A handler for HTTP requests: gevent's, with a strict parser, time limits and limited logging."""

from __future__ import annotations

import errno
import logging
import socket
from ssl import SSLError
from typing import TYPE_CHECKING, Any

from gevent.pywsgi import WSGIHandler

from ..connection.hub import hub_state
from ..connection.logs import name_of_peer, peers, printable
from ..connection.tcp import reset_at_close, unacknowledged
from ..options import Options
from ..protocol.headers import has_token
from ..typing import Environ, ExcInfo, Headers
from .adapters import discard_queued
from .configuration import combine_options
from .request_body import Body, BodyError
from .request_head import (
    CLIENT_HELLO,
    TLS_ON_PLAIN_PORT,
    BadRequest,
    check_fields,
    parse_header_line,
    parse_request_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedIOBase
    from types import TracebackType

    from gevent.pywsgi import OldMessage

_RESPONSE = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
#: The class of the headers of a request.
_Message: type[OldMessage] = type(WSGIHandler.headers)
_CLIENT_HELLO = CLIENT_HELLO.decode()
_REQUEST_TIMEOUT = "408", _RESPONSE % b"408 Request Timeout"
#: The maximum number of bytes for one call of send().
_PIECE = 64 << 10


def _send_all(sock: socket.socket, data: bytes, seconds: float | None) -> None:
    """Send all data.

    :raises TimeoutError: if the client acknowledges nothing for ``seconds``.
    """
    left = memoryview(data)
    previous_timeout = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        while left:
            queued = unacknowledged(sock)
            try:
                left = left[sock.send(left[:_PIECE]) :]
            except TimeoutError:
                # The kernel reports a writable socket when a third of its buffer is free, which may
                # be a megabyte. Acknowledged bytes show whether the client reads.
                if unacknowledged(sock) >= queued:
                    raise
    finally:
        sock.settimeout(previous_timeout)


class _Disconnected(ValueError):
    """The client disconnected in the middle of its request."""


class HTTPHandler(WSGIHandler):
    """A handler that drops clients that do not send their request or read the response in time.

    The time for the head of a request starts with the connection, or with the end of the previous
    response. The time for the body of a request and for the response restarts with every progress.
    """

    wsgi_input: Any  # a Body; gevent's annotation is another class
    _due: int
    #: Whether the sweeper checks this connection.
    _is_watched = False
    #: Seconds that the connection has waited for its first bytes without a handler.
    _waited = 0.0
    #: Whether the time for the head is over.
    _is_late = False

    def handle(self) -> None:
        timeout = self.options.handshake_timeout
        self._watch(None if timeout is None else timeout - self._waited)
        try:
            super().handle()
        except OSError:
            pass  # the client disconnected before it got the response to its bad request
        finally:
            self._unwatch()

    def handle_one_response(self) -> None:
        self._unwatch()
        super().handle_one_response()
        if self.code == 101:
            self.close_connection = True  # RFC 9110 section 7.8: the next bytes are not HTTP
        error = getattr(self.wsgi_input, "error", None)
        if error is not None:
            # The beginning of the next request is unknown.
            self.close_connection = True
            if error.status is not None:
                self.log_error(str(error))
                discard_queued(self.socket)
        if not self.close_connection:
            self._watch(self.options.keep_alive_timeout)

    @property
    def options(self) -> Options:
        """The options of the server. A plain ``WSGIServer`` gets the options of this class."""
        server: Any = self.server  # a plain WSGIServer gets the attribute here
        options = getattr(server, "options", None)
        if not isinstance(options, Options):  # a subclass of WSGIServer may have its own `options`
            options = getattr(server, "_geventws_options", None)
        if options is None:
            options = combine_options(type(self), {}, server.application)
            server._geventws_options = options
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
        """End the read of a request that is late. Called in the hub."""
        self._is_watched = False
        self._is_late = True
        try:
            # The underlying socket: the method of gevent's SSLSocket would disable TLS.
            self.socket._sock.shutdown(socket.SHUT_RD)  # type: ignore[attr-defined]
        except OSError:
            pass  # the client has already disconnected

    def _abandon(self) -> None:
        """Do nothing after a fork: gevent lets parent and child read from the connection."""

    def _release(self) -> None:
        """Do nothing after a fork: the handler has no watchers."""

    # ------------------------------------------------------------------ the head

    def read_requestline(self) -> str:
        if self.rfile.peek(len(CLIENT_HELLO)).startswith(CLIENT_HELLO):
            return _CLIENT_HELLO  # there may be no line feed to wait for
        line = super().read_requestline()
        if line == "\r\n":
            # RFC 9112 section 2.2: "SHOULD ignore at least one empty line".
            line = super().read_requestline()
        return line

    # Any: gevent returns a bool, which is not its annotation.
    def read_request(self, raw_requestline: str) -> Any:
        """Parse the head of a request.

        :raises ValueError: if the request is malformed, late or incomplete.
        """
        try:
            is_valid = self._read_request(raw_requestline)
        except OSError as problem:
            raise _Disconnected from problem
        if self._is_late:
            raise _Disconnected  # the head is incomplete
        return is_valid

    def _read_request(self, raw_requestline: str) -> Any:
        if raw_requestline == _CLIENT_HELLO:
            raise BadRequest(TLS_ON_PLAIN_PORT)
        if not raw_requestline.endswith("\n"):
            raise _Disconnected
        line = parse_request_line(raw_requestline)
        self.request_version = line.version
        is_valid = super().read_request(raw_requestline)
        self.path = line.target
        if line.host is not None:
            # RFC 9112 section 3.2.2: "MUST ignore the received Host header field".
            del self.headers["Host"]
            self.headers["Host"] = line.host
        connection = self.headers.get_all("Connection", ())
        if line.method == "CONNECT" or any(has_token(value, "close") for value in connection):
            # RFC 9112 section 9.3. After CONNECT, the bytes are not HTTP (RFC 9110 section 9.3.6).
            self.close_connection = True
        return is_valid

    def MessageClass(self, rfile: BufferedIOBase, *args: object) -> OldMessage:  # noqa: N802 - gevent's name
        """Read and return the headers; several times faster than gevent's parser."""
        message = _Message()
        fields = []
        left = self.options.max_header_size
        while True:
            line = rfile.readline(left + 1)
            left -= len(line)
            if left < 0:
                raise BadRequest("the headers are too large", "431 Request Header Fields Too Large")
            if line == b"\r\n":
                break
            if not line.endswith(b"\n"):
                raise _Disconnected  # RFC 9112 section 8: the request is incomplete
            name, value = parse_header_line(line)
            fields.append((name.lower(), value))
            message[name] = value
        check_fields(fields, self.request_version)  # type: ignore[arg-type]
        return message

    def _headers(self) -> Iterator[tuple[str, str]]:
        """Return the CGI variables of the headers. Called by gevent's handler.

        gevent's method also strips characters that are not whitespace in HTTP (RFC 9110 section
        5.6.3), such as the no-break space.
        """
        for name, value in self.headers.items():
            variable = name.upper().replace("-", "_")
            # A header with an underscore would get the variable of another header (X_Y and X-Y).
            if "_" not in name and variable not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
                yield f"HTTP_{variable}", value

    # ------------------------------------------------------------------ the body

    def get_environ(self) -> Environ:
        environ: Environ = super().get_environ()
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        expects = "HTTP_EXPECT" in environ and self.request_version != "HTTP/1.0"  # 9110 10.1.1
        # For Connection: upgrade, gevent sets the file of the connection. Some nginx configurations
        # always send this header, and reading would consume the next request.
        environ["wsgi.input"] = self.wsgi_input = Body(
            self.rfile,
            self.socket,
            self.content_length or 0,
            chunked,
            self.options.body_timeout,
            expects,
        )
        environ["wsgi.input_terminated"] = True
        return environ

    # -------------------------------------------------------------- the response

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Start the response (PEP 3333)."""
        error = getattr(self.wsgi_input, "error", None)
        if error is not None and error.status is not None and status.startswith("5"):
            status = error.status  # the client caused this error, not the application
        return super().start_response(status, headers, exc_info)

    def finalize_headers(self) -> None:
        self.wsgi_input.refuse_continue()
        super().finalize_headers()

    def _sendall(self, data: bytes) -> None:
        """Send data with the time limit ``send_timeout``. Called by gevent's handler."""
        try:
            _send_all(self.socket, data, self.options.send_timeout)
        except OSError as problem:
            self.status = f"socket error: {problem}"
            if isinstance(problem, SSLError):
                # gevent would log a traceback of an SSLError.
                raise BrokenPipeError(errno.EPIPE, "the client has disconnected") from problem
            if not isinstance(problem, TimeoutError):
                raise
            self._drop()
            # After a BrokenPipeError, gevent closes the connection without a traceback.
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from problem
        self.response_length += len(data)

    def _drop(self) -> None:
        """Discard the unsent data of a client that does not read."""
        peers.log(logging.INFO, "%s did not read a response in time", self._peer)
        reset_at_close(self.socket)

    def handle_error(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer an exception of the application. A :exc:`BodyError` was caused by the client."""
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
                pass  # the client has disconnected

    # --------------------------------------------------------------------- log

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        """Return the response to a request that could not be read; ``None`` sends none."""
        if self._is_late:
            self.log_error("the request did not arrive in time")
            return _REQUEST_TIMEOUT
        if isinstance(ex, _Disconnected):
            return None
        if isinstance(ex, BadRequest):
            self.log_error(str(ex))
            discard_queued(self.socket)
            return ex.status[:3], _RESPONSE % ex.status.encode()
        return super()._handle_client_error(ex)  # type: ignore[misc, no-any-return]

    def log_error(self, msg: str, *args: object) -> None:
        """Log a bad request. Called by gevent, which would not limit the number of lines."""
        peers.log(
            logging.INFO,
            "Bad request from %s: %s",
            self._peer,
            printable(msg % args if args else msg),
        )

    @property
    def _peer(self) -> str:
        return name_of_peer(self.client_address, self.socket)

    def format_request(self) -> str:
        return printable(super().format_request(), limit=16 << 10)
