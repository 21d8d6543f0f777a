"""The WSGI servers that run on gevent: how to take a connection over from each.

A host knows where its server keeps the socket and the bytes it has read too far, how the ``101``
gets into its access log, and how the connection is given back so that nothing of it is parsed as
HTTP.
"""
from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gevent.socket import socket as gevent_socket

from .handshake import Headers

StartResponse = Callable[..., Callable[[bytes], object]]

SWITCHING = "101 Switching Protocols"


class Host:
    """One request of one server; the base of those below."""

    __slots__ = ("sock", "start_response")

    def __init__(self, sock: Any, start_response: StartResponse) -> None:
        self.sock = sock
        self.start_response = start_response

    def switch_protocols(self, headers: Headers) -> tuple[Any, bytes]:
        """Send the ``101``; returns the socket, and what the peer has sent behind the request."""
        early = self.take_early()
        self.send_101(self.start_response(SWITCHING, headers))
        return self.sock, early

    def send_101(self, write: Callable[[bytes], object]) -> None:
        """Make the server write the head of the response; ``write`` is PEP 3333's."""
        write(b"")

    def take_early(self) -> bytes:
        """The bytes behind the request that the server has read already; never blocks."""
        raise NotImplementedError

    def refusal(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The body of a response that is no WebSocket. The connection must not outlive it.

        A proxy in front may believe that the upgrade took place, and pass on what the client
        sends then as part of it: it must not be served as a request that the proxy never saw.
        """
        raise NotImplementedError


class Pywsgi(Host):
    """:mod:`gevent.pywsgi`, by itself or inside gunicorn's gevent_pywsgi worker."""

    __slots__ = ("rfile",)

    def __init__(self, sock: Any, rfile: Any, start_response: StartResponse) -> None:
        super().__init__(sock, start_response)
        self.rfile = rfile

    def take_early(self) -> bytes:
        if self.rfile is None:
            return b""  # nothing was buffered
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            buffered = self.rfile.peek()
            return bytes(self.rfile.read(len(buffered))) if buffered else b""
        except OSError:
            return b""  # a TLS socket that would block
        finally:
            self.sock.settimeout(timeout)

    def refusal(self, body: Iterable[bytes]) -> Iterable[bytes]:
        # The response says Connection: close, and pywsgi obeys.
        return body


class Gunicorn(Host):
    """gunicorn's gevent worker."""

    __slots__ = ("unreader",)

    def __init__(self, sock: Any, unreader: Any, start_response: StartResponse) -> None:
        super().__init__(sock, start_response)
        self.unreader = unreader

    def take_early(self) -> bytes:
        if hasattr(self.unreader, "take_buffered"):
            return bytes(self.unreader.take_buffered())
        early = self.unreader.buf.getvalue()  # before gunicorn 27
        self.unreader.buf.seek(0)
        self.unreader.buf.truncate()
        return bytes(early)

    def send_101(self, write: Callable[[bytes], object]) -> None:
        response = getattr(write, "__self__", None)
        if getattr(response, "chunked", False):
            response.chunked = False  # type: ignore[union-attr] # gunicorn before 26.1: even a 101
        write(b"")

    def refusal(self, body: Iterable[bytes]) -> Iterable[bytes]:
        return _Last(body, self)


class _Last:
    """The body of the last response on a connection of gunicorn, which keeps it open otherwise."""

    def __init__(self, body: Iterable[bytes], host: Gunicorn) -> None:
        self._body = body
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Called by gunicorn when the response is written, before it reads again."""
        if hasattr(self._body, "close"):
            self._body.close()
        self._host.take_early()
        try:
            self._host.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the peer was quicker


def find_host(environ: Mapping[str, Any], start_response: StartResponse) -> Host:
    """The host of a request.

    :raises RuntimeError: when the server is not one that runs on gevent.
    """
    body = environ.get("wsgi.input")
    sock = environ.get("gunicorn.socket")
    if isinstance(sock, gevent_socket):
        return Gunicorn(sock, body.reader.unreader, start_response)  # type: ignore[union-attr]
    rfile = getattr(body, "rfile", body)  # pywsgi's Input has the connection's file in rfile
    sock = getattr(getattr(rfile, "raw", None), "_sock", None)
    if isinstance(sock, gevent_socket):
        return Pywsgi(sock, rfile, start_response)
    raise RuntimeError(
        "geventws needs a WSGI server on gevent: geventws.WebSocketServer, gevent.pywsgi, or"
        " gunicorn with -k geventws.Worker, -k gevent or -k gevent_pywsgi; not"
        f" {environ.get('SERVER_SOFTWARE', 'this one')}"
    )
