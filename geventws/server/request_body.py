"""The body of an HTTP request: the file object ``wsgi.input`` (PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any

from .request_head import BadRequest, parse_header_line

if TYPE_CHECKING:
    from types import TracebackType

    from gevent.socket import socket

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Bytes that are read at once. No memory is allocated for bytes that have not arrived.
_PIECE = 64 << 10
#: The maximum length of a line with the size of a chunk, and of a trailer line.
_MAX_LINE = 8190
_MAX_TRAILERS = 100
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED_STRING = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
#: RFC 9112 section 7.1, with the extensions of section 7.1.1.
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*"
    + _TOKEN
    + rb"(?:[ \t]*=[ \t]*(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED_STRING
    + rb"))?)*\r\n"
)
#: Headers for framing, routing and authentication are not allowed as trailers (RFC 9110 6.5.1).
_FORBIDDEN_TRAILERS = {
    "authorization",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
}


class BodyError(OSError):
    """The body of a request cannot be read: it is malformed, incomplete or late.

    ``status`` is the HTTP status of the response; ``None`` if no response can be sent.
    """

    def __init__(self, message: str, status: str | None) -> None:
        super().__init__(message)
        self.status = status


class BodyTimeoutError(BodyError, TimeoutError):
    """The client has sent no part of the body for ``body_timeout`` seconds."""


class Body:
    """The body of a request (PEP 3333). At its end, all methods return ``b""``.

    After a :exc:`BodyError`, every further read raises it again.
    """

    __slots__ = (
        "_awaits_continue",
        "_left",
        "_reads_chunks",
        "_sock",
        "_timeout",
        "error",
        "rfile",
    )

    def __init__(
        self,
        rfile: BufferedReader,
        sock: socket | None = None,
        content_length: int = 0,
        chunked: bool = False,
        timeout: float | None = None,
        awaits_continue: bool = False,
    ) -> None:
        #: The file of the connection. Its socket is ``rfile.raw._sock``.
        self.rfile = rfile
        #: The exception of an earlier read.
        self.error: BodyError | None = None
        self._sock = sock
        self._timeout = timeout
        self._awaits_continue = awaits_continue
        #: The number of bytes left: of the current chunk, or of the whole body without chunks.
        self._left = content_length
        self._reads_chunks = chunked

    def read(self, size: int | None = None) -> bytes:
        """Return ``size`` bytes, or all bytes without ``size``. Only at the end, return fewer.

        Blocks until they have arrived.

        :raises BodyError: if the body is malformed, the client disconnects, or it sends nothing for
            ``body_timeout`` seconds. ``BodyError`` is an :exc:`OSError`.
        """
        return self._collect(self.rfile.read, size)

    def readline(self, size: int | None = None) -> bytes:
        """Return the next line with its end, or its first ``size`` bytes; see :meth:`read`."""
        return self._collect(self.rfile.readline, size, stop_at=b"\n")

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Return all remaining lines; see :meth:`read`."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def refuse_continue(self) -> None:
        """Do not send ``100 Continue`` any more, because the response starts."""
        self._awaits_continue = False

    def _discard(self) -> None:
        """Read the rest of the body. gevent's handler calls this after the response."""
        self.refuse_continue()
        if not self._left and not self._reads_chunks:
            return
        try:
            while self.error is None and self.read(_PIECE):
                pass
        except BodyError:
            pass  # the handler checks `error`, and closes the connection

    def _collect(
        self, read: Callable[[int], bytes], size: int | None, stop_at: bytes | None = None
    ) -> bytes:
        if self.error is not None:
            raise self.error
        wanted = -1 if size is None or size < 0 else size
        pieces: list[bytes] = []
        with _Deadline(self):
            while wanted and self._find_more():
                most = min(self._left, _PIECE)
                piece = self._receive(read, most if wanted < 0 else min(most, wanted))
                pieces.append(piece)
                self._left -= len(piece)
                if wanted > 0:
                    wanted -= len(piece)
                if self._reads_chunks and not self._left:
                    self._read_end_of_chunk()
                if stop_at is not None and piece.endswith(stop_at):
                    break
        return b"".join(pieces)

    def _find_more(self) -> bool:
        """Return whether bytes are left. At the end of a chunk, read the size of the next one."""
        if self._awaits_continue and (self._left or self._reads_chunks):
            self._awaits_continue = False
            if self._sock is not None:
                self._sock.sendall(_CONTINUE)
        if not self._left and self._reads_chunks:
            self._left = self._read_chunk_size()
            if not self._left:
                self._reads_chunks = False
                self._read_trailers()
        return self._left > 0

    def _receive(self, read: Callable[[int], bytes], size: int) -> bytes:
        data = read(size)
        if not data:
            raise BodyError(
                "unexpected end of file while "
                + ("parsing chunked data" if self._reads_chunks else "reading request"),
                None,
            )
        return data

    def _read_line(self) -> bytes:
        line = self._receive(self.rfile.readline, _MAX_LINE)
        if len(line) == _MAX_LINE:
            raise _malformed("a line of the body is too long")
        return line

    def _read_chunk_size(self) -> int:
        line = self._read_line()
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise _malformed("the size of a chunk is malformed")
        return int(match[1], 16)

    def _read_end_of_chunk(self) -> None:
        if self._receive(self.rfile.read, 2) != b"\r\n":
            raise _malformed("a chunk is longer than its size")

    def _read_trailers(self) -> None:
        """Read and ignore the trailers (RFC 9112 section 7.1.2)."""
        for _ in range(_MAX_TRAILERS):
            line = self._read_line()
            if line == b"\r\n":
                return
            try:
                name, _value = parse_header_line(line)
            except BadRequest:
                raise _malformed("a trailer is malformed") from None
            if name.lower() in _FORBIDDEN_TRAILERS:
                raise _malformed(f"the trailer {name} is not allowed")
        raise _malformed("the body has too many trailers")


