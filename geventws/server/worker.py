"""``gunicorn -k geventws.Worker``: gunicorn's gevent worker, with WebSockets."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import suppress
from functools import cache, partial
from socket import AF_INET, AF_INET6, MSG_PEEK
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import sleep, spawn
from gevent.ssl import SSLSocket
from gunicorn.workers.ggevent import GeventWorker

from ..broadcast.broadcast import has_local_broadcasts
from ..connection.logs import name_of_peer, peers
from ..connection.memory import (
    exempt_application_from_collection,
    keep_memory_for_greenlets,
    keep_memory_for_messages,
)
from ..protocol.reader import CORE, NOT_COMPILED
from .accepting import AcceptingServer, Address
from .balance import FULL, Loads
from .configuration import application_options, combine_options
from .engineio import install_if_present
from .fast_path import PEEK_SIZE
from .middleware import WebSocketMiddleware
from .request_head import CLIENT_HELLO, TLS_ON_PLAIN_PORT
from .worker_direct import DirectServer

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import FrameType

    from gevent.pool import Pool
    from gevent.socket import socket

    from ..typing import Keywords

#: Options of our server and its parser.
_UNUSED = {"stop_timeout", "keep_alive_timeout", "body_timeout", "max_header_size"}
#: The maximum number of connections that one of several workers accepts before it polls again.
_MAX_ACCEPT = 16
#: Seconds between two checks whether gunicorn stops the worker.
_POLL = 0.1
#: Seconds between two signs of life, without which gunicorn's master kills the worker (timeout).
_HEARTBEAT = 0.5
#: Seconds before the end of graceful_timeout when the worker stops waiting. gunicorn's master then
#: kills the worker; it checks once a second.
_MARGIN = 1.5


@cache
def _loads() -> Loads:
    """Return the loads of all workers of this master."""
    return Loads()


class _Listener:
    """A listening socket, for the code of gunicorn that asks for its name.

    While a connection waits for its request, the worker may stop, and close the socket.
    """

    def __init__(self, name: Address) -> None:
        self._name = name

    def getsockname(self) -> Address:
        return self._name


class Worker(GeventWorker):
    """gunicorn's gevent worker with WebSockets in ``environ["wsgi.websocket"]``.

    All settings of gunicorn work as with ``-k gevent``. A WebSocket counts as one of
    ``worker_connections`` until its view ends; then it has one line in the access log. A detached
    WebSocket stays open after that, and counts for ``max_connections`` only.

    Before the worker stops (SIGTERM, SIGHUP, ``max_requests``), it closes every WebSocket with
    1001. The Close frames are spread over the first half of ``graceful_timeout``. The worker exits
    within a second after the end of the last view, or at the end of ``graceful_timeout``.

    Set the options of :class:`geventws.options.Options` in a subclass. It may be defined in
    ``gunicorn.conf.py``::

        class Worker(geventws.Worker):
            websocket_options = {"max_message_size": 10 << 20}

        worker_class = Worker

    The default of ``trusted_proxies`` is gunicorn's ``forwarded_allow_ips``. The options of the
    application take precedence: the options of a
    :class:`~geventws.WebSocketMiddleware` around it, or of Flask's configuration.
    """

    #: The options of every connection of this worker.
    websocket_options: Keywords = {}  # noqa: RUF012 - subclasses replace it; it is never changed

    wsgi: Any  # gunicorn stores the application here, and load_wsgi() the middleware
    sockets: list[socket]
    _is_quitting = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        combine_options(None, cls.websocket_options)  # raises for invalid options

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        # gunicorn calls it in the master.
        super().__init__(*arguments, **keywords)
        self._place = _loads().join(self)
        self._pools: list[Pool] = []
        self._direct: dict[socket, DirectServer] = {}
        #: Seconds that the first bytes of a connection may take. gunicorn limits the whole request.
        self._first_timeout: float | None = self.cfg.keepalive or None

    def init_process(self) -> None:
        # gunicorn sets it only after the modules are patched: until then, a SIGTERM would be lost.
        signal.signal(signal.SIGTERM, self.handle_exit)
        keep_memory_for_messages()
        keep_memory_for_greenlets()
        super().init_process()

    def load_wsgi(self) -> None:
        install_if_present()
        super().load_wsgi()
        if NOT_COMPILED and self.age == 1:  # the first of all workers
            self.log.warning(NOT_COMPILED)
        if self.cfg.workers > 1 and self.age == 1 and has_local_broadcasts():
            self.log.warning(
                "A Broadcast with memory:// reaches the clients of one worker only, and there are"
                " %d. Use redis:// or postgresql://, or one worker",
                self.cfg.workers,
            )
        own = application_options(self.wsgi)
        unused = _UNUSED & {*self.websocket_options, *own}
        if unused:
            self.log.warning(
                "gunicorn does not use the option %s of geventws: it has settings of its own, such"
                " as --graceful-timeout, --keep-alive and --limit-request-field_size",
                " and ".join(sorted(unused)),
            )
        options = dict(self.websocket_options)
        if "trusted_proxies" not in own:
            options.setdefault("trusted_proxies", self.cfg.forwarded_allow_ips)
        if isinstance(self.wsgi, WebSocketMiddleware):
            self.wsgi.use_defaults(options)
        else:
            self.wsgi = WebSocketMiddleware(self.wsgi, **options)
        exempt_application_from_collection()

    # GeventWorker calls it to create the server of a listening socket. The arguments that are not
    # used are for a server like gevent.pywsgi.
    def server_class(  # type: ignore[override]
        self, listener: socket, *, spawn: Pool, ssl_context: SSLContext | None = None, **_: object
    ) -> AcceptingServer:
        """Return a server whose log has one limited line for faults of peers."""
        handle = partial(self.handle, listener)
        direct = self._direct[listener] = DirectServer(self, listener)
        server: AcceptingServer
        if (
            CORE == "compiled"
            and sys.platform == "linux"
            and listener.family in {AF_INET, AF_INET6}
            and direct.is_usable
            and type(self).handle is Worker.handle
        ):
            from .worker_arrivals import WorkerServer  # noqa: PLC0415 - only the compiled core has it

            server = WorkerServer(listener, handle, direct, spawn, self._first_timeout)
        else:
            tls: Keywords = {} if ssl_context is None else {"ssl_context": ssl_context}
            server = AcceptingServer(listener, handle, spawn=spawn, **tls)
        server.options = self.wsgi.options
        server.pool_setting = "--worker-connections"
        if self.cfg.workers > 1:
            # Without an agreement with the other workers, one by one, as GeventWorker does.
            is_agreed = self._place is not None and not self.cfg.reuse_port
            server.max_accept = _MAX_ACCEPT if is_agreed else 1
        if not self.cfg.reuse_port:  # then, each worker listens on a socket of its own
            server.should_accept = self._should_accept
        self._pools.append(spawn)
        return server

    def handle(self, listener: Any, client: socket, addr: Address) -> None:
        """Serve a connection. gunicorn would wait for a line feed of a client that speaks TLS."""
        direct = self._direct.get(listener)  # a subclass may have another server
        if not isinstance(client, SSLSocket):
            data = None
            client.settimeout(self._first_timeout)
            with suppress(OSError):
                data = client.recv(PEEK_SIZE, MSG_PEEK)
            client.settimeout(None)
            if data is None:
                client.close()
                return
            if data.startswith(CLIENT_HELLO):
                peer = name_of_peer(addr, client)
                peers.log(logging.WARNING, "Bad request from %s: %s", peer, TLS_ON_PLAIN_PORT)
                client.close()
                return
            if direct is not None and (taken := direct.take(data, addr)) is not None:
                client.recv(len(taken.head))  # these bytes are in the kernel's queue
                direct.serve(client, addr, taken)
                return
        if direct is not None:
            listener = _Listener(direct.name)
        super().handle(listener, client, addr)

    def _load(self) -> float:
        """The number of requests and WebSockets, or ``FULL``."""
        websockets = len(self.wsgi.websockets)
        requests = sum(map(len, self._pools))  # also those that will become WebSockets
        most = self.wsgi.options.max_connections
        if not self.alive or (most is not None and max(websockets, requests) >= most):
            return FULL
        # Detached WebSockets are not among the requests. That all others count twice is no harm.
        return websockets + requests

    def _should_accept(self, has_waited: bool) -> bool:
        place = self._place
        return (
            place is None or not place.is_shared() or place.should_accept(self._load(), has_waited)
        )

    def notify(self) -> None:
        super().notify()
        if self._place is not None:
            self._place.report(self._load())

    def run(self) -> None:
        draining = spawn(self._drain_before_exit)
        super().run()
        while not draining.ready():  # gunicorn does not wait for detached WebSockets
            self.notify()
            draining.join(_HEARTBEAT)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        # After Ctrl-C, the worker gets two signals: from the terminal and from gunicorn's master.
        # GeventWorker would print a traceback for the second one.
        if self._is_quitting:
            return
        self._is_quitting = True
        spawn(self._quit, sig, frame)

    def _quit(self, sig: int, frame: FrameType | None) -> None:
        """Send Close frames, but do not wait for the answers (SIGINT and SIGQUIT)."""
        self.wsgi.websockets.drain(0)
        self.wsgi.websockets.kill()  # the access log gets its lines
        super().handle_quit(sig, frame)

    def _drain_before_exit(self) -> None:
        while self.alive:
            sleep(_POLL)
        stopped = monotonic()
        # gunicorn closes the listening sockets within a second. Wait for it: before that, clients
        # that reconnect could get this worker again, which would refuse them.
        while any(sock.fileno() >= 0 for sock in self.sockets):
            sleep(_POLL)
        left = self.cfg.graceful_timeout - (monotonic() - stopped)
        websockets = self.wsgi.websockets
        if not websockets.drain(max(left / 2, left - _MARGIN)):
            websockets.kill()
