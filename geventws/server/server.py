"""The server: gevent's own, with WebSockets."""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from math import inf
from ssl import PROTOCOL_TLS_SERVER
from time import monotonic
from typing import Any

from gevent import Greenlet
from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext
from gevent.timeout import Timeout

from ..connection.logs import peers, printable
from ..typing import Application
from .configuration import combine_options, take_options
from .handler import WebSocketHandler
from .registry import OpenWebSockets
from .stats import Stats

#: What gevent's server takes beside a certificate; whoever knows these wants them as they are.
_OTHER_TLS_OPTIONS = {"ssl_context", "ssl_version", "cert_reqs", "ca_certs", "ciphers"}
#: What gevent's server takes. It would take everything else for an option of TLS, and turn TLS on.
_TLS_OPTIONS = _OTHER_TLS_OPTIONS | {
    "certfile",
    "keyfile",
    "do_handshake_on_connect",
    "suppress_ragged_eofs",
    "server_side",
}

#: What accept() says when there are too many descriptors or too little memory.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Greenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """Does not keep where it was spawned: that is the same place for all connections."""

    spawning_stack_limit = 0


def _spawn(_run: Any, handle: Any, close: Any, arguments: tuple[Any, Any]) -> _Greenlet:
    """Spawn the handler of a connection as gevent does, for 1 KiB less."""
    return _Greenlet.spawn(_handle, handle, close, *arguments)


def _handle(handle: Any, close: Any, sock: Any, address: Any) -> None:
    # gevent calls with a star. That goes by way of C, and what is on the C stack is saved in a
    # copy for every greenlet that waits.
    try:
        handle(sock, address)
    finally:
        close(sock, address)


class WebSocketServer(WSGIServer):
    """A :class:`gevent.pywsgi.WSGIServer` whose application also gets WebSockets::

        WebSocketServer(("127.0.0.1", 8000), application).serve_forever()

    :param listener: an address, a ``host:port`` string or a listening socket, as for gevent.
    :param application: any WSGI application; it finds its :class:`~geventws.WebSocket` in
        ``environ["wsgi.websocket"]``. This and the following parameters are those of gevent's
        server, in its order.
    :param options: those of :class:`geventws.options.Options`, beside those of TLS (``certfile``,
        ``keyfile``, ``ssl_context``, ...).
    :raises TypeError: for an option that neither has.
    """

    _start_accepting_if_started: Any  # of gevent's BaseServer

    handler_class = WebSocketHandler

    def __init__(
        self,
        listener: Any,
        application: Application | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        log: Any = "default",
        error_log: Any = "default",
        handler_class: Any = None,
        environ: Any = None,
        **options: Any,
    ) -> None:
        chosen = take_options(options)
        for name in options.keys() - _TLS_OPTIONS:
            raise TypeError(f"{type(self).__name__} has no option {name!r}")
        if "certfile" in options and options.keys().isdisjoint(_OTHER_TLS_OPTIONS):
            # The context that gevent makes from a bare certificate is of a deprecated kind.
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.pop("certfile"), options.pop("keyfile", None))
            options["ssl_context"] = context
        #: False spares the handler the formatting of lines that nobody reads.
        self.logs_requests = log is not None
        if spawn == "default":
            spawn = _spawn
        super().__init__(
            listener, application, backlog, spawn, log, error_log, handler_class, environ, **options
        )
        #: The options of every connection.
        self.options = combine_options(
            self.handler_class, chosen, getattr(self, "application", None)
        )
        #: The WebSockets that views are busy with.
        self.websockets = OpenWebSockets()
        # Looked up for each connection: let all of them have the same bound method.
        self.do_close: Any = self.do_close

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close every WebSocket with 1001, and wait for their views to end.

        The Close frames are spread over the first half of the time, so that not all clients come
        back at once; a request for a new WebSocket gets a 503 meanwhile. Returns as soon as the
        last view has ended; those that are left when the time is over are killed.

        :param timeout: how many seconds all of that may take; by default the option
            ``stop_timeout``.
        """
        self.close()
        limit = self.options.stop_timeout if timeout is None else timeout
        deadline = monotonic() + (inf if limit is None else limit)
        if not self.websockets.drain(deadline - monotonic()):
            self.websockets.kill()
        left = max(0.0, deadline - monotonic())
        super().stop(None if left == inf else left)

    def stats(self) -> Stats:
        """What is open, and what has happened since the server was made; in any thread."""
        return self.websockets.stats()

    def start(self) -> None:
        self.websockets.reopen()
        super().start()

    def do_read(self) -> Any:
        try:
            return super().do_read()
        except OSError as problem:
            if problem.errno not in _EXHAUSTED:
                raise
            peers.log(logging.WARNING, "Cannot accept connections for now: %s", problem.strerror)
            self.stop_accepting()
            timer: Any = self.loop.timer(self.max_delay)
            timer.start(self._start_accepting_if_started)
            self._timer = timer
            return None

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        """Shake hands for TLS, within ``handshake_timeout`` seconds, and serve the requests."""
        wrap_socket: Any = self.wrap_socket  # type: ignore[misc] # a function, not a method
        try:
            with Timeout(self.options.handshake_timeout, TimeoutError("too slow")):
                client_socket.getpeername()  # if it has gone, gevent would forget to close
                sock = wrap_socket(client_socket, **(self.ssl_args or {}))
        except OSError as problem:
            peer = address[0] if address else "peer"
            peers.log(logging.INFO, "No TLS with %s: %s", peer, printable(str(problem)))
            return None
        with closing(sock):
            return self.handle(sock, address)
