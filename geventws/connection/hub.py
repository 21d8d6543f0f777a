"""The state that the connections of one hub share, and the hook for forks."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from gevent import get_hub

from .callbacks import CallbackPool
from .sweeper import Sweeper, Swept
from .threads import call_in_child, is_running
from .transport import HubBuffers

if TYPE_CHECKING:
    from gevent.hub import Hub


class HubState:
    """The shared state of the connections of a hub."""

    __slots__ = ("__weakref__", "buffers", "hub", "sweeper")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.buffers = HubBuffers()
        self.buffers.pool = CallbackPool(hub, self.buffers)
        self.sweeper = Sweeper(hub)

    def abandon(self) -> None:
        """Give up all connections, in a child process: they belong to the parent."""
        connections = self.sweeper.abandon()
        self.buffers.pool.waiting.clear()
        self.buffers.leader = None  # a callback that has forked is the last one of its greenlet
        for connection in connections:
            connection._abandon()
        call_in_child(self.hub, partial(self._release, connections))

    def _release(self, connections: set[Swept]) -> None:
        # The buffers come first: the parent still uses their epoll set, which must not change.
        self.buffers.abandon()
        for connection in connections:
            connection._release()


_states: WeakSet[HubState] = WeakSet()


def hub_state() -> HubState:
    """The state of the running thread's hub.

    It is an attribute of the hub, and ends with it: a WeakKeyDictionary would keep both alive.
    """
    # Any: an attribute that gevent's class does not declare.
    hub: Any = get_hub()
    try:
        state: HubState = hub._geventws_state
    except AttributeError:
        state = hub._geventws_state = HubState(hub)
        _states.add(state)
    return state


def _after_fork() -> None:
    for state in list(_states):
        if is_running(state.hub):
            state.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
