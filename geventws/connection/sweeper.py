"""One timer for the deadlines of all connections of a hub.

A timer for each connection would take 300 bytes, a greenlet 10 KiB.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from gevent.hub import Waiter

from .memory import release_memory

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher
    from gevent.hub import Hub

#: The resolution, in seconds.
TICK = 0.25
#: The maximum number of seconds that functions of one turn may occupy the loop.
SLICE = 0.002
#: With at least this number of connections, memory is released when 3/4 of them have ended.
MANY = 250


class Swept(Protocol):
    """A connection with deadlines."""

    #: The tick of its next check; 0 if there is none.
    _due: int

    def _check(self) -> float | None:
        """Check the deadlines, in the hub.

        Returns the seconds until the next check; ``None`` for no further check.
        """

    def _abandon(self) -> None:
        """Abandon the connection in a child process: the peer belongs to the parent."""

    def _release(self) -> None:
        """Stop the watchers of the connection, after :meth:`_abandon`."""


class _Bucket(set[Swept]):
    """The connections that are due at one tick. They share one object for its number."""

    __slots__ = ("due",)

    def __init__(self, due: int) -> None:
        super().__init__()
        self.due = due


class Sweeper:
    """Checks each connection when its deadline is due.

    Connections are sorted into buckets by tick. The cost of a tick is proportional to the number
    of connections that are due, not to the number of connections.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = hub.loop
        self._tick = 0
        self._buckets: dict[int, _Bucket] = {}
        self._timer: _TimerWatcher | None = None
        #: The number of connections, and the largest number since memory was released.
        self._count = 0
        self._peak = 0
        self._shrunk = False
        #: Functions to call after the loop has polled all descriptors.
        self._turns: deque[Callable[[], object]] = deque()
        #: Whether a timer will call them.
        self._is_turn_due = False

    def next_turn(self, function: Callable[[], object]) -> None:
        """Call a function after the loop has polled all descriptors once more.

        gevent runs callbacks of the loop, and so ``sleep(0)``, for up to five milliseconds before
        it polls.
        """
        self._turns.append(function)
        self._start_turn()

    def _start_turn(self) -> None:
        if self._turns and not self._is_turn_due:
            timer = self._loop.timer(0)
            timer.start(self._take_turns, timer)
            self._is_turn_due = True

    def _take_turns(self, timer: _TimerWatcher) -> None:
        timer.close()
        self._is_turn_due = False
        deadline = monotonic() + SLICE
        try:
            for _ in range(len(self._turns)):
                if not self._turns:
                    break  # the function has forked, and this is the child: see abandon()
                function = self._turns.popleft()
                try:
                    function()
                except BaseException:  # noqa: BLE001 - the next function must still be called
                    self._hub.handle_error(function, *sys.exc_info())
                if monotonic() >= deadline:
                    break  # thousands of connections may end together
        finally:
            self._start_turn()

    def let_others_run(self) -> None:
        """Block until the loop has polled all descriptors once more."""
        waiter: Any = Waiter(self._hub)
        self.next_turn(partial(waiter.switch, None))
        waiter.get()

    def add(self, connection: Swept, seconds: float) -> None:
        """Check a connection after ``seconds``, rounded up to whole ticks."""
        due = self._tick + (-int(-seconds // TICK) if seconds > TICK else 1)
        bucket = self._buckets.get(due)
        if bucket is None:
            bucket = self._new_bucket(due)
        connection._due = bucket.due
        bucket.add(connection)
        self._count += 1

    def _new_bucket(self, due: int) -> _Bucket:
        bucket = self._buckets[due] = _Bucket(due)
        if self._timer is None:
            # The timer alone does not keep the loop running.
            self._timer = self._loop.timer(TICK, TICK, ref=False)
            self._timer.start(self._sweep)
        return bucket

    def remove(self, connection: Swept) -> None:
        """Cancel the next check of a connection."""
        due, connection._due = connection._due, 0
        bucket = self._buckets.get(due) if due else None
        if bucket is not None and connection in bucket:
            bucket.remove(connection)
            self._count -= 1
            if not bucket:
                del self._buckets[due]

    def abandon(self) -> set[Swept]:
        """Forget all connections, in a child process; return them."""
        connections = set[Swept]().union(*self._buckets.values())
        self._buckets.clear()
        self._turns.clear()
        self._is_turn_due = False
        self._count = self._peak = 0
        return connections

    def _sweep(self) -> None:
        self._tick += 1
        self._peak = max(self._peak, self._count)
        self._check_due(self._tick)
        if self._shrunk:
            # By now the greenlets of the ended connections have ended, too.
            self._shrunk = False
            release_memory()
        elif self._peak >= MANY and self._count <= self._peak // 4:
            self._shrunk = True
            self._peak = self._count
        if not self._buckets and not self._shrunk and self._timer is not None:
            self._timer.close()
            self._timer = None

    def _check_due(self, tick: int) -> None:
        """Check the connections that are due at a tick.

        Thousands may be due together, after a restart of the server: messages are served meanwhile.
        """
        bucket = self._buckets.get(tick)
        deadline = monotonic() + SLICE
        while bucket:
            if monotonic() >= deadline:
                self.next_turn(partial(self._check_due, tick))
                return
            connection = bucket.pop()
            self._count -= 1
            if not bucket:
                del self._buckets[tick]
            connection._due = 0
            try:
                seconds = connection._check()
            except Exception:  # noqa: BLE001 - the next connection must still be checked
                self._hub.handle_error(connection, *sys.exc_info())
                continue
            if seconds is not None:
                self.add(connection, seconds)
