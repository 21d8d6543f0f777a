"""Accept connections. Faults of peers cost one limited line in the log, instead of a traceback."""

from __future__ import annotations

import errno
import logging
from contextlib import closing
from socket import SO_ACCEPTCONN, SOL_SOCKET
from typing import TYPE_CHECKING, Any, TypeAlias

from gevent.server import StreamServer
from gevent.socket import socket as gevent_socket
from gevent.timeout import Timeout

from ..connection.logs import name_of_peer, peers, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevent._types import _TimerWatcher

    from ..options import Options

#: Errors of accept() for too many descriptors or too little memory.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# Any: an address is a tuple, or a string for a unix socket.
Address: TypeAlias = Any

#: The maximum number of connections in the kernel's queue; the kernel may have a smaller limit.
#: After a restart, all clients connect at once. The kernel drops the packets of those that find the
#: queue full, and their next attempt is a second later.
BACKLOG = 4096
#: Seconds for which a connection is left to less loaded processes.
_PATIENCE = 0.002


class AcceptingServer(StreamServer):
    """gevent's server with limited log lines, and with a time limit for TLS handshakes."""

    options: Options
    backlog = BACKLOG  # gevent's default is 128
    #: Whether the next connection is for this process, and not for another one that listens, too.
    #: The argument is whether the others have had time to accept it.
    should_accept: Callable[[bool], bool] | None = None
    _has_waited = False
    #: The setting with the maximum number of connections, for the log.
    pool_setting = "spawn"
    # Private members of gevent's BaseServer.
    pool: Any
    _do_read: Callable[[], None]
    _start_accepting_if_started: Callable[[], None]
    _timer: _TimerWatcher | None

    def init_socket(self) -> None:
        super().init_socket()
        listener: Any = self.socket  # Any: it may be a socket of the standard library
        if not listener.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
            raise ValueError(f"{listener!r} does not listen: call its method listen() first")
        if not isinstance(listener, gevent_socket):
            listener.setblocking(False)  # accept() would stop the loop, and all connections

    def set_spawn(self, spawn: Any) -> None:  # Any: as for gevent's BaseServer
        super().set_spawn(spawn)
        if hasattr(self.pool, "full"):
            self.full = self._is_pool_full  # type: ignore[method-assign] # gevent replaces it, too

    def _is_pool_full(self) -> bool:
        """Return whether no greenlet is left for another connection, and log it."""
        is_full: bool = self.pool.full()
        if is_full:
            peers.log(
                logging.WARNING,
                "This process has %d connections, the maximum (%s). Others wait until one ends",
                self.pool.size,
                self.pool_setting,
            )
        return is_full

    def do_read(self) -> tuple[gevent_socket, Address] | None:  # type: ignore[override] # as BaseServer
        has_waited, self._has_waited = self._has_waited, False  # for one connection
        if self.should_accept is not None and not self.should_accept(has_waited):
            self._pause(_PATIENCE, self._accept_now)
            return None
        try:
            return self.accept_connection()
        except OSError as problem:
            if problem.errno not in _EXHAUSTED:
                raise
            peers.log(logging.WARNING, "Cannot accept connections for now: %s", problem.strerror)
            self._pause(self.max_delay, self._start_accepting_if_started)
            return None

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        """Accept nothing for some seconds."""
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)
        self._timer.start(then)

    def _accept_now(self) -> None:
        self._start_accepting_if_started()
        self._has_waited = True
        self._do_read()

    def accept_connection(self) -> tuple[gevent_socket, Address] | None:
        """Accept one connection; return ``None`` if this server handles it without gevent's."""
        return super().do_read()

    def wrap_socket_and_handle(self, client_socket: gevent_socket, address: Address) -> object:
        """Perform the TLS handshake within ``handshake_timeout``, and serve the requests."""
        wrap_socket: Callable[..., gevent_socket] = self.wrap_socket  # type: ignore[misc] # a function
        try:
            with Timeout(self.options.handshake_timeout, TimeoutError("too slow")):
                # Raises an OSError if the client has disconnected. Otherwise wrap_socket() would
                # raise one, and gevent would not close the socket.
                client_socket.getpeername()
                sock = wrap_socket(client_socket, **(self.ssl_args or {}))
        except OSError as problem:
            peer = name_of_peer(address, client_socket)
            reason = printable(str(problem))
            if getattr(problem, "reason", None) == "HTTP_REQUEST":
                reason = (
                    "this looks like plain HTTP on a TLS port. Use https:// or wss:// in the URL"
                )
            peers.log(logging.INFO, "No TLS with %s: %s", peer, reason)
            return None
        with closing(sock):
            self.handle(sock, address)
        return None
