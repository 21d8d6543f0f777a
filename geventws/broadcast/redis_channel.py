"""What a process knows about a channel in Redis: what it has delivered, and what comes next."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gevent.event import Event

from .backend import Message
from .queues import Queue
from .redis_messages import LATEST_TTL, Entry, epoch_of, number_of, order_of

#: The number of ids that are remembered for each channel. If Redis loses its latest writes, one of
#: these ids may still be in its history.
_REMEMBERED = 100
#: Bytes of memory that the messages may take which arrive while the missed ones are read. Above it,
#: they count as missed.
MAX_PENDING = 16 << 20


class Read(NamedTuple):
    """What Redis has stored of a channel at one moment."""

    #: All messages, or those from the requested id on.
    entries: list[Entry]
    is_whole: bool
    #: The id of the latest message, also if it is not stored any more. If there was none yet, an
    #: id that is less than all to come.
    latest: str


class CatchUp(NamedTuple):
    """What a channel has to deliver before it is live."""

    #: The number of messages that are missing before these.
    missed: int
    messages: list[Message]


class ChannelState:
    """The subscription of this process to one channel."""

    __slots__ = (
        "_dropped",
        "_is_same_server",
        "generation",
        "is_live",
        "pending",
        "recent",
        "refusal",
        "retry_delay",
        "server",
        "settled",
    )

    def __init__(self) -> None:
        #: Set when the subscription is live, or the attempt to subscribe has failed.
        self.settled = Event()
        #: Whether Redis has confirmed the subscription, and all earlier messages were delivered.
        self.is_live = False
        #: Grows whenever the subscription is interrupted.
        self.generation = 0
        #: The ids of the latest delivered messages. Neither these nor older messages are delivered
        #: again. ``None`` until the first id is known, and without a history.
        self.recent: deque[str] | None = None
        #: Messages that arrived after the confirmation of the subscription, until the missed
        #: messages are delivered.
        self.pending: Queue | None = None
        #: The number of messages that were dropped because ``pending`` was full.
        self._dropped = 0
        #: The id of the process of Redis that confirmed the subscription; empty if it is unknown.
        self.server = ""
        self._is_same_server = False
        #: Why Redis refuses the subscription; ``None`` if it does not.
        self.refusal: Exception | None = None
        #: Seconds until the next attempt after a refusal.
        self.retry_delay = 1.0

    @property
    def position(self) -> str | None:
        """The id of the latest delivered message."""
        return self.recent[-1] if self.recent else None

    def note_delivered(self, id_: str) -> None:
        """Remember the id of a message that is delivered now."""
        if self.recent is None:
            self.recent = deque(maxlen=_REMEMBERED)
        self.recent.append(id_)

    def has_delivered(self, id_: str) -> bool:
        """Whether a message was delivered, or is older than the subscription."""
        if self.recent is None:
            return False
        if id_ in self.recent:
            return True
        if not number_of(id_):
            return True  # the beginning of an epoch
        epoch = epoch_of(id_)
        oldest = next((known for known in self.recent if epoch_of(known) == epoch), None)
        return oldest is not None and order_of(id_) < order_of(oldest)

    def confirm(self, server: str) -> None:
        """Redis has confirmed the subscription: new messages wait until the others are read."""
        self._is_same_server = bool(server) and server == self.server
        self.server = server
        self.pending = Queue()
        self._dropped = 0

    def interrupt(self) -> None:
        """The connection is lost."""
        self.generation += 1
        self.is_live = False
        self.pending = None

    def add_pending(self, message: Message) -> None:
        """Add a new message. Drop the oldest ones above the limit, but not the newest one."""
        pending = self.pending
        if pending is not None:
            pending.put(message)
            while pending.size > MAX_PENDING and len(pending) > 1:
                pending.get()
                self._dropped += 1

    def go_live(self, read: Read | None) -> CatchUp:
        """Return what is delivered first; all messages that arrive after that are new.

        :param read: what Redis had stored after the confirmation. Everything that was published
            before has arrived meanwhile. ``None`` without a history, and if it cannot be read.
        """
        pending = [] if self.pending is None else self.pending.get_all()
        self.pending = None
        self.is_live = True
        missed, self._dropped = self._dropped, 0
        if read is None:
            return CatchUp(missed, pending)
        if self.recent is None:
            self.note_delivered(read.latest)
            return CatchUp(missed, pending)
        known = {message.id for message in pending}
        entries = self._new_entries(read.entries)
        missed = missed or self._count_missing(read, entries, pending)
        earlier = [entry.message for entry in entries if entry.id not in known]
        return CatchUp(missed, earlier + pending)

    def _new_entries(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries after the last delivered one."""
        for index in range(len(entries), 0, -1):
            if self.has_delivered(entries[index - 1].id):
                return entries[index:]
        return entries

    def _count_missing(self, read: Read, entries: list[Entry], pending: list[Message]) -> int:
        """Return the number of messages that are not stored any more and were not delivered."""
        if len(entries) < len(read.entries):
            return 0  # the entry before the first new one was delivered
        position = self.position or ""
        first, previous = (entries[0].id, entries[0].previous) if entries else ("", "")
        # A new message that is older than all stored ones: they were published after it.
        ids = [message.id for message in pending if message.id is not None]
        if ids and ids[0] != first and order_of(ids[0]) <= order_of(first or read.latest):
            first, previous = ids[0], position if _follows(ids[0], position) else ""
        if previous:
            is_complete = self.has_delivered(previous)
        else:
            is_complete = not first and self.has_delivered(read.latest)
        newest = first or read.latest
        if is_complete and not self._is_forgotten(newest):
            return 0
        last = number_of(first) - 1 if first else number_of(read.latest)
        is_anew = epoch_of(newest) != epoch_of(position)
        return max(last - (0 if is_anew else number_of(position)), 1)

    def _is_forgotten(self, newest: str) -> bool:
        """Whether a Redis that went on running has forgotten the channel, during an interruption.

        Nobody knows whether messages were lost then. If Redis was restarted without its data, the
        connection is assumed to have ended together with Redis.
        """
        position = self.position or ""
        is_expired = order_of(newest)[0] - order_of(position)[0] > LATEST_TTL
        is_anew = epoch_of(newest) != epoch_of(position) and number_of(newest) > 0
        return self._is_same_server and is_anew and not is_expired


def _follows(id_: str, other: str) -> bool:
    """Whether a message comes directly after another one, as far as their numbers tell."""
    if epoch_of(id_) != epoch_of(other):
        return number_of(id_) == 1
    return number_of(id_) == number_of(other) + 1
