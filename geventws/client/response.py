"""Read the response of a server or a proxy from a socket."""

from __future__ import annotations

import io
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import sleep

from ..exceptions import HandshakeError
from ..protocol.client_handshake import Response, parse_response
from .dialling import Expired

if TYPE_CHECKING:
    from gevent.socket import socket

#: The maximum size of the head of a response, including interim responses, in bytes.
_MAX_HEAD = 64 << 10
#: The maximum size of a body as it is transferred, in bytes.
_MAX_BODY = 1 << 20
#: Bytes of a body that are read at once. They take at most 2 ms, for chunks of one byte each.
_PIECE = 4096
#: Seconds that a body is read without a pause for other greenlets, and seconds of the pause. After
#: sleep(0), gevent would run 50 callbacks before it handles timers and sockets.
_SLICE, _PAUSE = 0.002, 1e-4


def read_response(sock: socket) -> tuple[Response, bytes]:
    """Return the head of the response, and the bytes after it that were read. Blocks.

    Interim responses are skipped.

    :raises HandshakeError: if the head is too large or incomplete.
    """
    data = bytearray()
    start = searched = 0
    while True:
        end = data.find(b"\r\n\r\n", searched)
        if end >= 0:
            response = parse_response(bytes(data[start:end]))
            start = searched = end + 4
            if response.code >= 200 or response.code == 101:
                return response, bytes(data[start:])
            continue  # RFC 9110 section 15.2: a client may ignore other interim responses
        if len(data) > _MAX_HEAD:
            raise HandshakeError("", f"the response has a head of more than {_MAX_HEAD} bytes")
        searched = max(start, len(data) - 3)
        more = sock.recv(16384)
        if not more:
            raise HandshakeError("", "the server closed the connection without a response")
        data += more


def read_body(sock: socket, response: Response, early: bytes) -> bytes:
    """Return the body of a refusal. Blocks, until a :func:`~.dialling.time_limit` if there is one.

    The body is cut off after 1 MiB, at the end of the time limit, and at a malformed chunk.

    :param early: the bytes after the head that were already read.
    """
    body = bytearray()
    rest = _Rest(sock, _framing(response) + early)
    parser = HTTPResponse(rest)  # type: ignore[arg-type] # only makefile() is used
    try:
        parser.begin()
        while piece := parser.read1(_PIECE):
            body += piece
    except (HTTPException, OSError, OverflowError, Expired):
        pass  # the first part of the body is more useful; a negative chunk size may overflow
    finally:
        parser.close()
    return bytes(body)


def _framing(response: Response) -> bytes:
    """Return a head with only the headers that define the length of the body (RFC 9112 6.3)."""
    fields = ""
    codings = response.get("Transfer-Encoding").lower()
    length = response.get("Content-Length")
    is_chunked = codings.rpartition(",")[2].strip(" \t") == "chunked"
    if is_chunked and response.code not in {204, 304}:  # these have no body
        fields = "Transfer-Encoding: chunked\r\n"
    elif not codings and length.isdecimal():
        fields = f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {response.code} \r\n{fields}\r\n".encode("latin-1")


class _Rest(io.RawIOBase):
    """A raw file of the bytes that were already read, followed by up to 1 MiB from the socket."""

    def __init__(self, sock: socket, data: bytes) -> None:
        self._sock = sock
        self._data = memoryview(data)
        self._left = _MAX_BODY
        self._paused = monotonic()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file for :class:`http.client.HTTPResponse`."""
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # Any: its type exists only in typeshed
        if not self._data and self._left:
            if monotonic() - self._paused > _SLICE:
                # A socket with data never blocks, so that no other greenlet would run.
                sleep(_PAUSE)
                self._paused = monotonic()
            self._data = memoryview(self._sock.recv(min(_PIECE, self._left)))
            self._left -= len(self._data)
        size = min(len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size
