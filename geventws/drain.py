"""The open WebSockets of a server: how many, and how all of them come to an end in good order."""
from __future__ import annotations

import dataclasses
from math import ceil
from time import monotonic
from weakref import WeakValueDictionary, finalize

import gevent
from gevent import getcurrent, sleep
from gevent.event import Event

from .frames import CloseCode
from .totals import Stats, Totals
from .websocket import WebSocket

#: Which part of the time the Close frames are spread over: clients that are told to go at once
#: would all come back at once. The rest is for their answers.
_SPREAD = 0.5
#: How often, in seconds, some are closed; so a few are closed almost at once.
_TICK = 0.01
#: How often, in seconds, those are looked for that views have accepted meanwhile.
_LATECOMERS = 0.1


class OpenWebSockets(set[WebSocket]):
    """The WebSockets that views are busy with."""

    def __init__(self) -> None:
        super().__init__()
        #: What has happened on them, and on those that are not open any more.
        self.totals = Totals()
        _alive[id(self)] = self
        # Not at exit, when it would still be among the living.
        finalize(self, _bury, self.totals).atexit = False
        self.reopen()

    def reopen(self) -> None:
        """Take new ones again."""
        #: Whether the server is about to stop: then there are no new ones.
        self.draining = False
        self._empty = Event()

    def discard(self, ws: WebSocket) -> None:  # type: ignore[override] # nothing else is in it
        if ws._opened:
            code = ws.close_code
            self.totals.closed[CloseCode.ABNORMAL_CLOSURE if code is None else code] += 1
        super().discard(ws)
        if self.draining and not self:
            self._empty.set()

    def stats(self) -> Stats:
        """What is open, and what has happened so far. Takes a microsecond for each that is open."""
        ours = [ws for ws in list(self) if ws._opened]  # a copy: other threads may look, too
        unsent = [ws._out_size for ws in ours]
        return dataclasses.replace(
            _happened(self.totals),
            connections=len(ours),
            receive_queue=sum(len(ws._queue or ()) for ws in ours),
            receive_queue_size=sum(ws._queue_size for ws in ours),
            send_buffer_size=sum(unsent),
            send_buffer_size_max=max(unsent, default=0),
        )

    def drain(self, timeout: float) -> bool:
        """Close them with 1001 (going away), and wait until their views have ended.

        Blocks until the last one has, at most ``timeout`` seconds; returns whether it has.
        """
        self.draining = True
        deadline = monotonic() + timeout
        told: set[WebSocket] = set()
        self._tell(told, timeout * _SPREAD)
        while self and monotonic() < deadline:
            self._empty.wait(min(_LATECOMERS, deadline - monotonic()))
            self._tell(told)
        return not self

    def kill(self) -> None:
        """End the views that are left: ``GreenletExit`` is raised in them."""
        views = [ws._view for ws in self if ws._view is not getcurrent()]
        gevent.killall(views, block=True, timeout=1)

    def _tell(self, told: set[WebSocket], seconds: float = 0.0) -> None:
        """Send the Close frames that are due, spread over so much time."""
        due = [ws for ws in self if ws._opened and ws not in told]
        told.update(due)
        size = ceil(len(due) * _TICK / seconds) if seconds else len(due)
        for start in range(0, len(due), size or 1):
            for ws in due[start:start + size]:
                ws._begin_close(CloseCode.GOING_AWAY)
            if seconds:
                sleep(_TICK)


_alive: WeakValueDictionary[int, OpenWebSockets] = WeakValueDictionary()
#: What has happened on servers that are gone.
_buried = Stats()


def stats() -> Stats:
    """The :class:`Stats` of all servers and middlewares of this process; in any thread."""
    total = _buried
    for websockets in list(_alive.values()):
        total += websockets.stats()
    return total


def _happened(totals: Totals) -> Stats:
    """What has been counted."""
    return Stats(
        connections_opened=totals.opened,
        connections_closed=dict(totals.closed),
        connections_refused=dict(totals.refused),
        messages_received=totals.messages_received,
        messages_sent=totals.messages_sent,
        bytes_received=totals.bytes_received,
        bytes_sent=totals.bytes_sent,
        pings_sent=totals.pings_sent,
        pongs_received=totals.pongs_received,
        slow_consumers_dropped=totals.slow_consumers_dropped,
    )


def _bury(totals: Totals) -> None:
    global _buried  # noqa: PLW0603
    _buried += _happened(totals)
