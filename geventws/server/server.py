"""The server: gevent's ``WSGIServer`` with WebSockets."""

from __future__ import annotations

import logging
import sys
from math import inf
from ssl import PROTOCOL_TLS_SERVER
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from gevent.monkey import is_module_patched
from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext

from ..connection.greenlets import LightGreenlet
from ..connection.logs import logger
from ..connection.memory import keep_memory_for_greenlets
from ..connection.tls import cooperative_context
from ..connection.transport import seconds_of
from ..protocol.reader import CORE
from ..typing import Application, Environ
from .accepting import AcceptingServer, Address
from .configuration import check_names, combine_options, take_options
from .handler import WebSocketHandler
from .registry import OpenWebSockets
from .stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevent.baseserver import _Spawner
    from gevent.pywsgi import WSGIHandler, _LogOutputStream
    from gevent.socket import socket

#: gevent's options for TLS other than the certificate. If one of them is set, all options for TLS
#: are passed on unchanged.
_OTHER_TLS_OPTIONS = {"ssl_context", "ssl_version", "cert_reqs", "ca_certs", "ciphers"}
#: All options of gevent's server for TLS. gevent would treat any other option as one of these, and
#: enable TLS.
_TLS_OPTIONS = _OTHER_TLS_OPTIONS | {
    "certfile",
    "keyfile",
    "do_handshake_on_connect",
    "suppress_ragged_eofs",
    "server_side",
}

#: Methods of a server that get the accepted sockets, and methods of a handler that read a request.
#: If a subclass overrides one of them, it gets all connections from gevent's server.
_SEAMS = "accept_connection", "do_read", "do_handle", "do_close", "full"
_READERS = "handle", "handle_one_request", "read_requestline", "read_request"

_Callback: TypeAlias = "Callable[[socket, Address], object]"


def _spawn(
    _run: object, handle: _Callback, close: _Callback, arguments: tuple[socket, Address]
) -> LightGreenlet:
    """Spawn the handler of a connection. It takes 1 KiB less than gevent's default."""
    return LightGreenlet.spawn(_handle, handle, close, *arguments)


def _handle(handle: _Callback, close: _Callback, sock: socket, address: Address) -> None:
    # gevent calls handle(*arguments), which uses the C stack. A waiting greenlet stores a copy of
    # its part of the C stack.
    try:
        handle(sock, address)
    finally:
        close(sock, address)


