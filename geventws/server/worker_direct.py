"""Serve a WebSocket request of gunicorn's worker without gunicorn's parser.

gunicorn's objects for the request and the response are created only for what is not a ``101``: a
response of HTTP, or an exception. They are made of the same bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from gevent import GreenletExit
from gevent.ssl import SSLError
from gunicorn.glogging import Logger
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import WSGIErrorsWrapper, create
from gunicorn.workers.ggevent import GeventResponse, GeventWorker

from ..connection.tcp import bytes_sent
from .adapters import SWITCHING, Adapter, LentSocket, discard_queued, hand_over, send_head
from .exchange import close_result, serve
from .fast_path import PEEK_SIZE, parse_request
from .middleware import WebSocketMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gevent.socket import socket as gevent_socket

    from ..typing import Environ, ExcInfo, Headers, Write
    from .accepting import Address

#: Settings with which gunicorn does more for a request, unless they have their defaults. Older
#: versions lack some of them.
_USUAL = ("http2_cleartext", "post_request", "pre_request", "protocol", "proxy_protocol")
#: Settings because of which gunicorn writes an access log.
_LOGGING = ("accesslog", "logconfig", "logconfig_dict", "logconfig_json", "syslog")
#: Keys of gunicorn's environ that are equal for all requests on a listening socket.
_SHARED = {
    *("SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_SOFTWARE"),
    *("wsgi.errors", "wsgi.file_wrapper", "wsgi.input", "wsgi.input_terminated"),
    *("wsgi.multiprocess", "wsgi.multithread", "wsgi.run_once", "wsgi.version"),
}
#: Keys that are set for each request.
_OWN = {
    *("HTTP_HOST", "PATH_INFO", "QUERY_STRING", "RAW_URI", "REMOTE_ADDR", "REMOTE_PORT"),
    *("REQUEST_METHOD", "SERVER_PROTOCOL", "gunicorn.socket", "wsgi.early_hints"),
    "wsgi.url_scheme",
}
#: The number of CGI variables that are made of the request line.
_LINE_VARIABLES = 4
#: The maximum length of headers such as X-Forwarded-Proto whose meaning is cached, in characters.
_MAX_CACHED = 64
_DISCONNECTED = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}


class DirectRequest(NamedTuple):
    """A WebSocket request that is served without gunicorn's parser."""

    head: bytes
    environ: Environ

    def __repr__(self) -> str:
        return type(self).__name__  # gevent logs the arguments of a greenlet; these may be secret


