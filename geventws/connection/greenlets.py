"""Greenlets that take less memory, and the functions that greenlets run."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction

from gevent import Greenlet


class LightGreenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """A greenlet that does not store the stack of its creation, which is always the same."""

    spawning_stack_limit = 0


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
