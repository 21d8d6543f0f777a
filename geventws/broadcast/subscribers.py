"""The subscribers of this process: sockets, and loops over :class:`Listener`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from gevent import getcurrent
from gevent.event import Event
from gevent.monkey import get_original

from ..exceptions import ConnectionClosed
from .backend import log_dropped, size_of

if TYPE_CHECKING:
    from types import TracebackType

    from gevent import Greenlet

    from ..connection.connection import Connection
    from .backend import Message

#: The original lock, not gevent's: no greenlet switch happens while it is held.
_new_lock: Callable[[], AbstractContextManager[bool]] = get_original("_thread", "allocate_lock")
Self = TypeVar("Self", bound="_Closeable")


class Queue:
    """A queue of messages, with the memory that they take."""

    __slots__ = ("_messages", "size")

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        #: Bytes of memory that the messages take.
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self.size += size_of(message)

    def get(self) -> Message:
        """Remove the oldest message and return it.

        :raises IndexError: if the queue is empty.
        """
        message = self._messages.popleft()
        self.size -= size_of(message)
        return message

    def clear(self) -> None:
        self._messages.clear()
        self.size = 0

    def ids(self) -> list[str | None]:
        """Return the ids of the messages, the oldest first."""
        return [message.id for message in self._messages]


class ThreadSafeQueue(Queue):
    """A queue that any thread may use."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = _new_lock()

    def put(self, message: Message) -> None:
        with self._lock:
            super().put(message)

    def get(self) -> Message:
        with self._lock:
            return super().get()


class Channel:
    """The subscribers of one channel in this process."""

    __slots__ = ("listeners", "replaying", "sockets")

    def __init__(self) -> None:
        #: Sockets that get each message immediately.
        self.sockets: set[Connection] = set()
        #: Sockets that get stored messages first; new messages wait in their subscriptions.
        self.replaying: dict[Connection, Subscription] = {}
        self.listeners: set[Listener] = set()

    def __bool__(self) -> bool:
        return bool(self.sockets or self.replaying or self.listeners)


class _Closeable:
    """A context manager that calls :meth:`close` at the end of its ``with`` block."""

    __slots__ = ()

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Subscription(_Closeable):
    """The subscription of a socket, until :meth:`close` or the end of its ``with`` block."""

    __slots__ = (
        "_queue",
        "_unsubscribe",
        "channel",
        "greenlet",
        "recovered",
        "ws",
    )

    def __init__(
        self, unsubscribe: Callable[[str, Connection], None], channel: str, ws: Connection
    ) -> None:
        self._unsubscribe = unsubscribe
        self.channel = channel
        self.ws = ws
        #: Whether the socket got every message after ``since``. ``False`` if the history does not
        #: reach back to ``since``, or ``since`` is unknown. ``None`` until the history was read.
        self.recovered: bool | None = True
        #: The greenlet that retries to read the history, if the first attempt failed.
        self.greenlet: Greenlet[..., None] | None = None
        #: New messages that wait for the end of the replay.
        self._queue = Queue()

    def close(self) -> None:
        """Unsubscribe the socket. Never blocks; idempotent."""
        self._unsubscribe(self.channel, self.ws)

    def enqueue(self, message: Message) -> None:
        """Add a new message to the queue, until the stored messages have been sent."""
        self._queue.put(message)

    @property
    def is_over_limit(self) -> bool:
        """Whether the queue takes more memory than the send buffer of the socket may take."""
        return self._queue.size > self.ws._send_limit

    def clear_queue(self) -> None:
        """Drop the messages in the queue."""
        self._queue.clear()

    def replay(
        self, messages: list[Message], since: str, encode: Callable[[Message], str | bytes]
    ) -> None:
        """Send the stored messages after ``since``, then the queue. Blocks as ``ws.send()`` does.

        Every stored message was also delivered while it was new, perhaps into the queue. Messages
        of the queue up to ``since`` are skipped, and no message is sent twice. A message that
        cannot be sent is logged and dropped.
        """
        ids = self._queue.ids()
        if since in ids:
            for _ in range(ids.index(since) + 1):
                self._queue.get()
        queued = set(self._queue.ids())
        try:
            for message in messages:
                if message.id not in queued:
                    self._send(message, encode)
            while self._queue:
                self._send(self._queue.get(), encode)
        except ConnectionClosed:
            pass  # the view of the socket handles it

    def _send(self, message: Message, encode: Callable[[Message], str | bytes]) -> None:
        try:
            self.ws.send(encode(message))
        except ConnectionClosed:
            raise
        except Exception:  # noqa: BLE001 - raised by the application's envelope; it is logged
            log_dropped(self.channel)


class Listener(_Closeable):
    """An iterator over the messages of a channel; see :meth:`geventws.Broadcast.listen`."""

    __slots__ = (
        "_is_closed",
        "_is_ready",
        "_limits",
        "_queue",
        "_stop_listening",
        "channel",
        "lost",
    )

    def __init__(
        self,
        stop_listening: Callable[[Listener], None],
        channel: str,
        max_queued_messages: int,
        max_queued_bytes: int,
    ) -> None:
        self._stop_listening = stop_listening
        self.channel = channel
        #: The number of messages that were dropped because the loop was too slow.
        self.lost = 0
        self._limits = max_queued_messages, max_queued_bytes
        self._queue = Queue()
        self._is_closed = False
        self._is_ready = Event()

    def enqueue(self, message: Message) -> None:
        """Add a message. Above a limit, drop the oldest ones, but never the newest one."""
        self._queue.put(message)
        max_messages, max_bytes = self._limits
        while len(self._queue) > 1 and (
            len(self._queue) > max_messages or self._queue.size > max_bytes
        ):
            self._queue.get()
            self.lost += 1
        if len(self._queue) == 1:
            self._is_ready.set()

    def end(self) -> None:
        """End the loop after the messages in the queue."""
        self._is_closed = True
        self._is_ready.set()

    def close(self) -> None:
        """Unsubscribe, and end the loop after the messages in the queue. Never blocks."""
        self._stop_listening(self)
        self.end()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._queue:
            if self._is_closed:
                raise StopIteration
            self._is_ready.clear()
            self._is_ready.wait()
        return self._queue.get()


def kill_greenlet(greenlet: Greenlet[..., None] | None) -> None:
    """Kill a greenlet without waiting for its end, unless it is the current one."""
    if greenlet is not None and greenlet is not getcurrent():
        greenlet.kill(block=False)
