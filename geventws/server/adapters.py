"""The WSGI servers that run on gevent: how to take a connection over from each.

A host knows where its server keeps the socket and the bytes that the server has read too far, and
how the ``101`` gets into the server's access log. It also takes the server's reader away, so that
nothing that follows on the connection is ever parsed as HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

from gevent.pywsgi import Input, WSGIHandler
from gevent.socket import socket as gevent_socket

from ..typing import Headers, StartResponse

SWITCHING = "101 Switching Protocols"
#: The most bytes that are taken from the kernel and discarded when a request is refused.
_MAX_DISCARD = 1 << 20


class Adapter:
    """One request of one server; the base of those below.

    From its construction on, the server's reader is at the end of input, whatever becomes of the
    request. A proxy in front may believe that the upgrade took place, and pass on what the client
    sends then: it must not be served as a request that the proxy never saw. A ``shutdown()`` of
    the socket is not enough: it leaves what is queued in the kernel, and what is below TLS.
    """

    __slots__ = ("_early", "_start_response", "sock")

    def __init__(self, sock: Any, start_response: StartResponse) -> None:
        self.sock = sock
        self._start_response = start_response
        self._early = self.seal()

    def seal(self) -> bytes:
        """Put the server's reader at the end of input for good.

        Returns the bytes behind the request that the server has read already; never blocks.
        """
        raise NotImplementedError

    def switch_protocols(self, headers: Headers) -> tuple[Any, bytes]:
        """Send the ``101``; returns the socket, and what the peer has sent behind the request."""
        self.send_101(self._start_response(SWITCHING, headers))
        return self.sock, self.take_early()

    def take_early(self) -> bytes:
        """The bytes behind the request that the server had read, once."""
        early, self._early = self._early, b""
        return early

    def send_101(self, write: Callable[[bytes], object]) -> None:
        """Make the server write the head of the response; ``write`` is PEP 3333's."""
        write(b"")

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Start a response that is not the ``101``, PEP 3333; it is the last of the connection."""
        return self._start_response(status, headers, exc_info)

    def refusal(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The body of a response that is not the ``101``, to be returned to the server.

        Discards what is queued in the kernel: see :func:`discard_queued`.
        """
        discard_queued(self.sock)
        return body


class PywsgiAdapter(Adapter):
    """:mod:`gevent.pywsgi`, by itself or inside gunicorn's gevent_pywsgi worker."""

    __slots__ = ("rfile",)

    def __init__(self, sock: Any, rfile: Any, start_response: StartResponse) -> None:
        self.rfile = rfile
        super().__init__(sock, start_response)

    def seal(self) -> bytes:
        body = plain_input(self._start_response)
        if isinstance(body, Input):
            # Do not look for a body behind a request that is refused.
            body.content_length, body.chunked_input = 0, False
        if self.rfile is None:
            return b""  # nothing was buffered, and there is nothing to read with
        # The attributes stay, for those that look for the socket in wsgi.input.raw._sock.
        self.rfile.raw.readinto = _read_into_nothing
        buffered = self.rfile.peek()
        return bytes(self.rfile.read(len(buffered))) if buffered else b""


class GunicornAdapter(Adapter):
    """gunicorn's gevent worker."""

    __slots__ = ("unreader",)

    def __init__(self, sock: Any, unreader: Any, start_response: StartResponse) -> None:
        self.unreader = unreader
        super().__init__(sock, start_response)

    def seal(self) -> bytes:
        unreader = self.unreader
        # The parser, its request and the request's body share this object. The body may hold what
        # it has read too far, and give it back.
        unreader.chunk = unreader.read = unreader.unread = _read_nothing
        early = bytes(unreader.buf.getvalue())
        unreader.buf.seek(0)
        unreader.buf.truncate()
        return early

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        response: Any = getattr(self._start_response, "__self__", None)
        if hasattr(response, "force_close"):
            # gunicorn drops the header Connection: close, and would announce keep-alive.
            response.force_close()
        return super().start_response(status, headers, exc_info)

    def send_101(self, write: Callable[[bytes], object]) -> None:
        response = getattr(write, "__self__", None)
        if getattr(response, "chunked", False):
            response.chunked = False  # type: ignore[union-attr] # gunicorn before 26.1: even a 101
        write(b"")


def _read_into_nothing(buffer: Any) -> int:
    """Be at the end of input: the ``readinto()`` of a raw file."""
    return 0


def _read_nothing(*_arguments: Any, **_keywords: Any) -> bytes:
    """Be at the end of input: the methods of gunicorn's unreader."""
    return b""


def discard_queued(sock: Any) -> None:
    """Discard what the kernel has queued for a connection that is about to be closed.

    To close it would answer those bytes with a RST, which can overtake the last response.
    """
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        left = _MAX_DISCARD
        while left > 0 and (data := sock.recv(64 << 10)):
            left -= len(data)
    except OSError:
        pass  # there is nothing more, or the peer has gone
    finally:
        sock.settimeout(timeout)


def plain_input(start_response: StartResponse) -> Any:
    """The body of a request as pywsgi reads it; None under another server.

    Also None if some middleware has replaced ``start_response``.
    """
    handler = getattr(start_response, "__self__", None)
    return handler.wsgi_input if isinstance(handler, WSGIHandler) else None


def restore_body(environ: MutableMapping[str, Any], start_response: StartResponse) -> None:
    """Give a plain request its body under pywsgi, whatever its header Connection says.

    gevent hands out the connection's file for each request with ``Connection: upgrade``, which
    nginx can be told to send always. A view that reads it waits for the next request, and takes it.
    """
    body = plain_input(start_response)
    if body is not None and environ.get("wsgi.input") is body.rfile:
        environ["wsgi.input"] = body
        environ["wsgi.input_terminated"] = True


def find_adapter(environ: Mapping[str, Any], start_response: StartResponse) -> Adapter:
    """The host of a request for a WebSocket; its server reads nothing any more.

    :raises RuntimeError: when the server is not one that runs on gevent.
    """
    body = environ.get("wsgi.input")
    sock = environ.get("gunicorn.socket")
    unreader = _find_unreader(body, start_response)
    if isinstance(sock, gevent_socket) and unreader is not None:
        return GunicornAdapter(sock, unreader, start_response)
    if not hasattr(body, "raw") and not hasattr(body, "rfile"):
        body = plain_input(start_response)  # a middleware has replaced it
    rfile = getattr(body, "rfile", body)  # pywsgi's Input has the connection's file in rfile
    sock = getattr(getattr(rfile, "raw", None), "_sock", None)
    if isinstance(sock, gevent_socket):
        return PywsgiAdapter(sock, rfile, start_response)
    raise RuntimeError(
        "geventws needs a WSGI server on gevent: geventws.WebSocketServer, gevent.pywsgi, or"
        " gunicorn with -k geventws.Worker, -k gevent or -k gevent_pywsgi; not"
        f" {environ.get('SERVER_SOFTWARE', 'this one')}"
    )


def _find_unreader(body: Any, start_response: StartResponse) -> Any:
    """What gunicorn reads the connection with; None if it cannot be found."""
    reader = getattr(body, "reader", None)
    response = getattr(start_response, "__self__", None)
    # A body in chunks has a reader that knows its request only; a middleware may have replaced
    # the body.
    holders: list[Any] = [reader, getattr(reader, "req", None), getattr(response, "req", None)]
    return next((each.unreader for each in holders if hasattr(each, "unreader")), None)