class DirectServer:
    """Serves WebSocket requests on one listening socket of a worker."""

    def __init__(self, worker: GeventWorker, listener: gevent_socket) -> None:
        cfg: Any = worker.cfg  # Any: its attributes are the settings
        self.worker = worker
        #: The address of the listening socket.
        self.name: Address = listener.getsockname()
        #: The names of headers by their variables.
        self._scheme_headers = {
            f"HTTP_{name.upper().replace('-', '_')}": name
            for name in cfg.secure_scheme_headers
            if "_" not in name  # take() leaves such headers to gunicorn
        }
        self._cached_scheme = lru_cache(maxsize=64)(self._parse_scheme)
        log: type = type(worker.log)
        is_stock = getattr(log, "access", None) is Logger.access
        #: Whether the system counts the bytes that are sent on a connection.
        self.counts_bytes = bytes_sent(listener) is not None
        #: Whether the access log is off; and whether it is gunicorn's, which needs little.
        self.is_silent = is_stock and not _writes_access_log(cfg)
        self.has_usual_log = _are_gunicorns(log, "access", "atoms")
        self._shared: Environ = {}
        #: Whether requests can be served here. If not, gunicorn serves all of them.
        self.is_usable = False
        if _is_usual(worker):
            with suppress(Exception):  # for instance limits that are too small for any request
                self._prepare()

    def _prepare(self) -> None:
        request, _, environ = self.answer(_head([]), ("", 0), None)
        # 0 is no limit.
        self._max_line = request.limit_request_line or PEEK_SIZE
        self._max_size = request.limit_request_field_size or PEEK_SIZE
        self._max_headers = request.limit_request_fields
        self._has_early_hints = "wsgi.early_hints" in environ
        self._shared = {name: environ[name] for name in environ.keys() & _SHARED}
        self._shared["wsgi.errors"] = _Errors(self.worker.cfg)
        self._shared["wsgi.multithread"] = True  # as all of gunicorn's workers for greenlets
        self.is_usable = environ.keys() <= _SHARED | _OWN

    # Any: gunicorn only stores the socket; the types of its objects do not have all that is used.
    def parse(self, head: bytes, address: Address) -> Any:
        """Return gunicorn's request."""
        return next(RequestParser(self.worker.cfg, [head], address))

    def answer(self, head: bytes, address: Address, sock: Any) -> tuple[Any, Any, Any]:
        """Return gunicorn's request, response and environ."""
        request = self.parse(head, address)
        response, environ = create(request, sock, address, self.name, self.worker.cfg)
        return request, response, environ

    def take(self, data: bytes, address: Address) -> DirectRequest | None:
        """Return the WebSocket request at the beginning of ``data``.

        Return ``None`` for every other request, and for one that gunicorn may understand
        differently from the parser here.
        """
        request = parse_request(data) if self.is_usable else None
        if request is None or len(request.line) > self._max_line or request.size > self._max_size:
            return None
        environ: Environ = request.variables
        if "HTTP_HOST" not in environ:
            return None  # SERVER_NAME would be another one
        if isinstance(address, bytes):
            return None  # an abstract unix socket, perhaps not in UTF-8
        count = data.count(b"\n", 0, request.size) - 2
        # With fewer variables, a header is repeated, or its name has an underscore.
        if count > self._max_headers or count != len(environ) - _LINE_VARIABLES:
            return None
        scheme = self._scheme(environ, address)
        if scheme is None:
            return None
        environ.update(self._shared)
        environ["RAW_URI"] = request.target
        environ["wsgi.url_scheme"] = scheme
        if isinstance(address, tuple):
            environ["REMOTE_ADDR"] = address[0]
            environ["REMOTE_PORT"] = str(address[1])
        else:
            environ["REMOTE_ADDR"] = address
        if isinstance(self.name, str) and ":" not in self.name:  # a unix socket
            name, *port = environ["HTTP_HOST"].split(":")
            environ["SERVER_NAME"] = name
            environ["SERVER_PORT"] = port[0] if port else "443" if scheme == "https" else "80"
        return DirectRequest(data[: request.size], environ)

    def _scheme(self, environ: Environ, address: Address) -> str | None:
        """Return the scheme of the URL; ``None`` if the headers of a proxy leave it open."""
        if environ.keys().isdisjoint(self._scheme_headers):
            return "http"
        given = tuple(
            (name, environ[variable])
            for variable, name in self._scheme_headers.items()
            if variable in environ
        )
        if sum(len(value) for _, value in given) > _MAX_CACHED:
            return None
        return self._cached_scheme(address[0] if isinstance(address, tuple) else None, given)

    def _parse_scheme(self, host: str | None, headers: tuple[tuple[str, str], ...]) -> str | None:
        try:
            scheme: str = self.parse(_head(headers), "" if host is None else (host, 0)).scheme
        except Exception:  # noqa: BLE001 - gunicorn will answer it
            return None
        return scheme

    def serve(self, sock: gevent_socket, address: Address, taken: DirectRequest) -> None:
        """Serve a request, as gunicorn's ``handle_request()`` does. Closes the socket."""
        started = datetime.now()
        head, environ = taken
        del taken  # the head is released with the 101
        adapter = _DirectAdapter(self, sock, address, head)
        del head
        environ["gunicorn.socket"] = adapter.lent or sock
        if self._has_early_hints:
            environ["wsgi.early_hints"] = adapter.send_early_hints
        _count_request(self.worker)
        wsgi: Any = self.worker.wsgi
        try:
            body = serve(wsgi.application, environ, adapter, wsgi.options, wsgi.websockets)
            try:
                adapter.send_body(body)
            finally:
                adapter.log_access(environ, datetime.now() - started)
                close_result(body)
        except GreenletExit:
            pass  # the worker is stopping
        except StopIteration:
            pass  # flask-sock asks gunicorn in this way to end the connection
        except BaseException as problem:
            if not isinstance(problem, OSError) or isinstance(problem, SSLError):
                adapter.fail(problem, environ, datetime.now() - started)
            elif problem.errno not in _DISCONNECTED:
                self.worker.log.exception("Socket error processing request.")
        finally:
            with suppress(OSError):
                sock.close()


