"""Who listens in this process: sockets, and the process itself."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import getcurrent
from gevent.queue import Queue

from ..exceptions import ConnectionClosed

if TYPE_CHECKING:
    from types import TracebackType

    from ..connection import Connection
    from .base import Message

#: How many messages wait for the loop of a :class:`Listener`.
LISTENER_QUEUE = 1000
Place = TypeVar("Place", bound="_Place")


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
        self, kind: type[BaseException] | None, problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Subscription(_Place):
    """A socket's place in a channel, until :meth:`close` or the end of its ``with`` block."""

    __slots__ = (
        "_leave", "_waiting", "_waiting_size", "channel", "greenlet", "recovered", "ws",
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
        self._waiting: deque[Message] = deque()
        self._waiting_size = 0

    def close(self) -> None:
        """Leave the channel; never blocks, and may be called again."""
        self._leave(self.channel, self.ws)

    def hear(self, message: Message) -> None:
        """Take a message that comes while this is told what it missed."""
        self._waiting.append(message)
        self._waiting_size += len(message.data)

    @property
    def is_overdue(self) -> bool:
        """Whether more is waiting than may wait."""
        return self._waiting_size > self.ws._max_send_buffer

    def forget_waiting(self) -> None:
        """Lose what waits."""
        self._waiting.clear()
        self._waiting_size = 0

    def replay(
        self, messages: list[Message], since: str, write: Callable[[Message], str | bytes]
    ) -> None:
        """Send what was missed after ``since``, and what has come since; blocks as ``ws.send()``.

        The former has come by already, with all that is older: perhaps while this was waiting.
        """
        ids = [message.id for message in self._waiting]
        if since in ids:
            for _ in range(ids.index(since) + 1):
                self._next()
        here = {message.id for message in self._waiting}
        try:
            for message in messages:
                if message.id not in here:
                    self.ws.send(write(message))
            while self._waiting:
                self.ws.send(write(self._next()))
        except ConnectionClosed:
            pass  # its view notices by itself

    def _next(self) -> Message:
        message = self._waiting.popleft()
        self._waiting_size -= len(message.data)
        return message


class Listener(_Place):
    """The messages of a channel for the process itself; see :meth:`geventws.Broadcast.listen`."""

    __slots__ = ("_leave", "_queue", "channel", "lost")

    def __init__(self, leave: Callable[[Listener], None], channel: str) -> None:
        self._leave = leave
        self.channel = channel
        #: How many messages have been dropped because the loop did not keep up.
        self.lost = 0
        self._queue: Queue[Message | None] = Queue(LISTENER_QUEUE)

    def hear(self, message: Message | None) -> None:
        """Take a message, or None for the end; the oldest one makes room."""
        if self._queue.full():
            self._queue.get_nowait()
            self.lost += 1
        self._queue.put_nowait(message)

    def close(self) -> None:
        """Leave the channel, and end the loop over this; never blocks."""
        self._leave(self)
        self.hear(None)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self._queue.get()
        if message is None:
            self.hear(None)  # for the next call
            raise StopIteration
        return message


def stop(greenlet: Any) -> None:
    """End a greenlet, unless it is the one that asks for it."""
    if greenlet is not None and greenlet is not getcurrent():
        greenlet.kill(block=False)
