"""A greenlet that takes less memory, and the number of references to a greenlet."""

from __future__ import annotations

from sys import getrefcount
from weakref import getweakrefcount

from gevent import Greenlet


class LightGreenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """A greenlet that does not store the stack of its creation, which is always the same."""

    spawning_stack_limit = 0


def references(greenlet: object) -> int:
    """The number of references to a greenlet, for a comparison with that of another moment."""
    return getrefcount(greenlet) + getweakrefcount(greenlet)