class WebSocketServer(AcceptingServer, WSGIServer):
    """A :class:`gevent.pywsgi.WSGIServer` with WebSockets::

        WebSocketServer(("127.0.0.1", 8000), application).serve_forever()

    All parameters except ``options`` are those of gevent's server, in the same order.
    ``backlog`` is 4096 by default.

    :param listener: an address, a ``host:port`` string or a listening socket, of gevent or of the
        standard library. The latter becomes non-blocking.
    :param application: a WSGI application. For WebSocket requests, its environ has a
        :class:`~geventws.WebSocket` in ``environ["wsgi.websocket"]``.
    :param options: the options of :class:`geventws.options.Options`, and gevent's options for TLS
        (``certfile``, ``keyfile``, ``ssl_context``, ...). ``ssl_context`` may be a context of
        :mod:`ssl` or of :mod:`gevent.ssl`, in a patched program and in others.
    :raises TypeError: for an unknown option, or an option of the wrong type.
    :raises ValueError: for an option out of range, or an ``ssl_context`` for clients.
    """

    handler_class = WebSocketHandler
    #: Whether :meth:`serve_forever` warns in the log if the program has not called
    #: ``gevent.monkey.patch_all()``.
    warns_if_unpatched = True
    _spawn: Any  # private attributes of gevent's BaseServer
    _handle: Any
    #: Accepts connections; ``None`` if gevent's server does.
    _arrivals: Any = None

    def __init__(
        self,
        listener: socket | tuple[str, int] | str,
        application: Application | None = None,
        backlog: int | None = None,
        spawn: _Spawner = "default",
        log: str | logging.Logger | _LogOutputStream | None = "default",
        error_log: str | logging.Logger | _LogOutputStream | None = "default",
        handler_class: type[WSGIHandler] | None = None,
        environ: Environ | None = None,
        **options: Any,
    ) -> None:
        chosen = take_options(options)
        check_names(options.keys() - _TLS_OPTIONS)
        if "certfile" in options and options.keys().isdisjoint(_OTHER_TLS_OPTIONS):
            # For a certificate without other options, gevent would use a deprecated context.
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.pop("certfile"), options.pop("keyfile", None))
            options["ssl_context"] = context
        elif "ssl_context" in options:
            options["ssl_context"] = cooperative_context(options["ssl_context"], server_side=True)
        #: Whether requests are logged. If not, the handler does not format lines for the log.
        self.logs_requests = log is not None
        if spawn == "default":
            spawn = _spawn  # type: ignore[assignment] # gevent passes exactly these arguments
        super().__init__(
            listener, application, backlog, spawn, log, error_log, handler_class, environ, **options
        )
        #: The options of every connection.
        self.options = combine_options(
            self.handler_class, chosen, getattr(self, "application", None)
        )
        #: The WebSockets whose views are running.
        self.websockets = OpenWebSockets()
        # gevent looks it up for each connection: all connections share one bound method.
        self.do_close = self.do_close  # type: ignore[method-assign]

    def init_socket(self) -> None:
        super().init_socket()
        self._arrivals = None
        if CORE == "compiled" and sys.platform == "linux" and self._is_plain():
            from .arrivals import Arrivals  # noqa: PLC0415 - only the compiled core has it

            self._arrivals = Arrivals(self, self.socket)

    def _is_plain(self) -> bool:
        """Whether TCP connections are served without TLS, and as this class serves them."""
        return (
            isinstance(self.address, tuple)
            and self._spawn is _spawn
            and getattr(self._handle, "__func__", None) is WSGIServer.handle
            and all(getattr(type(self), name) is getattr(WebSocketServer, name) for name in _SEAMS)
            and issubclass(self.handler_class, WebSocketHandler)
            and all(
                getattr(self.handler_class, name) is getattr(WebSocketHandler, name)
                for name in _READERS
            )
        )

    def accept_connection(self) -> tuple[socket, Address] | None:
        if self._arrivals is None:
            return super().accept_connection()
        self._arrivals.accept()
        return None

    def close(self) -> None:
        """Stop accepting, and close the listening socket. Open connections stay open.

        Connections whose request has not been passed to the application yet are closed.
        """
        super().close()
        if self._arrivals is not None:
            self._arrivals.close()

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close every WebSocket with 1001, and wait for their views to end.

        The Close frames are spread over the first half of the time, so that the clients do not all
        reconnect at once. New WebSocket requests get a 503 meanwhile. Blocks until the last view
        has ended, or the time is over. Then the remaining views are killed.

        :param timeout: the maximum number of seconds; by default the option ``stop_timeout``.
        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        """
        seconds = seconds_of(timeout)
        self.close()
        limit = self.options.stop_timeout if seconds is None else seconds
        deadline = monotonic() + (inf if limit is None else limit)
        if not self.websockets.drain(deadline - monotonic()):
            self.websockets.kill()
        left = max(0.0, deadline - monotonic())
        super().stop(None if left == inf else left)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start, and block until the server is stopped, or by KeyboardInterrupt.

        From now on, the process keeps up to 1 MiB of memory for the next greenlets.

        :param stop_timeout: as in :meth:`stop`.
        """
        if self.warns_if_unpatched and not is_module_patched("time"):
            logger.warning(
                "Functions of Python such as time.sleep() and socket.recv() stop all WebSockets of"
                " this program while they wait. Begin the program with: from gevent import monkey;"
                " monkey.patch_all(). If it calls no such function, set warns_if_unpatched = False"
                " on the server"
            )
        keep_memory_for_greenlets()
        super().serve_forever(stop_timeout)

    def stats(self) -> Stats:
        """Return the statistics of this server. May be called in any thread."""
        return self.websockets.stats()

    def start(self) -> None:
        self.websockets.reopen()
        super().start()
