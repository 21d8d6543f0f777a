"""Accepted connections that wait for their first bytes. No greenlet waits for them.

Over a network, the request of nearly every connection comes after the connection itself.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..connection._arrivals import Arrival, DirectSocket
from ..connection.hub import hub_state

if TYPE_CHECKING:
    from .accepting import Address

#: The maximum number of seconds between two checks.
_INTERVAL = 60.0


class Waiting:
    """The connections of a server that wait. A subclass takes them when their bytes arrive.

    They are in the order in which they were accepted, so the first one is due first: one check of
    all takes the place of one for each.
    """

    #: The tick of the sweeper's next check; 0 if there is none.
    _due = 0
    #: Whether the first bytes stay in the kernel.
    _peeks = False

    def __init__(self) -> None:
        #: The time since which each connection waits.
        self._since: dict[Arrival, float] = {}

    def _limit(self) -> float | None:
        """The maximum number of seconds that a connection may wait; ``None`` for no limit."""
        raise NotImplementedError

    def _take(self, arrival: Arrival, data: bytes, since: float) -> None:
        """Take a connection with its first bytes, ``b""`` if the client has disconnected.

        Called in the hub.

        :param since: the time since which it has waited.
        """
        raise NotImplementedError

    def let_wait(self, sock: DirectSocket, address: Address) -> Arrival | None:
        """Let a connection wait; return ``None`` if the system has no resources for it."""
        state = hub_state()
        buffers: Any = state.buffers  # only the compiled ones have the epoll set
        arrival = Arrival(self, state.hub, buffers.watches, sock, address, self._peeks)
        try:
            arrival.wait()
        except OSError:
            return None
        self._since[arrival] = monotonic()
        if not self._due:
            state.sweeper.add(self, min(self._limit() or inf, _INTERVAL))
        return arrival

    def on_first_bytes(self, arrival: Arrival, data: bytes) -> None:
        """Pass a connection on; called by it."""
        self._take(arrival, data, self._forget(arrival))

    def on_descriptor_lost(self, arrival: Arrival) -> None:
        """Forget a connection whose descriptor other code has closed; called by it."""
        self._forget(arrival)

    def _forget(self, arrival: Arrival) -> float:
        """Forget a connection that does not wait any more; return since when it has waited."""
        return self._since.pop(arrival)

    def give_up(self) -> None:
        """Stop waiting. Nothing else refers to the sockets, so they are closed."""
        for arrival in list(self._since):
            self._forget(arrival)
            arrival.release()

    def _drop(self, arrival: Arrival) -> None:
        """Drop a client that has sent nothing in time."""
        self._forget(arrival)
        arrival.release()
        with suppress(OSError):  # other code may have closed the descriptor
            arrival.sock.close()

    def _check(self) -> float | None:
        limit = self._limit() or inf
        now = monotonic()
        for arrival, since in list(self._since.items()):
            left = since + limit - now
            if left > 0:
                return min(left, _INTERVAL)
            self._drop(arrival)
        return None

    def _abandon(self) -> None:
        self._due = 0

    def _release(self) -> None:
        self.give_up()
