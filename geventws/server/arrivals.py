"""Accept connections, and read their first request in the hub: no greenlet waits for it.

A WebSocket request in the form that the fast parser accepts gets a greenlet for its view at once,
see :mod:`.direct`. For every other request, a greenlet calls gevent's handler, with the bytes that
were read.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import closing
from io import DEFAULT_BUFFER_SIZE, BufferedReader
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import WeakSet

from ..connection._arrivals import Arrival, DirectSocket, Listener
from ..connection.accepted import AcceptedSocket
from ..connection.greenlets import LightGreenlet
from ..connection.hub import hub_state
from .direct import DirectAdapter, ViewGreenlet, is_stock
from .fast_path import Request, parse_request
from .waiting import Waiting

if TYPE_CHECKING:
    from ..options import Options
    from .accepting import Address

#: A connection that is not served yet: its socket, its address, its first bytes, the WebSocket
#: request at their beginning, and since when it has waited for them; 0 if it has not.
_Accepted: TypeAlias = "tuple[DirectSocket, Address, bytes | None, Request | None, float]"

#: The maximum number of seconds that new connections may occupy the loop.
_SLICE = 0.002
#: The maximum number of connections that are accepted before the first of them is served.
_MAX_GROUP = 16
#: The number of seconds that a group should take, judging by the last one.
_GROUP_TIME = 0.001


class Server(Protocol):
    """A server whose connections are accepted here."""

    handler_class: Any
    max_accept: int
    options: Options


class _EarlyFile(socket.SocketIO):
    """The file of a connection whose first bytes have been read."""

    def __init__(self, sock: Any, early: bytes) -> None:
        super().__init__(sock, "r")
        sock._io_refs += 1  # close() of this file decreases it, as for makefile()
        self._early = early

    def readinto(self, buffer: Any) -> int | None:
        if not self._early:
            return super().readinto(buffer)
        size = min(len(buffer), len(self._early))
        buffer[:size] = self._early[:size]
        self._early = self._early[size:]
        return size


class Arrivals(Waiting):
    """Accepts the connections of a server without TLS.

    Connections are accepted in groups: the system calls of a whole group, then the parser, then the
    views. One after the other, a handshake takes 8 % more CPU time, since each step finds the CPU
    caches filled by the others. While views are slow, a group is one connection: the others can
    wait in the kernel, where another process may accept them.

    Requests that come after their connections are served in groups, too.
    """

    def __init__(self, server: Server, listener: socket.socket) -> None:
        super().__init__()
        self._server = server
        self._listener = Listener(listener)
        #: The connections of the group that are not served yet. Nothing else refers to them: to
        #: forget them closes them.
        self._group: deque[_Accepted] = deque()
        #: The size of the next group.
        self._size = 1
        _all.add(self)

    def accept(self) -> None:
        """Accept the connections that wait, and start to serve them. Called in the hub.

        :raises OSError: as ``socket.accept()``.
        """
        left = self._server.max_accept
        end = monotonic() + _SLICE
        while self._serve_group(end) and left > 0:
            most = min(left, self._size)
            left = left - most if self._receive(most) == most else 0

    def _receive(self, most: int) -> int:
        """Accept the next group; return its size."""
        accepted = self._listener.accept(most)
        self._group.extend([(*it, parse_request(it[2]) if it[2] else None, 0.0) for it in accepted])
        return len(accepted)

    def _take(self, arrival: Arrival, data: bytes, since: float) -> None:
        group = self._group
        request = parse_request(data) if data else None
        group.append((arrival.sock, arrival.address, data, request, since))
        if len(group) == 1:
            arrival._hub.loop.run_callback(self._go_on)  # by then, others may have come

    def _limit(self) -> float | None:
        return self._server.options.handshake_timeout

    def _serve_group(self, end: float) -> bool:
        """Start to serve the connections of the group; return whether time is left.

        If not, the others have their turn when the loop has polled once more.
        """
        group = self._group
        served, begin = 0, monotonic()
        now = begin
        try:
            while group and now < end:
                sock, address, data, request, since = group.popleft()
                if data is not None or self.let_wait(sock, address) is None:
                    _serve(self._server, sock, address, data, request, since)
                served += 1
                now = monotonic()
        finally:
            if group:
                hub_state().sweeper.next_turn(self._go_on)
        if served:
            fitting = int(served * _GROUP_TIME / max(now - begin, 1e-6))
            self._size = min(max(fitting, 1), _MAX_GROUP)
        return now < end

    def _go_on(self) -> None:
        self._serve_group(monotonic() + _SLICE)

    def close(self) -> None:
        """Close the connections that are not served yet."""
        self._group.clear()


_all: WeakSet[Arrivals] = WeakSet()


def _abandon_all() -> None:
    for arrivals in list(_all):
        arrivals.close()


os.register_at_fork(after_in_child=_abandon_all)


def _serve(
    server: Server,
    sock: DirectSocket,
    address: Address,
    data: bytes | None,
    request: Request | None,
    since: float,
) -> None:
    """Start a greenlet for a connection.

    :param data: the first bytes, ``b""`` if the client has disconnected; ``None`` if the greenlet
        must wait for them.
    :param request: the WebSocket request at their beginning, if there is one.
    :param since: the time since which the connection has waited for them; 0 if it has not.
    """
    if data == b"":
        sock.close()
        return
    if data and request is not None and request.size <= server.options.max_header_size:
        early = data[request.size :]
        if is_stock(server.handler_class):
            adapter = DirectAdapter(server, sock, address, request, early)
            ViewGreenlet(None, adapter).switch()  # type: ignore[call-overload] # the function is _run()
        else:
            LightGreenlet(_handle_websocket, server, sock, address, request, early).switch()
    else:
        LightGreenlet(_handle, server, sock, address, data, since).switch()


def _handle_websocket(
    server: Server, sock: DirectSocket, address: Address, request: Request, early: bytes
) -> None:
    with closing(AcceptedSocket(sock)) as accepted:
        server.handler_class(accepted, address, server).handle_websocket_request(request, early)


def _handle(
    server: Server,
    sock: DirectSocket,
    address: Address,
    data: bytes | None,
    since: float,
) -> None:
    with closing(AcceptedSocket(sock)) as accepted:
        handler: Any = server.handler_class(accepted, address, server)
        if data:
            handler.rfile = BufferedReader(_EarlyFile(accepted, data), DEFAULT_BUFFER_SIZE)
        handler._waited = monotonic() - since if since else 0.0
        handler.handle()
