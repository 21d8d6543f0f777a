"""The subscribers of this process: sockets, and loops over :class:`Listener`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from gevent import getcurrent, joinall
from gevent.event import Event

from ..connection.transport import seconds_of
from ..exceptions import ConnectionClosed
from .backend import log_dropped
from .queues import Queue

if TYPE_CHECKING:
    from types import TracebackType

    from gevent import Greenlet

    from ..connection.connection import Connection
    from .backend import Message

Self = TypeVar("Self", bound="_Closeable")


#: The queue of a socket that gets each message immediately. Always empty.
_NO_QUEUE = Queue()


class Sending(Protocol):
    """A message that is being sent in slices."""

    #: Its number in the channel.
    number: int
    #: The position of a socket that has not got it.
    before: str | None


class Channel:
    """The subscribers of one channel in this process."""

    __slots__ = (
        "_read_position",
        "joining",
        "listeners",
        "number",
        "position",
        "replaying",
        "sending",
        "sockets",
    )

    def __init__(self, read_position: Callable[[], str | None]) -> None:
        self._read_position = read_position
        #: The id of the latest message that was passed on; ``None`` before the first one.
        self.position: str | None = None
        #: Sockets that get each message immediately.
        self.sockets: dict[Connection, Subscription] = {}
        #: Sockets that get stored messages first; new messages wait in their subscriptions.
        self.replaying: dict[Connection, Subscription] = {}
        #: Sockets that get no messages before their 101.
        self.joining: dict[Connection, Subscription] = {}
        self.listeners: set[Listener] = set()
        #: Messages that are being sent in slices, and the number of the latest one.
        self.sending: deque[Sending] = deque()
        self.number = 0

    def find_position(self) -> str | None:
        """Return the id after which the next message comes; ``None`` if it is unknown."""
        if self.position is None:
            position = self._read_position()
            if self.position is None:  # otherwise a message has been passed on meanwhile
                self.position = position
        return self.position

    def pop(self, ws: Connection) -> list[Subscription]:
        """Remove and return the subscription of a socket, if there is one."""
        everywhere = self.joining, self.replaying, self.sockets
        return [each.pop(ws) for each in everywhere if ws in each]

    def subscriptions(self) -> list[Subscription]:
        """Return the subscriptions of all sockets."""
        return [*self.joining.values(), *self.replaying.values(), *self.sockets.values()]

    def __bool__(self) -> bool:
        return bool(self.sockets or self.replaying or self.listeners or self.joining)


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
    """The subscription of a socket, until :meth:`close`, its end, or that of a ``with`` block.

    Another subscription of the same socket to the same channel ends this one.
    """

    __slots__ = (
        "_position",
        "_queue",
        "_unsubscribe",
        "channel",
        "entry",
        "greenlet",
        "has_history",
        "is_over",
        "live_in",
        "reached",
        "recovered",
        "ws",
    )

    def __init__(
        self,
        unsubscribe: Callable[[Subscription], None],
        channel: str,
        ws: Connection,
        since: str | None,
    ) -> None:
        self._unsubscribe = unsubscribe
        self.channel = channel
        self.ws = ws
        #: Whether the socket got every message after ``since``. ``False`` if the history does not
        #: reach back to ``since``, or ``since`` is unknown. ``None`` until the history was read,
        #: see :meth:`wait_recovered`. ``True`` without ``since``.
        self.recovered: bool | None = True if since is None else None
        #: The greenlet that retries to read the history, if the first attempt failed.
        self.greenlet: Greenlet[..., None] | None = None
        #: The number of the member's entry in the channel; 0 without a member.
        self.entry = 0
        #: Whether the history was read: a message that this process misses now is lost.
        self.has_history = False
        #: New messages that wait for the end of the replay.
        self._queue = _NO_QUEUE if since is None else Queue()
        self._position = since
        #: The channel of which the socket gets each message immediately; ``None`` if it does not.
        self.live_in: Channel | None = None
        #: The number of the latest message in slices that the socket has got, or does not get.
        self.reached = 0
        self.is_over = False

    @property
    def position(self) -> str | None:
        """The id after which the socket has not got any message yet, to be passed as ``since``.

        Send it to a client at first: then it can come back, even if it gets no message meanwhile.
        After the end of the subscription, this is the last position. ``None`` without a history,
        and as long as the position of a channel that has no other subscribers in this process
        cannot be read.
        """
        entry = self.live_in
        if entry is None:
            return self._position
        unsent = self._first_unsent(entry)
        return entry.find_position() if unsent is None else unsent.before

    def _first_unsent(self, entry: Channel) -> Sending | None:
        """Return the first of the messages in slices that the socket has still to get."""
        return next((it for it in entry.sending if it.number > self.reached), None)

    def wait_recovered(self, timeout: float | None = None) -> bool | None:
        """Block until :attr:`recovered` is not ``None``, at most for ``timeout`` seconds.

        Return :attr:`recovered`, which may still be ``None``: after the timeout, and if the
        subscription has ended before the backend answered.

        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        """
        seconds = seconds_of(timeout)
        if self.greenlet is not None and self.recovered is None:
            self.greenlet.join(seconds)
        return self.recovered

    def close(self) -> None:
        """Unsubscribe the socket. Never blocks; idempotent."""
        if not self.is_over:
            self._unsubscribe(self)

    @property
    def is_live(self) -> bool:
        """Whether the socket gets each message immediately."""
        return self.live_in is not None

    def go_live(self, entry: Channel) -> None:
        """From now on, the socket gets each message immediately, as a socket of ``entry``."""
        self.live_in = entry
        self.reached = entry.number

    def end(self) -> None:
        """Keep the last position, and end the replay."""
        self.is_over = True
        self.ws._do_not_close_at_end(self)
        entry = self.live_in
        if entry is not None:
            unsent = self._first_unsent(entry)
            self._position = entry.position if unsent is None else unsent.before
            self.live_in = None
        kill_greenlet(self.greenlet)

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

    def is_queued(self, id_: str) -> bool:
        """Whether the message with this id is in the queue."""
        return id_ in self._queue.ids()

    def skip(self, is_known: Callable[[str], bool]) -> None:
        """Remove the messages from the queue that the client already has, by their ids."""
        self._queue.remove(is_known)

    def replay(self, messages: list[Message], encode: Callable[[Message], str | bytes]) -> None:
        """Send stored messages, then the queue. Blocks as ``ws.send()`` does.

        Every stored message was also delivered while it was new, perhaps into the queue: no
        message is sent twice. A message that cannot be sent is logged and dropped.
        """
        queued = self._queue.ids()
        try:
            for message in messages:
                if self.is_over:
                    return
                if message.id not in queued:
                    self._send(message, encode)
            while self._queue and not self.is_over:
                self._send(self._queue.get(), encode)
        except ConnectionClosed:
            pass  # the view of the socket handles it

    def _send(self, message: Message, encode: Callable[[Message], str | bytes]) -> None:
        try:
            if not self.ws._has_id(message.excluded):
                self.ws.send(encode(message))
        except ConnectionClosed:
            raise
        except Exception:  # noqa: BLE001 - raised by the application's envelope; it is logged
            log_dropped(self.channel)
        self._position = message.id or self._position


class Subscriptions(dict[str, Subscription], _Closeable):
    """The subscriptions of a socket to several channels, by the names of the channels."""

    @property
    def recovered(self) -> bool | None:
        """Whether all are recovered; ``None`` if that is not known yet."""
        values = {subscription.recovered for subscription in self.values()}
        return False if False in values else None if None in values else True

    @property
    def positions(self) -> dict[str, str | None]:
        """The :attr:`Subscription.position` in each channel, to be passed as ``since``."""
        return {channel: subscription.position for channel, subscription in self.items()}

    def wait_recovered(self, timeout: float | None = None) -> bool | None:
        """Block until :attr:`recovered` is not ``None``, at most for ``timeout`` seconds.

        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        """
        seconds = seconds_of(timeout)
        waiting = [subscription.greenlet for subscription in self.values()]
        joinall([greenlet for greenlet in waiting if greenlet is not None], seconds)
        return self.recovered

    def close(self) -> None:
        """Unsubscribe the socket from all these channels. Never blocks; idempotent."""
        for subscription in self.values():
            subscription.close()


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
        #: The number of messages that were dropped because the loop was too slow, and of messages
        #: that this process has missed, for example while Redis could not be reached.
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
