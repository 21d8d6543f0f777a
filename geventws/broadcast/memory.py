"""``memory://``: one process, no service.

``memory://?max_history_size=1048576`` limits the memory of all histories together, in bytes; by
default 64 MiB. Above it, the history of the channel that was published to the longest ago is
forgotten, and if there is only one, its oldest messages.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from time import monotonic, time
from urllib.parse import parse_qsl, urlsplit

from gevent.monkey import get_original

from .backend import Backend, History, Local, Message, parse_id, size_of

#: Of how many channels the history is kept; then the one that was published to the longest ago is
#: forgotten.
MAX_CHANNELS = 10_000
MAX_HISTORY_SIZE = 64 << 20
#: The interpreter's own: publishers may be threads, and no greenlet ever waits while it holds it.
_Lock = get_original("_thread", "RLock")


class _Kept:
    """The latest messages of one channel."""

    __slots__ = ("messages", "size", "until")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        #: In bytes of memory.
        self.size = 0
        self.until = 0.0

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.size += size_of(message)

    def clear(self) -> None:
        self.messages.clear()
        self.size = 0

    def drop_oldest(self) -> None:
        self.size -= size_of(self.messages.popleft())


class MemoryBackend(Backend):
    """Carries messages by calling a function."""

    def __init__(self, url: str, local: Local, history: int, history_ttl: float) -> None:
        super().__init__(url, local, history, history_ttl)
        self._lock = _Lock()
        self._latest = 0, 0
        #: The channel that was published to the longest ago comes first.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        #: The memory that all of them take, in bytes, and how much it may be.
        self._size = 0
        self._max_size = _max_history_size(url)

    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        if not self.history_size:
            self.local.deliver(Message(channel, data, None))
            return None
        with self._lock:
            message = Message(channel, data, self._next_id() if keep else None)
            if keep:
                self._keep(message)
            self.local.deliver(message)
        return message.id

    def _next_id(self) -> str:
        """Made of the time, so that no id of an earlier run of the process comes again."""
        milliseconds, number = self._latest
        now = int(time() * 1000)
        self._latest = (now, 0) if now > milliseconds else (milliseconds, number + 1)
        return "{}-{}".format(*self._latest)

    def _keep(self, message: Message) -> None:
        now = monotonic()
        kept = self._kept.get(message.channel)
        if kept is None:
            kept = self._kept[message.channel] = _Kept()
        size = kept.size
        if kept.until < now:
            kept.clear()
        kept.append(message)
        if len(kept.messages) > self.history_size:
            kept.drop_oldest()
        while kept.size > self._max_size and len(kept.messages) > 1:
            kept.drop_oldest()
        kept.until = now + self.history_ttl
        self._size += kept.size - size
        self._kept.move_to_end(message.channel)
        self._forget_oldest(now)

    def _forget_oldest(self, now: float) -> None:
        """Forget histories whose time is over, and those above the limits; not the latest."""
        while len(self._kept) > 1:
            oldest = next(iter(self._kept.values()))
            is_too_much = len(self._kept) > MAX_CHANNELS or self._size > self._max_size
            if oldest.until >= now and not is_too_much:
                return
            self._kept.popitem(last=False)
            self._size -= oldest.size

    def subscribe(self, channel: str) -> None:
        pass  # what is published comes by here anyway

    def unsubscribe(self, channel: str) -> None:
        pass

    def history(self, channel: str, since: str | None) -> History:
        with self._lock:
            kept = self._kept.get(channel)
            messages = [] if kept is None or kept.until < monotonic() else list(kept.messages)
        if since is None:
            return History(messages, True)
        position = parse_id(since)
        if position is None:
            return History(messages, False)
        later = [message for message in messages if position < _position(message)]
        return History(later, any(message.id == since for message in messages))

    def subscribers(self, channel: str) -> int:
        return self.local.count(channel)

    def close(self) -> None:
        self._kept.clear()
        self._size = 0


def _max_history_size(url: str) -> int:
    """The limit that a URL sets.

    :raises ValueError: for another parameter, or a value that is no limit.
    """
    limit = MAX_HISTORY_SIZE
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name != "max_history_size" or not value.isdecimal() or int(value) < 1:
            raise ValueError(f"memory:// takes max_history_size, a number of bytes: {url!r}")
        limit = int(value)
    return limit


def _position(message: Message) -> tuple[int, int]:
    return parse_id(message.id or "") or (0, 0)
