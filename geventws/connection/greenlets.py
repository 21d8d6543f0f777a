"""Greenlets that take less memory, and the functions that greenlets run."""

from __future__ import annotations

from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, isasyncgenfunction, iscoroutinefunction
from types import FunctionType

from gevent import Greenlet


class LightGreenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """A greenlet that does not store the stack of its creation, which is always the same."""

    spawning_stack_limit = 0


def check_function(function: object) -> None:
    """Check that a view or a callback is a function for a greenlet.

    :raises TypeError: for an ``async def`` function, which would only return a coroutine.
    """
    if type(function) is FunctionType and not function.__dict__:
        # The functions of inspect are slow. They also look for a mark in __dict__.
        is_async = function.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR) != 0
    else:
        is_async = iscoroutinefunction(function) or isasyncgenfunction(function)
    if is_async:
        raise coroutine_error(getattr(function, "__qualname__", repr(function)))


def coroutine_error(name: str) -> TypeError:
    """Return the error for an ``async def`` function."""
    return TypeError(
        f"{name} is an async def function, and geventws runs functions in greenlets. Write def, and"
        " call methods such as ws.receive() without await"
    )