#: The body of a WebSocket request, which is always empty.
EMPTY_BODY = Body(BufferedReader(BytesIO()))


class EmptyInput:
    """The ``wsgi.input`` of a WebSocket request, until the ``101``.

    It is empty. Libraries such as simple-websocket find the socket in ``wsgi.input.raw._sock``, as
    under gevent's own handler.
    """

    __slots__ = ("_socket", "is_taken")

    def __init__(self, sock: socket) -> None:
        self._socket = sock
        #: Whether the application has taken the socket.
        self.is_taken = False

    @property
    def raw(self) -> EmptyInput:
        """The object with the socket: this one."""
        return self

    @property
    def _sock(self) -> socket:
        self.is_taken = True
        return self._socket

    def __getattr__(self, name: str) -> Any:
        return getattr(EMPTY_BODY, name)  # Any: the methods of a file

    def __iter__(self) -> Iterator[bytes]:
        return iter(EMPTY_BODY)


class _Deadline:
    """The time limit of a read.

    It is the timeout of the socket, which restarts with all data that arrives.
    """

    __slots__ = ("_body", "_previous_timeout")

    def __init__(self, body: Body) -> None:
        self._body = body

    def __enter__(self) -> None:
        sock = self._body._sock
        if sock is not None:
            self._previous_timeout = sock.gettimeout()
            sock.settimeout(self._body._timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        body = self._body
        if body._sock is not None:
            body._sock.settimeout(self._previous_timeout)
        if isinstance(error, BodyError):
            body.error = error
        elif isinstance(error, TimeoutError):
            body.error = BodyTimeoutError("the body did not arrive in time", "408 Request Timeout")
        elif isinstance(error, OSError):
            body.error = BodyError(str(error), None)
        elif error is not None:
            # GreenletExit, or a gevent.Timeout of the view: a part of the body may be lost.
            body.error = BodyError("a read of the body was interrupted", None)
            return
        if body.error is not None and error is not body.error:
            raise body.error from error


def _malformed(message: str) -> BodyError:
    return BodyError(message, "400 Bad Request")
