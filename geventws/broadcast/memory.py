"""``memory://``: the backend for one process. It needs no other service.

``memory://?max_history_size=1048576`` limits the memory of all histories together, in bytes; the
default is 64 MiB. Above the limit, the history of the channel with the oldest latest message is
deleted. If there is only one history, its oldest messages are deleted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, time
from urllib.parse import parse_qsl, urlsplit

from gevent.monkey import get_original

from .backend import Backend, History, Message, Receiver, parse_id, size_of

#: The maximum number of channels with a history. Above it, the history of the channel with the
#: oldest latest message is deleted.
MAX_CHANNELS = 10_000
MAX_HISTORY_SIZE = 64 << 20
#: The original lock, not gevent's: publishers may be threads. No greenlet waits while it holds it.
_new_lock: Callable[[], AbstractContextManager[bool]] = get_original("_thread", "RLock")


class _ChannelHistory:
    """The latest messages of one channel."""

    __slots__ = ("expires", "messages", "size")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        #: Bytes of memory that the messages take.
        self.size = 0
        #: The time of expiry, by ``monotonic()``.
        self.expires = 0.0

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.size += size_of(message)

    def clear(self) -> None:
        self.messages.clear()
        self.size = 0

    def drop_oldest(self) -> None:
        self.size -= size_of(self.messages.popleft())


class MemoryBackend(Backend):
    """A backend that delivers messages by calling a function."""

    def __init__(self, url: str, receiver: Receiver, history: int, history_ttl: float) -> None:
        super().__init__(url, receiver, history, history_ttl)
        self._lock = _new_lock()
        self._latest_id = 0, 0
        #: By channel. The channel with the oldest latest message comes first.
        self._histories: OrderedDict[str, _ChannelHistory] = OrderedDict()
        #: Bytes of memory that all histories take, and the limit.
        self._size = 0
        self._max_size = _max_history_size(url)

    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        if not self.history_size:
            self.receiver.deliver(Message(channel, data, None))
            return None
        with self._lock:
            message = Message(channel, data, self._next_id() if keep else None)
            if keep:
                self._store(message)
            self.receiver.deliver(message)
        return message.id

    def _next_id(self) -> str:
        """Return an id that starts with the time: a restarted process must not reuse ids."""
        milliseconds, number = self._latest_id
        now = int(time() * 1000)
        self._latest_id = (now, 0) if now > milliseconds else (milliseconds, number + 1)
        return "{}-{}".format(*self._latest_id)

    def _store(self, message: Message) -> None:
        now = monotonic()
        history = self._histories.get(message.channel)
        if history is None:
            history = self._histories[message.channel] = _ChannelHistory()
        size = history.size
        if history.expires < now:
            history.clear()
        history.append(message)
        if len(history.messages) > self.history_size:
            history.drop_oldest()
        while history.size > self._max_size and len(history.messages) > 1:
            history.drop_oldest()
        history.expires = now + self.history_ttl
        self._size += history.size - size
        self._histories.move_to_end(message.channel)
        self._delete_old_histories(now)

    def _delete_old_histories(self, now: float) -> None:
        """Delete expired histories, and the oldest ones above the limits. Keep the newest one."""
        while len(self._histories) > 1:
            oldest = next(iter(self._histories.values()))
            is_over_limit = len(self._histories) > MAX_CHANNELS or self._size > self._max_size
            if oldest.expires >= now and not is_over_limit:
                return
            self._histories.popitem(last=False)
            self._size -= oldest.size

    def subscribe(self, channel: str) -> None:
        """Do nothing: :meth:`publish` delivers every message."""

    def unsubscribe(self, channel: str) -> None:
        """Do nothing: the receiver ignores messages of channels without subscribers."""

    def history(self, channel: str, since: str | None) -> History:
        with self._lock:
            stored = self._histories.get(channel)
            is_expired = stored is None or stored.expires < monotonic()
            messages = [] if stored is None or is_expired else list(stored.messages)
        if since is None:
            return History(messages, True)
        position = parse_id(since)
        if position is None:
            return History(messages, False)
        later = [message for message in messages if position < _position(message)]
        return History(later, any(message.id == since for message in messages))

    def subscribers(self, channel: str) -> int:
        return self.receiver.count(channel)

    def close(self) -> None:
        self._histories.clear()
        self._size = 0


def _max_history_size(url: str) -> int:
    """Return the memory limit that a URL sets.

    :raises ValueError: for an unknown parameter or an invalid limit.
    """
    limit = MAX_HISTORY_SIZE
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name != "max_history_size" or not value.isdecimal() or int(value) < 1:
            raise ValueError(
                "the only parameter of memory:// is max_history_size, a number of bytes of at"
                f" least 1: {url!r}"
            )
        limit = int(value)
    return limit


def _position(message: Message) -> tuple[int, int]:
    return parse_id(message.id or "") or (0, 0)
