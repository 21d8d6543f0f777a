"""gevent's handler of HTTP requests, with deadlines, and quiet about what clients do wrong."""
from __future__ import annotations

import logging
import socket
from http.client import HTTPException
from typing import Any

from gevent import get_hub
from gevent.pywsgi import WSGIHandler

from .logs import peers, printable
from .options import Options
from .sweeper import sweeper_of

_RESPONSE = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_REQUEST_TIMEOUT = "408", _RESPONSE % b"408 Request Timeout"
_TOO_LARGE = "431", _RESPONSE % b"431 Request Header Fields Too Large"


class _Gone(ValueError):
    """The client has gone in the middle of its request."""


class _TooLarge(ValueError):
    """The headers of a request are larger than they may be."""


class _Head:
    """The lines of a request's head, up to a size."""

    def __init__(self, rfile: Any, left: int) -> None:
        self._rfile = rfile
        self._left = left

    def readline(self, size: int) -> bytes:
        line: bytes = self._rfile.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise _TooLarge("its headers are too large")
        return line


class HTTPHandler(WSGIHandler):
    """Ends connections that do not send the head of a request in time (slow-loris).

    The time for it begins when the connection is there, or with the end of the response before.
    """

    _due: int
    #: Whether the sweeper is asked to look at this connection.
    _is_watched = False
    _is_late = False

    def handle(self) -> None:
        self._watch(self.websocket_options.handshake_timeout)
        try:
            super().handle()
        except OSError:
            pass  # the client has gone; it was about to be told what is wrong with its request
        finally:
            self._unwatch()

    def handle_one_response(self) -> None:
        self._unwatch()
        super().handle_one_response()
        if not self.close_connection:
            self._watch(self.websocket_options.keep_alive_timeout)

    @property
    def websocket_options(self) -> Options:
        """The options of the server, or else of this class."""
        server: Any = self.server
        options: Options | None = getattr(server, "websocket_options", None)
        if options is None:
            # A plain WSGIServer: what the handler says holds for all of its requests.
            options = server.websocket_options = Options.of(type(self), {}, server.application)
        return options

    # --------------------------------------------------------------- deadlines

    def _watch(self, seconds: float | None) -> None:
        if seconds is not None:
            self._is_watched = True
            sweeper_of(get_hub()).add(self, seconds)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            sweeper_of(get_hub()).remove(self)

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

    def read_request(self, raw_requestline: str) -> Any:
        """Parse the head of a request.

        :raises ValueError: for a request that is malformed, too late, or not whole.
        """
        try:
            understood = super().read_request(raw_requestline)
        except OSError as problem:
            raise _Gone from problem
        except (HTTPException, LookupError) as problem:
            # More than 100 headers, HTTP/1 without a minor version.
            raise ValueError(f"{type(problem).__name__}: {problem}") from problem
        if self._is_late:
            raise _Gone  # what was read is cut off
        return understood

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802 - gevent's name for it
        """Parse the headers."""
        head: Any = _Head(rfile, self.websocket_options.max_header_size)
        return super().MessageClass(head, *args)

    # --------------------------------------------------------------------- log

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        """The whole response to a request that could not be read; None just ends."""
        if self._is_late:
            self.log_error("it did not come in time")
            return _REQUEST_TIMEOUT
        if isinstance(ex, _Gone):
            return None
        if isinstance(ex, _TooLarge):
            self.log_error(str(ex))
            return _TOO_LARGE
        return super()._handle_client_error(ex)  # type: ignore[misc, no-any-return]

    def log_error(self, msg: str, *args: Any) -> None:
        """What gevent has to say of a bad request; by itself it would have no limit."""
        peer = self.client_address[0] if self.client_address else "peer"
        peers.log(
            logging.INFO, "Bad request from %s: %s", printable(str(peer)),
            printable(msg % args if args else msg),
        )

    def format_request(self) -> str:
        return printable(super().format_request(), limit=16 << 10)
