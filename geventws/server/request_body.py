"""The body of an HTTP request, as an application reads it from ``wsgi.input``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from .request_head import BadRequest, parse_header_line

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The most bytes that are read at once, so that memory follows what has come.
_PIECE = 64 << 10
#: The longest line with the size of a chunk, and the longest trailer.
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
#: RFC 9110 section 6.5.1: what says where a message ends, whom it is for or who sends it.
_NO_TRAILERS = {
    "authorization",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
}


class BodyError(OSError):
    """The body of a request cannot be read: it is malformed, cut off or too late.

    ``status`` is what to answer; None when there is nobody who would read the answer.
    """

    def __init__(self, message: str, status: str | None) -> None:
        super().__init__(message)
        self.status = status


class BodyTimeoutError(BodyError, TimeoutError):
    """The client has stopped sending the body."""


class Body:
    """The body of a request, PEP 3333: reading beyond its end returns ``b""``.

    After a :exc:`BodyError` each further reading raises it again: nobody knows where the next
    request would begin.
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
        rfile: Any,
        sock: Any = None,
        content_length: int = 0,
        chunked: bool = False,
        timeout: float | None = None,
        awaits_continue: bool = False,
    ) -> None:
        #: The connection's file. In ``rfile.raw._sock`` is its socket.
        self.rfile = rfile
        #: Why the body cannot be read.
        self.error: BodyError | None = None
        self._sock = sock
        self._timeout = timeout
        self._awaits_continue = awaits_continue
        #: How much there is to read, of the chunk that was begun if there are chunks.
        self._left = content_length
        self._reads_chunks = chunked

    def read(self, size: int | None = None) -> bytes:
        """Up to ``size`` bytes, or all that are left; fewer only at the end.

        :raises BodyError: an :exc:`OSError`; when the client sends what is malformed, goes away,
            or sends nothing for ``body_timeout`` seconds.
        """
        return self._collect(self.rfile.read, size)

    def readline(self, size: int | None = None) -> bytes:
        """The next line with its end, or its first ``size`` bytes; see :meth:`read`."""
        return self._collect(self.rfile.readline, size, stop_at=b"\n")

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """All lines that are left; see :meth:`read`."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def refuse_continue(self) -> None:
        """From now on the client gets no ``100 Continue``: it gets a response."""
        self._awaits_continue = False

    def _discard(self) -> None:
        """Read what the application has left; gevent's handler calls this after the response."""
        self.refuse_continue()
        if not self._left and not self._reads_chunks:
            return
        try:
            while self.error is None and self.read(_PIECE):
                pass
        except BodyError:
            pass  # the handler sees the error, and ends the connection

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
        """Whether there is something to read; begins the next chunk if it must."""
        if self._awaits_continue and (self._left or self._reads_chunks):
            self._awaits_continue = False
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
            raise _malformed("a line of its body is too long")
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
        """Read and ignore the trailers, RFC 9112 section 7.1.2."""
        for _ in range(_MAX_TRAILERS):
            line = self._read_line()
            if line == b"\r\n":
                return
            try:
                name, _value = parse_header_line(line)
            except BadRequest:
                raise _malformed("a trailer is malformed") from None
            if name.lower() in _NO_TRAILERS:
                raise _malformed(f"it has the trailer {name}")
        raise _malformed("it has too many trailers")


class _Deadline:
    """While a body is read: how long the client may send nothing.

    The time of a socket begins anew with everything that comes, so that it counts progress.
    """

    __slots__ = ("_before", "_body")

    def __init__(self, body: Body) -> None:
        self._body = body

    def __enter__(self) -> None:
        sock = self._body._sock
        if sock is not None:
            self._before = sock.gettimeout()
            sock.settimeout(self._body._timeout)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        body = self._body
        if body._sock is not None:
            body._sock.settimeout(self._before)
        if isinstance(error, BodyError):
            body.error = error
        elif isinstance(error, TimeoutError):
            body.error = BodyTimeoutError("its body did not come in time", "408 Request Timeout")
        elif isinstance(error, OSError):
            body.error = BodyError(str(error), None)
        elif error is not None:
            # GreenletExit, or a gevent.Timeout of the view: some of the body may be lost.
            body.error = BodyError("the reading of its body was interrupted", None)
            return
        if body.error is not None and error is not body.error:
            raise body.error from error


def _malformed(message: str) -> BodyError:
    return BodyError(message, "400 Bad Request")
