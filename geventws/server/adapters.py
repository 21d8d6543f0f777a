"""Adapters to the WSGI servers on gevent: each takes a connection over from its server.

An adapter finds the socket, and the bytes that the server has read after the request. It sends the
``101`` through the server, for its access log. It also disables the server's reader: bytes after
the request are never parsed as HTTP.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from copy import copy
from io import BufferedReader
from typing import Any

from gevent import getcurrent, sleep
from gevent.pywsgi import Input, WSGIHandler
from gevent.socket import socket as gevent_socket
from gevent.ssl import SSLSocket

from ..connection.tcp import bytes_sent
from ..protocol.server_handshake import response_head
from ..typing import Environ, ExcInfo, Headers, StartResponse, Write
from .request_body import EmptyInput

SWITCHING = "101 Switching Protocols"
#: The maximum number of bytes that are read and discarded when a request is refused.
_MAX_DISCARD = 1 << 20
#: Seconds in which the event loop runs at least once.
_ONE_LOOP = 0.01
#: The maximum number of validators around a middleware.
_MAX_WRAPPERS = 4


class MiddlewareError(RuntimeError):
    """Middleware around ``WebSocketMiddleware`` makes WebSockets impossible."""


class Adapter:
    """The base class: one WebSocket request of one server.

    The constructor puts the server's reader at the end of input, for accepted and refused requests.
    A proxy in front of the server may assume that the upgrade took place, and forward further bytes
    of the client. These bytes must not be parsed as a request: the proxy has not checked it
    (request smuggling). ``shutdown()`` of the socket is not sufficient: bytes in the kernel's queue
    and in the TLS layer could still be read.
    """

    __slots__ = ("_early", "_sent_before", "_start_response", "lent", "sock")

    def __init__(self, sock: gevent_socket, start_response: StartResponse) -> None:
        self.sock = sock
        #: The object in the environ from which the application may take the socket.
        self.lent: object = None
        self._start_response = start_response
        self._early = self.disable_reader()
        self._sent_before = self.bytes_sent_before()

    def bytes_sent_before(self) -> int | None:
        """Return the number of bytes that were sent on the connection before the application."""
        return bytes_sent(self.sock)

    def is_used_by_application(self) -> bool:
        """Return whether the application itself has sent bytes on the connection.

        Libraries such as simple-websocket take the socket from the environ, and send their own
        ``101``. Where the system does not count bytes, such as for unix sockets, it is enough that
        they have taken the socket.
        """
        watcher: Any = getattr(self.sock, "_read_event", None)  # Any: private in gevent
        if watcher is not None and watcher.active:
            return True
        sent = bytes_sent(self.sock)
        if sent is None:
            return getattr(self.lent, "is_taken", False)
        return sent != self._sent_before

    def shut_down_output(self) -> None:
        """Signal the end to the client, after the application itself has used the connection.

        simple-websocket keeps a duplicate of the descriptor open until the client disconnects. But
        clients wait for the server (RFC 6455 section 7.1.1). TLS sockets cannot be duplicated: its
        thread must see the end before the server closes the descriptor, or libev would abort.
        """
        has_duplicate = not isinstance(self.sock, SSLSocket)
        try:
            # The underlying socket: the method of gevent's SSLSocket would disable TLS.
            sock: Any = self.sock._sock  # type: ignore[attr-defined]
            sock.shutdown(socket.SHUT_WR if has_duplicate else socket.SHUT_RDWR)
        except OSError:
            return  # the client has already disconnected
        if not has_duplicate:
            sleep(_ONE_LOOP)

    def disable_reader(self) -> bytes:
        """Put the server's reader at the end of input permanently.

        Return the bytes after the request that the server has already read. Never blocks.
        """
        raise NotImplementedError

    def switch_protocols(self, headers: Headers) -> tuple[gevent_socket, bytes]:
        """Send the ``101``; return the socket, and the bytes that were read after the request.

        :raises MiddlewareError: if other middleware refuses the ``101``. Nothing was sent.
        """
        try:
            write = self._start_response(SWITCHING, headers)
        except Exception as problem:
            if _is_of_server(self._start_response):
                raise
            raise MiddlewareError(
                "other middleware around WebSocketMiddleware refuses the 101. Put it inside"
                " WebSocketMiddleware"
            ) from problem
        if _is_of_server(write):
            self.send_101(write)
        else:
            # write() of other middleware, such as WebOb and profilers, may keep its data. They pass
            # the 101 to the server after the WebSocket, when nothing can be sent any more.
            send_head(self.sock, headers)
        return self.sock, self.take_early()

    def take_early(self) -> bytes:
        """Return the bytes that were read after the request; the second call returns none."""
        early, self._early = self._early, b""
        return early

    def lend_socket(self) -> Any:  # Any: a socket of gevent, or an object like it
        """Return the socket, for an application that speaks WebSocket itself."""
        return EarlySocket(self.sock, self) if self._early else self.sock

    def send_101(self, write: Write) -> None:
        """Make the server send the head of the response."""
        write(b"")

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Write:
        """Start another response than the ``101`` (PEP 3333). No other response follows it."""
        return self._start_response(status, headers, exc_info)

    def refusal(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return the body of another response than the ``101``, for the server.

        Discards the bytes in the kernel's queue: see :func:`discard_queued`.
        """
        discard_queued(self.sock)
        return body


