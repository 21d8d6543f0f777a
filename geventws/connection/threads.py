"""Calls from other threads into the thread that a connection belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gevent import spawn
from gevent.monkey import get_original

from ..exceptions import ConnectionClosed
from ..protocol.frames import CloseCode

if TYPE_CHECKING:
    from gevent.hub import Hub

Result = TypeVar("Result")

#: The operating system's functions. gevent's replacements would work on greenlets.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_new_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
#: Seconds that the hub may take to start the call.
PATIENCE = 30.0


def is_running(hub: Hub) -> bool:
    """Whether the hub exists. It is destroyed at the end of its thread."""
    return hub.loop is not None and not hub.dead


def call_in_child(hub: Hub, function: Callable[[], object]) -> None:
    """Call a function that stops watchers, in a child process that has just been forked.

    When a watcher stops, libuv removes its descriptor from the epoll set at once. Until the loop
    runs, the child shares that set with the parent.
    """
    if "libuv" in type(hub.loop).__module__:
        hub.loop.run_callback(function)
    else:
        function()


def call_in_hub(hub: Hub, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a greenlet of another thread's hub; block this thread until it returns.

    :raises ConnectionClosed: when the hub has ended, and with it the connections of that thread.
    :raises TimeoutError: when the hub does not run for 30 seconds, because its thread is blocked.
        Then the function is not called.
    """
    if not is_running(hub):
        raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, by_peer=False)
    call = _Call(function, arguments)
    hub.loop.run_callback_threadsafe(call.begin)
    return call.wait()


class _Call(Generic[Result]):
    """A function call in another thread, and its result."""

    def __init__(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._result: Result
        self._problem: BaseException | None = None
        # The hub acquires this lock to start the call, the caller to cancel it.
        self._decision = _new_lock()
        self._begun = _new_lock()
        self._done = _new_lock()
        self._begun.acquire()
        self._done.acquire()

    def begin(self) -> None:
        """Start the call; in the hub, which must not block."""
        if self._decision.acquire(False):
            self._begun.release()
            spawn(self._run)

    def _run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as problem:  # noqa: BLE001 - raised in the calling thread
            self._problem = problem
        finally:
            self._done.release()

    def wait(self) -> Result:
        if not self._begun.acquire(timeout=PATIENCE) and self._decision.acquire(False):
            raise TimeoutError(
                f"the thread of this WebSocket has not let its hub run for {PATIENCE:g} seconds"
            )
        self._done.acquire()
        if self._problem is not None:
            raise self._problem
        return self._result
