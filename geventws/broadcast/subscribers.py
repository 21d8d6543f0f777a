"""Who listens in this process: sockets, and the process itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import getcurrent
from gevent.event import Event
from gevent.monkey import get_original

from ..exceptions import ConnectionClosed
from .backend import log_spoiled, size_of

if TYPE_CHECKING:
    from types import TracebackType

    from ..connection.connection import Connection
    from .backend import Message


#: The interpreter's own: no greenlet switches while it is held.
_Lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
Place = TypeVar("Place", bound="_Place")


class Queue:
    """Messages that wait, and their size."""

    __slots__ = ("_messages", "size")

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        #: In bytes of memory.
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self.size += size_of(message)

    def take(self) -> Message:
        """Remove the oldest message.

        :raises IndexError: if there is none.
        """
        message = self._messages.popleft()
        self.size -= size_of(message)
        return message

    def clear(self) -> None:
        self._messages.clear()
        self.size = 0

    def ids(self) -> list[str | None]:
        """The ids of the messages, the oldest first."""
        return [message.id for message in self._messages]


class SharedQueue(Queue):
    """A queue that any thread may use."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = _Lock()

    def put(self, message: Message) -> None:
        with self._lock:
            super().put(message)

    def take(self) -> Message:
        with self._lock:
            return super().take()


class Channel:
    """The local listeners of one channel."""

    __slots__ = ("joining", "listeners", "live")

    def __init__(self) -> None:
        #: Those that get every message as it comes.
        self.live: set[Connection] = set()
        #: Those that are being told what they missed.
        self.joining: dict[Connection, Subscription] = {}
        self.listeners: set[Listener] = set()

    def __bool__(self) -> bool:
        return bool(self.live or self.joining or self.listeners)


class _Place:
    """Something to :meth:`close` at the end of a ``with`` block."""

    __slots__ = ()

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: Place) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Subscription(_Place):
    """A socket's place in a channel, until :meth:`close` or the end of its ``with`` block."""

    __slots__ = (
        "_leave",
        "_waiting",
        "channel",
        "greenlet",
        "recovered",
        "ws",
    )

    def __init__(
        self, leave: Callable[[str, Connection], None], channel: str, ws: Connection
    ) -> None:
        self._leave = leave
        self.channel = channel
        self.ws = ws
        #: Whether nothing is missing between ``since`` and now: ``False`` if more was missed than
        #: is kept, or ``since`` is unknown; ``None`` as long as the history cannot be read.
        self.recovered: bool | None = True
        #: Waits to replay the history once it can be read.
        self.greenlet: Any = None
        #: What came while it was told what it missed.
        self._waiting = Queue()

    def close(self) -> None:
        """Leave the channel; never blocks, and may be called again."""
        self._leave(self.channel, self.ws)

    def hear(self, message: Message) -> None:
        """Take a message that comes while this is told what it missed."""
        self._waiting.put(message)

    @property
    def is_overdue(self) -> bool:
        """Whether what waits takes more memory than what is sent may wait for."""
        return self._waiting.size > self.ws._send_limit

    def forget_waiting(self) -> None:
        """Lose what waits."""
        self._waiting.clear()

    def replay(
        self, messages: list[Message], since: str, write: Callable[[Message], str | bytes]
    ) -> None:
        """Send what was missed after ``since``, and what has come since; blocks as ``ws.send()``.

        The former has come by already, with all that is older: perhaps while this was waiting.
        A message that cannot be sent is logged and left out.
        """
        ids = self._waiting.ids()
        if since in ids:
            for _ in range(ids.index(since) + 1):
                self._waiting.take()
        here = set(self._waiting.ids())
        try:
            for message in messages:
                if message.id not in here:
                    self._send(message, write)
            while self._waiting:
                self._send(self._waiting.take(), write)
        except ConnectionClosed:
            pass  # its view notices by itself

    def _send(self, message: Message, write: Callable[[Message], str | bytes]) -> None:
        try:
            self.ws.send(write(message))
        except ConnectionClosed:
            raise
        except Exception:  # noqa: BLE001 - the application's, in its envelope; it is logged
            log_spoiled(self.channel)


class Listener(_Place):
    """The messages of a channel for the process itself; see :meth:`geventws.Broadcast.listen`."""

    __slots__ = ("_has_news", "_is_closed", "_leave", "_max", "_waiting", "channel", "lost")

    def __init__(
        self,
        leave: Callable[[Listener], None],
        channel: str,
        max_queued_messages: int,
        max_queued_bytes: int,
    ) -> None:
        self._leave = leave
        self.channel = channel
        #: How many messages have been dropped because the loop did not keep up.
        self.lost = 0
        self._max = max_queued_messages, max_queued_bytes
        self._waiting = Queue()
        self._is_closed = False
        self._has_news = Event()

    def hear(self, message: Message) -> None:
        """Take a message; the oldest ones make room, and the newest one always has some."""
        self._waiting.put(message)
        most, largest = self._max
        while len(self._waiting) > 1 and (
            len(self._waiting) > most or self._waiting.size > largest
        ):
            self._waiting.take()
            self.lost += 1
        if len(self._waiting) == 1:
            self._has_news.set()

    def end(self) -> None:
        """End the loop, after the messages that wait."""
        self._is_closed = True
        self._has_news.set()

    def close(self) -> None:
        """Leave the channel, and end the loop over this; never blocks."""
        self._leave(self)
        self.end()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._waiting:
            if self._is_closed:
                raise StopIteration
            self._has_news.clear()
            self._has_news.wait()
        return self._waiting.take()


def stop(greenlet: Any) -> None:
    """End a greenlet, unless it is the one that asks for it."""
    if greenlet is not None and greenlet is not getcurrent():
        greenlet.kill(block=False)