class PywsgiAdapter(Adapter):
    """The adapter to :mod:`gevent.pywsgi`, also in gunicorn's gevent_pywsgi worker."""

    __slots__ = ("rfile",)

    def __init__(
        self, sock: gevent_socket, rfile: BufferedReader, start_response: StartResponse
    ) -> None:
        #: ``None`` if the request was read without a buffered file.
        self.rfile: BufferedReader | None = rfile
        super().__init__(sock, start_response)

    def disable_reader(self) -> bytes:
        body = pywsgi_input(self._start_response)
        if isinstance(body, Input):
            # After a refusal, gevent must not try to read a body.
            body.content_length, body.chunked_input = 0, False
        # Only readinto() changes: code may look for the socket in wsgi.input.raw._sock.
        rfile: Any = self.rfile  # Any: a method is replaced
        rfile.raw.readinto = _read_into_nothing
        buffered = rfile.peek()
        return bytes(rfile.read(len(buffered))) if buffered else b""


class GunicornAdapter(Adapter):
    """The adapter to gunicorn's gevent worker."""

    __slots__ = ("unreader",)

    # Any: the methods of the unreader are replaced, which its type does not allow.
    def __init__(self, sock: gevent_socket, unreader: Any, start_response: StartResponse) -> None:
        self.unreader = unreader
        super().__init__(sock, start_response)

    def disable_reader(self) -> bytes:
        unreader = self.unreader
        # The parser, its request and the body of the request share this object. The body may have
        # read bytes that do not belong to it, and call unread() later.
        unreader.chunk = unreader.read = unreader.unread = _read_nothing
        early = bytes(unreader.buf.getvalue())
        unreader.buf.seek(0)
        unreader.buf.truncate()
        return early

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Write:
        _force_close(self._start_response)
        return super().start_response(status, headers, exc_info)

    def send_101(self, write: Write) -> None:
        response = getattr(write, "__self__", None)
        if response is not None and getattr(response, "chunked", False):
            response.chunked = False  # gunicorn before 26.1 uses chunks even for a 101
        write(b"")


def send_head(sock: gevent_socket, headers: Headers) -> int:
    """Send the ``101``; return its number of bytes."""
    head = response_head(SWITCHING, headers)
    sent = sock.send(head)  # sendall() first reads the size of the kernel's buffer
    if sent < len(head):
        sock.sendall(head[sent:])
    return len(head)


def hand_over(sock: Any) -> Any:  # Any: a socket of gevent, or a DirectSocket
    """Return the socket for a WebSocket: of a new connection, the one without watchers."""
    return sock.disown() if hasattr(sock, "disown") else sock


