"""One timer for all connections of a hub: a timer each would weigh 300 bytes, a greenlet 10 KiB."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol

from gevent.hub import Waiter

from .malloc_trim import release_memory

if TYPE_CHECKING:
    from gevent.hub import Hub

#: The resolution, in seconds.
TICK = 0.25
#: When three quarters of so many connections have gone, their memory goes, too.
MANY = 250


class Swept(Protocol):
    """What is looked after."""

    #: The tick at which it is checked next; 0 if it is not.
    _due: int

    def _check(self) -> float | None:
        """Called in the hub; returns after how many seconds to call again, None for never."""

    def _abandon(self) -> None:
        """Called in a child process, where the peer is the parent's."""


class Sweeper:
    """Calls each connection when its time has come, a few at a time.

    The connections wait in buckets by the tick at which they are due, so that a tick costs in
    proportion to what is due, not to what is there.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = hub.loop
        self._tick = 0
        self._buckets: dict[int, set[Swept]] = {}
        self._timer: Any = None
        #: How many connections there are, and how many there were at most.
        self._count = 0
        self._peak = 0
        self._shrunk = False
        #: What is called when the loop has looked at all descriptors.
        self._turns: list[Callable[[], object]] = []

    def next_turn(self, function: Callable[[], object]) -> None:
        """Call a function after the loop has looked at all descriptors once more.

        The loop's own callbacks, and so ``sleep(0)``, go on among themselves for five milliseconds
        before it looks.
        """
        if not self._turns:
            # Before the append: if this raises, the next call tries again.
            timer = self._loop.timer(0)
            timer.start(self._take_turns, timer)
        self._turns.append(function)

    def _take_turns(self, timer: Any) -> None:
        timer.close()
        turns, self._turns = self._turns, []
        for function in turns:
            try:
                function()
            except BaseException:  # noqa: BLE001 - the others must not suffer for it
                self._hub.handle_error(function, *sys.exc_info())

    def let_others_run(self) -> None:
        """Block until the loop has looked at all descriptors once more."""
        waiter: Any = Waiter(self._hub)
        self.next_turn(partial(waiter.switch, None))
        waiter.get()

    def add(self, connection: Swept, seconds: float) -> None:
        """Check the connection in so many seconds, rounded up to whole ticks."""
        due = connection._due = self._tick + max(1, ceil(seconds / TICK))
        bucket = self._buckets.get(due)
        if bucket is None:
            bucket = self._buckets[due] = set()
        bucket.add(connection)
        self._count += 1
        if self._timer is None:
            # It does not keep the loop alive when nothing else does.
            self._timer = self._loop.timer(TICK, TICK, ref=False)
            self._timer.start(self._sweep)

    def remove(self, connection: Swept) -> None:
        """Forget the connection."""
        due, connection._due = connection._due, 0
        bucket = self._buckets.get(due) if due else None
        if bucket is not None and connection in bucket:
            bucket.remove(connection)
            self._count -= 1
            if not bucket:
                del self._buckets[due]

    def abandon(self) -> None:
        """Forget all of them, in a child process."""
        for connection in set[Swept]().union(*self._buckets.values()):
            connection._abandon()
        self._buckets.clear()
        self._turns.clear()
        self._count = self._peak = 0

    def _sweep(self) -> None:
        self._tick += 1
        self._peak = max(self._peak, self._count)
        due = self._buckets.pop(self._tick, ())
        self._count -= len(due)
        for connection in due:
            connection._due = 0
            try:
                seconds = connection._check()
            except Exception:  # noqa: BLE001 - a fault of ours; the others must not suffer for it
                self._hub.handle_error(connection, *sys.exc_info())
                continue
            if seconds is not None:
                self.add(connection, seconds)
        if self._shrunk:
            # By now the greenlets of those that have gone have ended, too.
            self._shrunk = False
            release_memory()
        elif self._peak >= MANY and self._count <= self._peak // 4:
            self._shrunk = True
            self._peak = self._count
        if not self._buckets and not self._shrunk:
            self._timer.close()
            self._timer = None
