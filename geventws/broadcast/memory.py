"""``memory://``: one process, no service."""
from __future__ import annotations

from collections import OrderedDict, deque
from time import monotonic, time

from gevent.monkey import get_original

from .base import Backend, History, Local, Message, parse_id

#: Of how many channels the history is kept; then the one that was published to the longest ago is
#: forgotten.
MAX_CHANNELS = 10_000
#: The interpreter's own: publishers may be threads, and no greenlet ever waits while it holds it.
_Lock = get_original("_thread", "RLock")


class _Kept:
    """The latest messages of one channel."""

    __slots__ = ("messages", "until")

    def __init__(self, size: int) -> None:
        self.messages: deque[Message] = deque(maxlen=size)
        self.until = 0.0


class MemoryBackend(Backend):
    """Carries messages by calling a function."""

    def __init__(self, url: str, local: Local, history: int, history_ttl: float) -> None:
        super().__init__(url, local, history, history_ttl)
        self._lock = _Lock()
        self._latest = 0, 0
        #: The channel that was published to the longest ago comes first.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

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
        kept = self._kept.pop(message.channel, None)
        if kept is None or kept.until < now:
            kept = _Kept(self.history_size)
        kept.messages.append(message)
        kept.until = now + self.history_ttl
        self._kept[message.channel] = kept
        while len(self._kept) > MAX_CHANNELS or next(iter(self._kept.values())).until < now:
            self._kept.popitem(last=False)

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


def _position(message: Message) -> tuple[int, int]:
    return parse_id(message.id or "") or (0, 0)