def _is_of_server(method: Write | StartResponse) -> bool:
    """Whether ``start_response()`` or ``write()`` is a server's method, and not of middleware."""
    owner = getattr(method, "__self__", None)
    return isinstance(owner, WSGIHandler) or hasattr(owner, "force_close")


def closing(environ: Environ, start_response: StartResponse) -> StartResponse:
    """Return a ``start_response()`` that ends the connection after its response."""
    _end_gunicorn_reader(environ)

    def start(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
        _force_close(start_response)
        return start_response(status, [*headers, ("Connection", "close")], exc_info)

    return start


def _end_gunicorn_reader(environ: Environ) -> None:
    """Put gunicorn's reader at the end of input behind the body of the request.

    Other middleware may hide the ``start_response()`` that :func:`_force_close` needs.
    """
    # Any: one of several classes of gunicorn, whose type does not allow new methods.
    reader: Any = getattr(_input_of(environ), "reader", None)
    request = getattr(reader, "req", None)
    if request is not None:
        request.force_close()  # a chunked body
    elif hasattr(reader, "unreader"):
        # From now on, only the body has a reader that reads.
        unreader, reader.unreader = reader.unreader, copy(reader.unreader)
        unreader.read = unreader.take_buffered = _read_nothing


def _force_close(start_response: StartResponse) -> None:
    """Make gunicorn end the connection: it removes the header ``Connection: close``."""
    response = getattr(start_response, "__self__", None)
    if response is not None and hasattr(response, "force_close"):
        response.force_close()


class EarlySocket:
    """A socket whose ``recv()`` first returns the bytes that the server read after the request.

    ``select()`` does not report these bytes.
    """

    def __init__(self, sock: gevent_socket, adapter: Adapter) -> None:
        self._sock = sock
        self._adapter = adapter

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive as ``socket.recv()``."""
        early = self._adapter.take_early()
        if not early:
            return self._sock.recv(size, *flags)
        self._adapter._early = early[size:]
        return early[:size]

    def dup(self) -> EarlySocket:
        """Return such a socket for a duplicate of the descriptor."""
        return EarlySocket(self._sock.dup(), self._adapter)

    def __getattr__(self, name: str) -> Any:  # the type of the socket's attribute
        return getattr(self._sock, name)


class LentSocket:
    """A socket in the environ, with a note whether the application has used it."""

    def __init__(self, sock: gevent_socket) -> None:
        self._sock = sock
        self.is_taken = False

    def __getattr__(self, name: str) -> Any:  # the type of the socket's attribute
        self.is_taken = True
        return getattr(self._sock, name)


def _read_into_nothing(buffer: object) -> int:
    """Signal the end of input; the ``readinto()`` of a raw file."""
    return 0


def _read_nothing(*_arguments: object, **_keywords: object) -> bytes:
    """Signal the end of input; the methods of gunicorn's unreader."""
    return b""


def discard_queued(sock: gevent_socket) -> None:
    """Read and discard the bytes in the kernel's queue, before the connection is closed.

    Otherwise the kernel would send a RST, and the client could lose the response because of it.
    """
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        left = _MAX_DISCARD
        while left > 0 and (data := sock.recv(64 << 10)):
            left -= len(data)
    except OSError:
        pass  # the queue is empty, or the peer has disconnected
    finally:
        sock.settimeout(timeout)


def pywsgi_input(start_response: StartResponse) -> Any:  # gevent's Input, or our Body
    """Return pywsgi's object for the body of a request.

    Return ``None`` under another server, or if a middleware has replaced ``start_response``.
    """
    handler = getattr(start_response, "__self__", None)
    return handler.wsgi_input if isinstance(handler, WSGIHandler) else None


def restore_body(environ: Environ, start_response: StartResponse) -> None:
    """Restore the body of a plain HTTP request under pywsgi.

    If a request has ``Connection: upgrade``, gevent sets ``wsgi.input`` to the file of the
    connection. Some nginx configurations always send this header. A view that reads the file would
    block until the next request, and consume it.
    """
    body = pywsgi_input(start_response)
    if body is not None and environ.get("wsgi.input") is body.rfile:
        environ["wsgi.input"] = body
        environ["wsgi.input_terminated"] = True


def find_adapter(environ: Environ, start_response: StartResponse) -> Adapter:
    """Return the adapter for a WebSocket request. The server reads nothing more afterwards.

    :raises MiddlewareError: if other middleware hides the connection.
    :raises RuntimeError: if the server does not run on gevent.
    """
    adapter = None
    # gunicorn's sync worker has gevent's sockets, too, if the application's module is patched. But
    # it calls the application in the main greenlet, and serves nobody else until that returns.
    if getcurrent().parent is not None:
        adapter = _find_gunicorn(environ, start_response) or _find_pywsgi(environ, start_response)
        if adapter is None and _is_on_gevent(environ):
            raise MiddlewareError(
                "geventws cannot find the connection: other middleware around WebSocketMiddleware"
                " has replaced wsgi.input and start_response. Put it inside WebSocketMiddleware"
            )
    if adapter is None:
        raise RuntimeError(
            "geventws needs a WSGI server on gevent: geventws.WebSocketServer, gevent.pywsgi,"
            " the command geventws module:app, or gunicorn with -k geventws.Worker, -k gevent or"
            f" -k gevent_pywsgi; not {environ.get('SERVER_SOFTWARE', 'this one')}"
        )
    return adapter


def _is_on_gevent(environ: Environ) -> bool:
    is_pywsgi = str(environ.get("SERVER_SOFTWARE", "")).startswith("gevent/")
    return is_pywsgi or isinstance(environ.get("gunicorn.socket"), gevent_socket)


def _input_of(environ: Environ) -> Any:  # Any: the object of a server, or of middleware
    """Return ``wsgi.input``, without the wrappers of validators."""
    body = environ.get("wsgi.input")
    for _ in range(_MAX_WRAPPERS):
        # The attributes of werkzeug's LintMiddleware and of wsgiref.validate.
        body = getattr(body, "_stream", None) or getattr(body, "input", None) or body
    return body


def _find_gunicorn(environ: Environ, start_response: StartResponse) -> Adapter | None:
    sock = environ.get("gunicorn.socket")
    unreader = _find_unreader(_input_of(environ), start_response)
    if not isinstance(sock, gevent_socket) or unreader is None:
        return None
    adapter = GunicornAdapter(sock, unreader, start_response)
    lent = adapter.lend_socket()
    if adapter._sent_before is None:
        lent = adapter.lent = LentSocket(lent)
    environ["gunicorn.socket"] = lent
    return adapter


def _find_pywsgi(environ: Environ, start_response: StartResponse) -> Adapter | None:
    body = _input_of(environ)
    if not hasattr(body, "raw") and not hasattr(body, "rfile"):
        body = pywsgi_input(start_response)  # a middleware has replaced wsgi.input
    rfile = getattr(body, "rfile", body)  # the file of the connection is in pywsgi's Input
    sock = getattr(getattr(rfile, "raw", None), "_sock", None)
    if not isinstance(sock, gevent_socket):
        return None
    adapter = PywsgiAdapter(sock, rfile, start_response)
    environ["wsgi.input"] = adapter.lent = EmptyInput(adapter.lend_socket())
    return adapter


def _find_unreader(body: object, start_response: StartResponse) -> object:
    """Return gunicorn's reader of the connection; ``None`` if it cannot be found."""
    reader = getattr(body, "reader", None)
    response = getattr(start_response, "__self__", None)
    # The reader of a chunked body only has the request. If a middleware has replaced the body, the
    # response has the request.
    owners = [reader, getattr(reader, "req", None), getattr(response, "req", None)]
    unreaders = (getattr(owner, "unreader", None) for owner in owners)
    return next((unreader for unreader in unreaders if unreader is not None), None)
