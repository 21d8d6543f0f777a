"""The open WebSockets of a server, and how all of them come to an end in good order."""
from __future__ import annotations

from math import ceil
from time import monotonic

import gevent
from gevent import getcurrent, sleep
from gevent.event import Event

from .frames import CloseCode
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
        self.reopen()

    def reopen(self) -> None:
        """Take new ones again."""
        #: Whether the server is about to stop: then there are no new ones.
        self.draining = False
        self._empty = Event()

    def discard(self, ws: object) -> None:
        super().discard(ws)
        if self.draining and not self:
            self._empty.set()

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
