"""The state that the connections of one hub share, and the hook for forks."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gevent import get_hub

from .sweeper import Sweeper, Swept
from .threads import call_in_child, is_running
from .transport import HubBuffers

if TYPE_CHECKING:
    from gevent.hub import Hub


class HubState:
    """The shared state of the connections of a hub."""

    __slots__ = ("__weakref__", "buffers", "sweeper")

    def __init__(self, hub: Hub) -> None:
        self.buffers = HubBuffers()
        self.sweeper = Sweeper(hub)

    def abandon(self, hub: Hub) -> None:
        """Give up all connections, in a child process: they belong to the parent."""
        connections = self.sweeper.abandon()
        for connection in connections:
            connection._abandon()
        call_in_child(hub, partial(self._release, connections))

    def _release(self, connections: set[Swept]) -> None:
        # The buffers come first: the parent still uses their epoll set, which must not change.
        self.buffers.abandon()
        for connection in connections:
            connection._release()


_states: WeakKeyDictionary[Hub, HubState] = WeakKeyDictionary()


def hub_state() -> HubState:
    """The state of the running thread's hub."""
    hub = get_hub()
    state = _states.get(hub)
    if state is None:
        state = _states[hub] = HubState(hub)
    return state


def _after_fork() -> None:
    for hub, state in list(_states.items()):
        if is_running(hub):
            state.abandon(hub)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