class _Errors(WSGIErrorsWrapper):
    """``wsgi.errors`` for all requests. gunicorn opens its files anew for each SIGUSR1."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    @property
    def streams(self) -> list[Any]:  # type: ignore[override] # gunicorn's is an attribute
        return WSGIErrorsWrapper(self._cfg).streams


class _DirectAdapter(Adapter):
    """The adapter to a connection without a reader: bytes after the request are in the kernel."""

    __slots__ = ("_address", "_answer", "_head", "_headers", "_server")

    def __init__(
        self, server: DirectServer, sock: gevent_socket, address: Address, head: bytes
    ) -> None:
        self._server = server
        self._address = address
        self._head = head
        #: gunicorn's request, response and environ, once they are needed.
        self._answer: tuple[Any, Any, Any] | None = None
        #: The headers of the ``101``, once it was sent.
        self._headers: Headers | None = None
        # Without the constructor of the base class: a bound method would be a reference cycle.
        self.sock = sock
        is_unused = server.counts_bytes and hasattr(sock, "disown")  # an AcceptedSocket
        self._sent_before = 0 if is_unused else self.bytes_sent_before()
        self._early = b""
        self.lent = LentSocket(sock) if self._sent_before is None else None

    def answer(self) -> tuple[Any, Any, Any]:
        """Return gunicorn's request, response and environ. They are created on first use."""
        if self._answer is None:
            self._answer = self._server.answer(self._head, self._address, self.sock)
        return self._answer

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Write:
        _, response, _ = self.answer()
        response.force_close()
        write: Write = response.start_response(status, headers, exc_info)
        return write

    def send_early_hints(self, headers: Headers) -> None:
        """Send a ``103`` (``wsgi.early_hints`` of gunicorn)."""
        if self._headers is None:
            _, _, environ = self.answer()
            environ["wsgi.early_hints"](headers)

    def switch_protocols(self, headers: Headers) -> tuple[gevent_socket, bytes]:
        send_head(self.sock, headers)
        self._headers = headers
        if self._server.is_silent:
            self._head, self._answer = b"", None
        return hand_over(self.sock), b""

    def send_body(self, body: Iterable[bytes]) -> None:
        """Send the body of a response of HTTP. Does nothing after a ``101``."""
        if self._headers is None and self._answer is not None:
            _, response, _ = self._answer
            if response.status is not None:
                for chunk in body:
                    response.write(chunk)
                response.close()

    def log_access(self, environ: Environ, duration: timedelta) -> None:
        """Write the line of gunicorn's access log."""
        if self._server.is_silent:
            return
        log = self._server.worker.log
        if self._headers is not None and self._server.has_usual_log:
            lines = self._head.decode("latin-1").split("\r\n")[1:-2]
            fields = [line.split(":", 1) for line in lines]
            request: Any = [(name.upper(), value.strip(" \t")) for name, value in fields]
            response: Any = GeventResponse(SWITCHING, dict(self._headers), 0)
            log.access(response, request, environ, duration)
            return
        request, response, _ = self.answer()
        if self._headers is not None:
            response.start_response(SWITCHING, self._headers)
            response.headers_sent = True
        if response.status is not None:
            log.access(response, request, environ, duration)

    def fail(self, problem: BaseException, environ: Environ, duration: timedelta) -> None:
        """Answer and log an exception of the application, as gunicorn does."""
        worker = self._server.worker
        if self._headers is not None:
            worker.log.exception("Error handling request GET %s", environ["RAW_URI"])
            if not isinstance(problem, Exception):  # otherwise it may be the log that has failed
                self.log_access(environ, duration)
        else:
            request, response, _ = self.answer()
            if response.headers_sent:
                worker.log.exception("Error handling request")
            elif not isinstance(problem, SystemExit):  # otherwise the worker is stopping
                discard_queued(self.sock)
                worker.handle_error(request, self.sock, self._address, problem)
                return
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _head(headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request with some headers."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin-1")


def _is_usual(worker: GeventWorker) -> bool:
    """Whether :meth:`DirectServer.serve` does what the worker does for a WebSocket."""
    settings = worker.cfg.settings
    usual = (settings[name] for name in _USUAL if name in settings)
    return (
        all(setting.get() == setting.default for setting in usual)
        and not worker.cfg.is_ssl
        and not os.environ.get("SCRIPT_NAME")
        and type(worker).handle_request is GeventWorker.handle_request
        and type(worker.wsgi).__call__ is WebSocketMiddleware.__call__
        # gunicorn's own hook before a request logs it.
        and _are_gunicorns(type(worker.log), "debug")
        and not logging.getLogger("gunicorn.error").isEnabledFor(logging.DEBUG)
    )


def _are_gunicorns(log: type, *methods: str) -> bool:
    """Whether a class for logs has these methods from gunicorn. It may lack some."""
    modules = (getattr(getattr(log, name, None), "__module__", "") for name in methods)
    return all(module.startswith("gunicorn.") for module in modules)


def _count_request(worker: GeventWorker) -> None:
    """Count a request for ``max_requests``, as gunicorn's ``handle_request()`` does."""
    worker.nr += 1
    if worker.nr >= worker.max_requests and worker.alive:
        worker.log.info("Autorestarting worker after current request.")
        worker.alive = False


def _writes_access_log(cfg: Any) -> bool:
    return any(getattr(cfg, name) for name in _LOGGING)
