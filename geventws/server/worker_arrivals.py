"""Accept the connections of gunicorn's worker, and read their WebSocket requests in the hub.

As in :mod:`.arrivals`, with what gunicorn adds: the worker's pool limits the connections, and the
parser of gunicorn serves all other requests. Their bytes stay in the kernel for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..connection._arrivals import Arrival, DirectSocket, Listener, receive
from ..connection.accepted import AcceptedSocket
from ..connection.greenlets import LightGreenlet
from .accepting import AcceptingServer, Address
from .waiting import Waiting
from .worker_direct import DirectServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevent.pool import Pool
    from gevent.socket import socket


class WorkerServer(AcceptingServer):
    """A server of a worker that listens for TCP without TLS.

    :param handle: serves a connection, in a greenlet.
    :param direct: serves a WebSocket request.
    :param limit: the number of seconds that a connection may wait for its first bytes; ``None``
        for no limit.
    """

    def __init__(
        self,
        listener: socket,
        handle: Callable[[socket, Address], object],
        direct: DirectServer,
        pool: Pool,
        limit: float | None,
    ) -> None:
        super().__init__(listener, handle, spawn=pool)
        self._handler = handle  # gevent's close() forgets its own reference
        self._listener = Listener(listener)
        self._direct = direct
        self._waiting = _Waiting(self, limit)

    # Any: do_handle() gets these values.
    def accept_connection(self) -> Any:
        return next(iter(self._listener.accept(1, peek=True)), None)

    def do_handle(  # type: ignore[override] # gevent passes what accept_connection() returns
        self, sock: DirectSocket, address: Address, data: bytes | None
    ) -> None:
        if data is None:
            arrival = self._waiting.let_wait(sock, address)
            if arrival is not None:
                self.pool.add(arrival)  # it is one of worker_connections
                return
        self.serve(sock, address, data)

    def serve(self, sock: DirectSocket, address: Address, data: bytes | None) -> None:
        """Start a greenlet for a connection.

        :param data: the first bytes; ``None`` if the greenlet must wait for them.
        """
        request = self._direct.take(data, address) if data else None
        accepted = AcceptedSocket(sock)
        if request is None:
            self.pool.spawn(self._handler, accepted, address)
        else:
            receive(sock.fileno(), len(request.head))  # these bytes are in the kernel
            accepted.settimeout(None)  # as gunicorn does
            view = _ViewGreenlet(None, self._direct, accepted, address, request)  # type: ignore[call-overload] # the function is _run()
            self.pool.start(view)

    def stop(self, timeout: float | None = None) -> None:
        """Stop as gevent's server, and close the connections that wait; ``close()`` does not."""
        self._waiting.give_up()
        super().stop(timeout)


class _Waiting(Waiting):
    """The connections of a server that wait. In its pool, each holds the place of a greenlet."""

    _peeks = True

    def __init__(self, server: WorkerServer, limit: float | None) -> None:
        super().__init__()
        self._server = server
        self._seconds = limit

    def _limit(self) -> float | None:
        return self._seconds

    def _take(self, arrival: Arrival, data: bytes, since: float) -> None:
        if data:
            self._server.serve(arrival.sock, arrival.address, data)

    def _forget(self, arrival: Arrival) -> float:
        self._server.pool.discard(arrival)
        return super()._forget(arrival)


class _ViewGreenlet(LightGreenlet):
    """The greenlet of a view. With the function as an argument, it would have a ``__dict__``."""

    _run = staticmethod(DirectServer.serve)
