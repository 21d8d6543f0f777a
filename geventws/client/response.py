"""Read the response to an opening handshake, or of a proxy, from a socket."""

from __future__ import annotations

import io
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import Any

from gevent import sleep

from ..exceptions import HandshakeError
from ..protocol.client_handshake import Response, parse_response
from .dialling import Expired

#: The most bytes of a response's head, with the interim responses before it, and of the body of a
#: refusal, as it is transferred.
_MAX_HEAD = 64 << 10
_MAX_BODY = 1 << 20
#: How many bytes of a body are read at once: 2 ms of work if its chunks have one byte each.
_PIECE = 4096
#: For how many seconds a body is read without a pause for other greenlets, and for how many the
#: pause lasts. With sleep(0), gevent calls back 50 times before it looks at timers and sockets.
_SLICE, _PAUSE = 0.002, 1e-4


def read_response(sock: Any) -> tuple[Response, bytes]:
    """The head of the response and what came behind it; interim responses are passed over."""
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
            raise HandshakeError("", f"the answer has a head of more than {_MAX_HEAD} bytes")
        searched = max(start, len(data) - 3)
        more = sock.recv(16384)
        if not more:
            raise HandshakeError("", "the server closed the connection without an answer")
        data += more


def read_body(sock: Any, response: Response, early: bytes) -> bytes:
    """The body of a refusal, as far as it comes in time, is well-formed and at most 1 MiB.

    :param early: what was read behind the head.
    """
    body = bytearray()
    rest = _Rest(sock, _framing(response) + early)
    parser = HTTPResponse(rest)  # type: ignore[arg-type] # it needs no more than makefile()
    try:
        parser.begin()
        while piece := parser.read1(_PIECE):
            body += piece
    except (HTTPException, OSError, OverflowError, Expired):
        pass  # what has come tells more than this; a negative size of a chunk may overflow
    finally:
        parser.close()
    return bytes(body)


def _framing(response: Response) -> bytes:
    """As much of a response's head as says where its body ends, RFC 9112 section 6.3."""
    fields = ""
    codings = response.get("Transfer-Encoding").lower()
    length = response.get("Content-Length")
    if codings.rpartition(",")[2].strip(" \t") == "chunked":
        fields = "Transfer-Encoding: chunked\r\n"
    elif not codings and length.isdecimal():
        fields = f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {response.code} \r\n{fields}\r\n".encode("latin-1")


class _Rest(io.RawIOBase):
    """The bytes that have been read from a socket, then up to 1 MiB that are still to come."""

    def __init__(self, sock: Any, data: bytes) -> None:
        self._sock = sock
        self._data = memoryview(data)
        self._left = _MAX_BODY
        self._paused = monotonic()

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file for :class:`http.client.HTTPResponse`."""
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._data and self._left:
            if monotonic() - self._paused > _SLICE:
                # A socket that always has something to read never lets the loop run.
                sleep(_PAUSE)
                self._paused = monotonic()
            self._data = memoryview(self._sock.recv(min(_PIECE, self._left)))
            self._left -= len(self._data)
        size = min(len(buffer), len(self._data))
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size
