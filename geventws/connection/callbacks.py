"""The greenlets that call the callbacks of detached connections: what happens rarely.

What happens for each event is in :mod:`geventws.connection.transport_py`, which explains how the
greenlets work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .transport import Workers

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher
    from gevent.hub import Hub

    from .transport import HubBuffers

#: Greenlets that were not needed for this number of seconds end.
IDLE_TIME = 10.0


class CallbackPool(Workers):
    """The greenlets of one hub that call callbacks, and the connections that wait for them."""

    def __init__(self, hub: Hub, buffers: HubBuffers) -> None:
        super().__init__(hub, buffers)
        self._is_scheduled = False
        self._timer: _TimerWatcher | None = None

    def _let_wait(self, connection: Any) -> None:
        connection._busy = True
        self.waiting.append(connection)

    def _note_idle(self) -> None:
        if self.waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._hub.loop.run_callback(self._run_waiting)
        if not self.ends_idle:
            self.ends_idle = True
            self._unused = 0
            self._timer = self._hub.loop.timer(IDLE_TIME, IDLE_TIME, ref=False)
            self._timer.start(self._end_unused)

    def _run_waiting(self) -> None:
        self._is_scheduled = False
        waiting = self.waiting
        free = waiting[0]._options.max_callbacks - self.running if waiting else 0
        for _ in range(min(free, len(waiting))):
            connection = waiting.popleft()
            connection._busy = False
            connection._resume_later()

    def _end_unused(self) -> None:
        """End the idle greenlets that were not needed since the last call."""
        unused = self._idle[: self._unused]
        del self._idle[: self._unused]
        self._unused = len(self._idle)
        for worker in unused:
            worker.switch()  # without a job: it ends
        if not self._idle and self._timer is not None:
            self._timer.close()
            self._timer = None
            self.ends_idle = False
