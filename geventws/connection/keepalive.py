"""Deadlines of the peer: for the answer to a Ping, and for the end of a message. No I/O."""

from __future__ import annotations

import itertools
from time import perf_counter

#: Each Ping of this process has a different payload, so that a Pong identifies its Ping.
_ping_numbers = itertools.count()


class Keepalive:
    """Deadlines of one connection, and the latency that its Pings measure."""

    __slots__ = ("_ping", "_unfinished", "due", "is_waiting", "latency")

    def __init__(self, due: float) -> None:
        #: When the peer is checked next, by monotonic().
        self.due = due
        #: Whether keepalive has sent a Ping and waits for a sign of life.
        self.is_waiting = False
        #: Seconds from the latest answered Ping to its Pong.
        self.latency: float | None = None
        #: The payload of the latest unanswered Ping, and when it was sent.
        self._ping: tuple[bytes, float] | None = None
        #: The number of the message that the peer has started, and the time of its first check.
        self._unfinished: tuple[int, float] | None = None

    @staticmethod
    def new_payload() -> bytes:
        """A payload for a Ping of keepalive."""
        return next(_ping_numbers).to_bytes(8, "big")

    def note_ping(self, payload: bytes) -> None:
        """Store the payload and the time of a sent Ping."""
        self._ping = payload, perf_counter()

    def take_pong(self, payload: bytes) -> bool:
        """Return whether a Pong answers the latest Ping, and measure the latency."""
        if self._ping is None or payload != self._ping[0]:
            return False
        self.latency = perf_counter() - self._ping[1]
        self._ping = None
        return True

    def is_message_overdue(self, number: int, now: float, timeout: float) -> bool:
        """Whether a message has been unfinished for ``timeout`` seconds.

        :param number: identifies the unfinished message; 0 if there is none.
        """
        if not number:
            self._unfinished = None
        elif self._unfinished is None or self._unfinished[0] != number:
            self._unfinished = number, now
        else:
            return now - self._unfinished[1] >= timeout
        return False


class Progress:
    """The time of the peer's latest acknowledgement of output."""

    __slots__ = ("_acknowledged", "_since")

    def __init__(self, acknowledged: int, now: float) -> None:
        self._acknowledged = acknowledged
        self._since = now

    def stalled_for(self, acknowledged: int, now: float) -> float:
        """Seconds without progress.

        :param acknowledged: how many bytes of the output the peer has acknowledged so far.
        """
        if acknowledged > self._acknowledged:
            self._since = now
        self._acknowledged = acknowledged
        return now - self._since
