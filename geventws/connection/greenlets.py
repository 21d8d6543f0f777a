"""Greenlets that take less memory, references to greenlets, and the functions that they run."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction
from sys import getrefcount
from weakref import getweakrefcount

from gevent import Greenlet


class LightGreenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """A greenlet that does not store the stack of its creation, which is always the same."""

    spawning_stack_limit = 0


def references(greenlet: object) -> int:
    """The number of references to a greenlet, for a comparison with that of another moment."""
    return getrefcount(greenlet) + getweakrefcount(greenlet)


def check_function(function: object) -> None:
    """Check that a view or a callback is a function for a greenlet.

    :raises TypeError: for an ``async def`` function, which would only return a coroutine.
    """
    if iscoroutinefunction(function) or isasyncgenfunction(function):
        raise coroutine_error(getattr(function, "__qualname__", repr(function)))


def coroutine_error(name: str) -> TypeError:
    """Return the error for an ``async def`` function."""
    return TypeError(
        f"{name} is an async def function, and geventws runs functions in greenlets. Write def, and"
        " call methods such as ws.receive() without await"
    )
