"""Spread new connections evenly over the processes that accept from one listening socket.

The kernel reports a new connection to all of them, and without an agreement the fastest one gets
most. A WebSocket stays where it is for hours, so the difference stays, too.
"""

from __future__ import annotations

from math import inf
from mmap import mmap
from struct import Struct
from time import monotonic
from weakref import WeakValueDictionary

#: The load of a process, and when it was written, by the clock that all processes share.
_ENTRY = Struct("dd")
#: The number of places that were ever used, before the entries.
_COUNT = Struct("q")
#: The maximum number of processes that share the load. Others accept all that they can.
_MAX_PROCESSES = 64
#: The load of a process that must get no connection as long as another one has room.
FULL = inf
#: Seconds for which a load is believed. A worker of gunicorn writes it every second.
_VALID = 3.0
#: A process may have so many more connections than the least loaded one, or this part more: in a
#: rush, several processes accept at the same time.
_MARGIN = 4
_PART = 1 / 32


class Loads:
    """The loads of several processes, in memory that they share.

    Created in the parent process, before it forks. A place belongs to an object of the parent, for
    instance to gunicorn's object for a worker, and is free again when that object is gone.
    """

    def __init__(self) -> None:
        self._memory = mmap(-1, _COUNT.size + _ENTRY.size * _MAX_PROCESSES)
        self._places: WeakValueDictionary[int, object] = WeakValueDictionary()

    def join(self, owner: object) -> Place | None:
        """Return a place for a new process; ``None`` if there are too many."""
        for number in range(_MAX_PROCESSES):
            if number not in self._places:
                self._places[number] = owner
                (count,) = _COUNT.unpack_from(self._memory)
                _COUNT.pack_into(self._memory, 0, max(count, number + 1))
                return Place(self._memory, number)
        return None


class Place:
    """The place of one process in the shared memory."""

    def __init__(self, memory: mmap, number: int) -> None:
        self._memory = memory
        self._offset = _COUNT.size + number * _ENTRY.size
        _ENTRY.pack_into(memory, self._offset, FULL, 0.0)  # until the process reports its load

    def is_shared(self) -> bool:
        """Whether there has been another process with a place since the parent process started."""
        (count,) = _COUNT.unpack_from(self._memory)
        return bool(count > 1)

    def report(self, load: float) -> None:
        """Tell the other processes the load of this one."""
        _ENTRY.pack_into(self._memory, self._offset, load, monotonic())

    def should_accept(self, load: float, has_waited: bool) -> bool:
        """Report the load; return whether the next connection is for this process.

        :param has_waited: whether the other processes have had time to accept it. They are busy, or
            full.
        """
        self.report(load)
        valid_since = monotonic() - _VALID
        (count,) = _COUNT.unpack_from(self._memory)
        used = self._memory[_COUNT.size : _COUNT.size + count * _ENTRY.size]
        least: float = min(
            each for each, written in _ENTRY.iter_unpack(used) if written >= valid_since
        )
        if load == FULL:
            return least == FULL
        return has_waited or load <= least + max(_MARGIN, least * _PART)
