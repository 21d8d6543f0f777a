"""Accept the connections of gunicorn's worker, and read their WebSocket requests in the hub.

As in :mod:`.arrivals`, with what gunicorn adds: the worker's pool limits the connections, and the
parser of gunicorn serves all other requests. Their bytes stay in the kernel for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..connection._arrivals import Listener, receive
from ..connection.accepted import AcceptedSocket
from ..connection.greenlets import LightGreenlet
from .accepting import AcceptingServer, Address
from .worker_direct import DirectServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevent.pool import Pool
    from gevent.socket import socket


class WorkerServer(AcceptingServer):
    """A server of a worker that listens for TCP without TLS.

    :param handle: serves a connection, in a greenlet.
    :param direct: serves a WebSocket request.
    """

    def __init__(
        self,
        listener: socket,
        handle: Callable[[socket, Address], object],
        direct: DirectServer,
        pool: Pool,
    ) -> None:
        super().__init__(listener, handle, spawn=pool)
        self._listener = Listener(listener)
        self._direct = direct

    # Any: do_handle() gets these values.
    def accept_connection(self) -> Any:
        for sock, address, data in self._listener.accept(1, peek=True):
            return AcceptedSocket(sock), address, data
        return None

    def do_handle(  # type: ignore[override] # gevent passes what accept_connection() returns
        self, sock: AcceptedSocket, address: Address, data: bytes | None
    ) -> None:
        request = self._direct.take(data, address) if data else None
        if request is None:
            super().do_handle(sock, address)
        else:
            receive(sock.fileno(), len(request.head))  # these bytes are in the kernel
            sock.settimeout(None)  # as gunicorn does
            view = _ViewGreenlet(None, self._direct, sock, address, request)  # type: ignore[call-overload] # the function is _run()
            self.pool.start(view)


class _ViewGreenlet(LightGreenlet):
    """The greenlet of a view. With the function as an argument, it would have a ``__dict__``."""

    _run = staticmethod(DirectServer.serve)
