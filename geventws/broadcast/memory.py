"""``memory://``: the backend for one process. It needs no other service.

``memory://?max_history_size=1048576`` limits the memory of all histories together, in bytes; the
default is 64 MiB. Above the limit, the history of the channel with the oldest latest message is
deleted. If there is only one history, its oldest messages are deleted.

Ids rise over all channels. Therefore no message after ``since`` is missing if ``since`` is not less
than the id of the latest message that was deleted from the channel.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from time import monotonic, time
from urllib.parse import parse_qsl, urlsplit

from gevent.monkey import get_original

from .backend import Backend, History, Message, Receiver, parse_id, size_of
from .members import State, Update, encode_change

#: The maximum number of channels with a history, and of channels whose history has expired. Above
#: it, the channel with the oldest latest message is forgotten.
MAX_CHANNELS = 10_000
MAX_HISTORY_SIZE = 64 << 20
Id = tuple[int, int]
#: The original lock, not gevent's: publishers may be threads. No greenlet waits while it holds it.
_new_lock: Callable[[], AbstractContextManager[bool]] = get_original("_thread", "RLock")


class _ChannelHistory:
    """The latest messages of one channel."""

    __slots__ = ("deleted", "expires", "messages", "size")

    def __init__(self, deleted: Id) -> None:
        self.messages: deque[Message] = deque()
        #: Bytes of memory that the messages take.
        self.size = 0
        #: The time of expiry, by ``monotonic()``.
        self.expires = 0.0
        #: The id of the latest deleted message, or a greater id that is less than all in
        #: ``messages``.
        self.deleted = deleted

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.size += size_of(message)

    def delete_oldest(self) -> None:
        message = self.messages.popleft()
        self.size -= size_of(message)
        self.deleted = _id_of(message)


class MemoryBackend(Backend):
    """A backend that delivers messages by calling a function."""

    has_members = True
    is_local = True

    def __init__(
        self, url: str, receiver: Receiver, history: int | Mapping[str, int], history_ttl: float
    ) -> None:
        super().__init__(url, receiver, history, history_ttl)
        self._lock = _new_lock()
        self._latest_id: Id = (0, 0)
        #: The greatest id of a message of a channel that was forgotten. At first, no older message
        #: is known, and another process may have sent some.
        self._forgotten = self._next_id()
        #: By channel. The channel with the oldest latest message comes first.
        self._histories: OrderedDict[str, _ChannelHistory] = OrderedDict()
        #: The ids of the latest messages of channels whose history was deleted as a whole.
        self._deleted: OrderedDict[str, Id] = OrderedDict()
        #: Bytes of memory that all histories take, and the limit.
        self._size = 0
        self._max_size = _max_history_size(url)
        #: The version and the entries of channels with members.
        self._members: dict[str, State] = {}

    def publish(
        self, channel: str, data: str | bytes, keep: bool, excluded: str | None = None
    ) -> str | None:
        size = self.history_size_of(channel) if keep else 0
        if not self.history_size:
            self.receiver.deliver(Message(channel, data, None, excluded))
            return None
        with self._lock:
            id_ = _text_of(self._next_id()) if size else None
            message = Message(channel, data, id_, excluded)
            if size:
                self._store(message, size)
            self.receiver.deliver(message)
        return message.id

    def _next_id(self) -> Id:
        """Return an id that starts with the time: a restarted process must not reuse ids."""
        milliseconds, number = self._latest_id
        now = int(time() * 1000)
        self._latest_id = (now, 0) if now > milliseconds else (milliseconds, number + 1)
        return self._latest_id

    def _store(self, message: Message, history_size: int) -> None:
        now = monotonic()
        self._delete_expired(now)
        history = self._histories.get(message.channel)
        if history is None:
            deleted = self._deleted.pop(message.channel, self._forgotten)
            history = self._histories[message.channel] = _ChannelHistory(deleted)
        size = history.size
        history.append(message)
        if len(history.messages) > history_size:
            history.delete_oldest()
        while history.size > self._max_size and len(history.messages) > 1:
            history.delete_oldest()
        history.expires = now + self.history_ttl
        self._size += history.size - size
        self._histories.move_to_end(message.channel)
        while len(self._histories) > 1 and (
            len(self._histories) > MAX_CHANNELS or self._size > self._max_size
        ):
            self._delete_oldest_history()

    def _delete_expired(self, now: float) -> None:
        while self._histories and next(iter(self._histories.values())).expires < now:
            self._delete_oldest_history()

    def _delete_oldest_history(self) -> None:
        channel, history = self._histories.popitem(last=False)
        self._size -= history.size
        self._deleted[channel] = _id_of(history.messages[-1])
        if len(self._deleted) > MAX_CHANNELS:
            _, forgotten = self._deleted.popitem(last=False)
            self._forgotten = max(self._forgotten, forgotten)

    def subscribe(self, channel: str) -> None:
        """Do nothing: :meth:`publish` delivers every message."""

    def unsubscribe(self, channel: str) -> None:
        """Do nothing: the receiver ignores messages of channels without subscribers."""

    def history(self, channel: str, since: str | None) -> History:
        with self._lock:
            self._delete_expired(monotonic())
            history = self._histories.get(channel)
            messages = [] if history is None else list(history.messages)
            deleted = self._deleted.get(channel, self._forgotten)
            if history is not None:
                deleted = history.deleted
            latest = self._latest_id
        if not since:
            return History(messages, True)
        position = parse_id(since)
        if position is None or position > latest:
            return History(messages, False)
        later = [message for message in messages if position < _id_of(message)]
        return History(later, position >= deleted)

    def position(self, channel: str) -> str | None:
        if not self.history_size_of(channel):
            return None
        with self._lock:
            return _text_of(self._latest_id)

    def subscribers(self, channel: str) -> int:
        return self.receiver.count(channel)

    def update_members(self, channel: str, update: Update) -> State | None:
        # There is one process, which loses nothing: it neither needs a lease nor reads anything
        # but the entries of a new channel.
        with self._lock:
            version, known = self._members.get(channel, State(int(time() * 1_000_000), None))
            entries = dict(known or {})
            changes = {f"{update.process}:{it}": text for it, text in update.changes.items()}
            removed = [it for it in changes if changes[it] is None and it in entries]
            added = {
                it: text for it, text in changes.items() if text is not None and it not in entries
            }
            lines = [f"-{it}" for it in removed] + [f"+{it} {text}" for it, text in added.items()]
            after = version + bool(lines)
            for it in removed:
                del entries[it]
            entries |= {it: f"{after} {text}" for it, text in added.items()}
            self._members[channel] = State(after, entries)
            if not entries:
                del self._members[channel]
        if lines:
            self.receiver.change_members(channel, encode_change(after, lines))
        return State(after, None if update.known in {None, version} else entries)

    def members(self, channel: str) -> Mapping[str, str]:
        with self._lock:
            return self._members.get(channel, State(0, None)).entries or {}

    def close(self) -> None:
        self._members.clear()
        self._histories.clear()
        self._deleted.clear()
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


def _id_of(message: Message) -> Id:
    return parse_id(message.id or "") or (0, 0)


def _text_of(id_: Id) -> str:
    return "{}-{}".format(*id_)
