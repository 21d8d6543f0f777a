"""The open WebSockets of a server: their number, their statistics, and their drain."""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from time import monotonic
from weakref import WeakValueDictionary, finalize

import gevent
from gevent import getcurrent, sleep
from gevent.event import Event

from ..connection.counters import Totals
from ..protocol.frames import CloseCode
from .stats import Stats
from .websocket import WebSocket

#: The part of the drain time over which Close frames are spread: clients that are closed together
#: would reconnect together. The rest is for their answers.
_SPREAD = 0.5
#: Seconds between two groups of Close frames. A few WebSockets are closed almost at once.
_TICK = 0.01
#: Seconds between two checks for WebSockets that were accepted during the drain.
_LATECOMERS = 0.1


# super() takes longer.
_add = set.add
_discard = set.discard


class OpenWebSockets(set[WebSocket]):
    """The WebSockets whose views are running, and those that are detached from their views."""

    def __init__(self) -> None:
        super().__init__()
        #: Creates the WebSockets.
        self.websocket_class: Callable[..., WebSocket] = WebSocket
        self._empty = Event()
        self._empty.set()
        #: The counters of these WebSockets, and of the WebSockets that have ended.
        self.totals = Totals()
        _alive[id(self)] = self
        # Not at exit, when this object would still be counted as alive.
        finalize(self, _keep_totals, self.totals).atexit = False
        self.reopen()

    def reopen(self) -> None:
        """Accept new WebSockets again."""
        #: Whether the server is stopping, and refuses new WebSockets.
        self.draining = False

    def add(self, ws: WebSocket) -> None:
        if not self:
            self._empty.clear()
        _add(self, ws)

    def discard(self, ws: WebSocket) -> None:  # type: ignore[override] # it contains nothing else
        if not ws.accepted:
            self.forget(ws)
            return
        code = ws.close_code
        if code is None:
            code = CloseCode.ABNORMAL_CLOSURE
        self.totals.closed[code] += 1
        self.forget(ws)
        ws._log_end(code)

    def forget(self, ws: WebSocket) -> None:
        """Remove a WebSocket without counting its end: it belongs to the parent process."""
        _discard(self, ws)
        if not self:
            self._empty.set()

    def wait_until_empty(self, timeout: float) -> bool:
        """Block at most ``timeout`` seconds; return whether no WebSocket is left."""
        return self._empty.wait(timeout)

    def stats(self) -> Stats:
        """Statistics up to now. Takes a microsecond for each open WebSocket."""
        accepted = [ws for ws in list(self) if ws.accepted]  # a copy: threads may call this
        buffered = [ws._buffered for ws in accepted]
        return dataclasses.replace(
            Stats.of(self.totals),
            connections=len(accepted),
            callbacks_running=sum(ws._worker is not None for ws in accepted),
            callbacks_waiting=sum(ws._waits_for_greenlet for ws in accepted),
            receive_queue=sum(each.messages for each in buffered),
            receive_queue_size=sum(each.received for each in buffered),
            send_buffer_size=sum(each.unsent for each in buffered),
            send_buffer_size_max=max((each.unsent for each in buffered), default=0),
        )

    def drain(self, timeout: float) -> bool:
        """Close all WebSockets with 1001 (going away), and wait until their views have ended.

        Blocks at most ``timeout`` seconds; returns whether all views have ended.
        """
        self.draining = True
        timeout = max(timeout, 0.0)
        deadline = monotonic() + timeout
        closed: set[WebSocket] = set()
        self._close_accepted(closed, timeout * _SPREAD)
        while self and monotonic() < deadline:
            self.wait_until_empty(min(_LATECOMERS, deadline - monotonic()))
            self._close_accepted(closed)
        return not self

    def close_detached(self) -> None:
        """Send Close frames to the WebSockets that no greenlet of the server serves any more."""
        for ws in list(self):
            if ws._is_detached:
                ws._start_close(CloseCode.GOING_AWAY)

    def kill(self) -> None:
        """End the views and callbacks that are left: ``GreenletExit`` is raised in them."""
        running = [ws._view or ws._worker for ws in self]
        for ws in list(self):
            if ws._is_detached:
                ws._on_message = None
                ws._drop()
        left = [each for each in running if each is not None and each is not getcurrent()]
        gevent.killall(left, block=True, timeout=1)
        self.wait_until_empty(1)  # on_close() is called for detached ones

    def _close_accepted(self, closed: set[WebSocket], seconds: float = 0.0) -> None:
        """Send Close frames to the WebSockets that are not in ``closed``, over some seconds."""
        due = [ws for ws in self if ws.accepted and ws not in closed]
        closed.update(due)
        size = ceil(len(due) * _TICK / seconds) if seconds else len(due)
        size = max(size, 1)  # without a time limit, one after the other
        for start in range(0, len(due), size):
            for ws in due[start : start + size]:
                ws._start_close(CloseCode.GOING_AWAY)
            if seconds:
                sleep(_TICK)


_alive: WeakValueDictionary[int, OpenWebSockets] = WeakValueDictionary()
#: Totals of servers that do not exist any more.
_ended = Stats()


def stats() -> Stats:
    """The :class:`Stats` of all servers and middlewares of this process.

    May be called in any thread.
    """
    total = _ended
    for websockets in list(_alive.values()):
        total += websockets.stats()
    return total


def _keep_totals(totals: Totals) -> None:
    global _ended  # noqa: PLW0603
    _ended += Stats.of(totals)


def _close_all() -> None:
    """Send Close frames at the end of the process. Nothing waits for the answers."""
    for websockets in list(_alive.values()):
        for ws in list(websockets):
            if ws.accepted:
                with suppress(Exception):  # the hub may have ended
                    ws._start_close(CloseCode.GOING_AWAY)


atexit.register(_close_all)
