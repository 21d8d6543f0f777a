"""The channels that a process is subscribed to, and which messages they have got.

A channel is *live* while notifications are passed on as they arrive. It is not live, and its
notifications wait, while something must be read from the tables: the position of a new channel,
messages that the process has missed, or the body of a large message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from gevent.event import Event

from ..exceptions import BroadcastError
from .backend import Receiver
from .postgresql_messages import Id, Notification, Reference, group_of, message_of

#: Bytes that the waiting notifications of one channel may take. Above it, they are dropped: stored
#: messages are read from the table later.
_MAX_WAITING = 16 << 20
_OVERHEAD = 300

Bodies = Mapping[Reference, bytes | None]


class Stored(NamedTuple):
    """What the tables have of a channel."""

    epoch: int
    last: int
    #: Numbers and bodies of messages after the position of the channel.
    messages: Sequence[tuple[int, bytes]]


class ChannelState:
    """One channel."""

    __slots__ = (
        "_has_ended",
        "_receiver",
        "_waiters",
        "_waiting_bytes",
        "group",
        "has_history",
        "is_listening",
        "is_live",
        "name",
        "needs_read",
        "overflows",
        "position",
        "settled",
        "waiting",
    )

    def __init__(self, name: str, has_history: bool, receiver: Receiver) -> None:
        self.name = name
        self.group = group_of(name)
        self.has_history = has_history
        self._receiver = receiver
        #: The id of the latest message that was passed on; ``None`` before it is known.
        self.position: Id | None = None
        #: Whether the connection listens to the group of the channel.
        self.is_listening = False
        self.is_live = False
        #: Whether the position or messages must be read from the tables.
        self.needs_read = has_history
        #: Set while the channel is live, and while the connection is lost.
        self.settled = Event()
        #: Notifications that wait until the channel is live.
        self.waiting: list[Notification] = []
        self._waiting_bytes = 0
        #: How often :attr:`waiting` was cleared because it was too large.
        self.overflows = 0
        self._waiters: list[tuple[Id, Event]] = []
        self._has_ended = False

    # ----------------------------------------------------------- interruptions

    def interrupt(self) -> None:
        """The connection is lost, and with it the waiting notifications."""
        self.is_live = self.is_listening = False
        self.needs_read = self.has_history
        self._clear_waiting()

    def start_listening(self) -> bool:
        """The connection listens to the channel. Return whether something must be read."""
        self.is_listening = True
        self.settled.clear()
        if not self.needs_read:
            self._make_live()
        return self.needs_read

    def _make_live(self) -> None:
        self.is_live = True
        self.settled.set()

    # ------------------------------------------------------------ notifications

    def handle(self, notification: Notification) -> bool:
        """Handle a notification. Return whether something must be read from now on."""
        if not self.is_listening:
            return False
        if self.is_live and self._accept(notification, notification.body):
            return False
        was_live, self.is_live = self.is_live, False
        self._enqueue(notification)
        if was_live:
            self.settled.clear()
        return was_live

    def _accept(self, notification: Notification, body: bytes | None) -> bool:
        """Pass on a message, or drop a duplicate. Return ``False`` if something must be read."""
        id_ = notification.id
        if id_ is None or not self.has_history:
            if body is None:
                return False
            self._deliver(id_, body)
            return True
        position = self.position or (0, 0)
        if id_[0] == position[0] and id_ <= position:
            return True
        # A greater epoch that starts now, or the next number.
        if not (id_[1] == 1 if id_[0] > position[0] else id_ == (position[0], position[1] + 1)):
            self.needs_read = True
            return False
        if body is None:
            return False
        self._pass_on(id_, body)
        return True

    def _pass_on(self, id_: Id, body: bytes) -> None:
        self._deliver(id_, body)
        self._set_position(id_)

    def _deliver(self, id_: Id | None, body: bytes) -> None:
        message = message_of(self.name, id_, body)
        if message is not None:
            self._receiver.deliver(message)

    def _enqueue(self, notification: Notification) -> None:
        self.waiting.append(notification)
        self._waiting_bytes += len(notification.body or b"") + _OVERHEAD
        if self._waiting_bytes > _MAX_WAITING:
            lost = sum(1 for it in self.waiting if it.id is None or not self.has_history)
            self._clear_waiting()
            self.overflows += 1
            self.needs_read = self.has_history
            if lost:
                self._receiver.miss(self.name, lost)

    def _clear_waiting(self) -> None:
        self.waiting = []
        self._waiting_bytes = 0

    # ------------------------------------------------------------------ reading

    def references(self) -> list[Reference]:
        """Return the bodies that must be read, in the order of the messages."""
        return [
            it.reference
            for it in self.waiting
            if it.reference is not None
            and not (self.needs_read and self.has_history and it.id is not None)
        ]

    def apply(self, stored: Stored | None, covered: int, bodies: Bodies) -> bool:
        """Pass on what was read, and the waiting notifications, in their order.

        Return whether the channel is live: otherwise, more must be read.

        :param stored: what the tables have; ``None`` if it was not read. The notifications of these
            messages have arrived, if they were sent while the process listened: one that came later
            would be dropped, and those between it and the others would have lost their place.
        :param covered: the number of waiting notifications that arrived before the tables were
            read. The stored messages among them are in the tables.
        :param bodies: the bodies that were read. A value is ``None`` if the body is deleted.
        """
        waiting = self.waiting
        self._clear_waiting()
        if stored is not None:
            self.needs_read = False
            waiting = self._merge(stored, waiting, covered)
        for index, notification in enumerate(waiting):
            body, reference = notification.body, notification.reference
            if reference is not None and reference in bodies:
                body = bodies[reference]
                if body is None:
                    self._skip(notification)
                    continue
            if not self._accept(notification, body):
                for rest in waiting[index:]:
                    self._enqueue(rest)
                return False
        self._make_live()
        return True

    def _merge(
        self, stored: Stored, waiting: list[Notification], covered: int
    ) -> list[Notification]:
        """Pass on the stored messages. Return the notifications that are still to be handled.

        Messages that are not kept, and so are only in ``waiting``, keep their place.
        """
        epoch, last, messages = stored
        numbers = [it.id[1] for it in waiting if it.id is not None and it.id[0] == epoch]
        if self.position is None:
            # Stored messages that arrived since the process listens are passed on, too: messages
            # that are not kept come before and after them.
            self._set_position((epoch, min(last, min(numbers, default=last + 1) - 1)))
            return waiting
        is_same = epoch == self.position[0] and self.position[1] <= last
        missing = last - (self.position[1] if is_same else 0) - len(messages)
        if missing > 0:
            self._receiver.miss(self.name, missing)
        index = 0

        def pass_on_until(number: int) -> None:
            nonlocal index
            while index < len(messages) and messages[index][0] <= number:
                self._deliver((epoch, messages[index][0]), messages[index][1])
                index += 1

        pass_on_until(min(numbers, default=last + 1) - 1)
        rest: list[Notification] = []
        for place, notification in enumerate(waiting):
            id_ = notification.id
            if id_ is not None:
                if id_[0] == epoch and id_[1] <= last:
                    pass_on_until(id_[1])
                elif place >= covered:
                    rest.append(notification)
            elif rest or notification.body is None:
                rest.append(notification)
            else:
                self._deliver(None, notification.body)
        pass_on_until(last)
        self._set_position((epoch, last))
        return rest

    def _skip(self, notification: Notification) -> None:
        """The body of a message was deleted before it could be read."""
        if notification.id is not None and self.has_history:
            if self.position is not None and notification.id <= self.position:
                return
            self._set_position(notification.id)
        self._receiver.miss(self.name, 1)

    # ----------------------------------------------------------------- position

    def _set_position(self, id_: Id) -> None:
        self.position = id_
        if self._waiters:
            for wanted, event in self._waiters:
                if wanted <= id_:
                    event.set()

    def wait_for(self, id_: Id, timeout: float) -> None:
        """Block until the messages up to an id have been passed on.

        :raises BroadcastError: if that takes too long.
        """
        deadline = monotonic() + timeout
        waiter = (id_, Event())
        self._waiters.append(waiter)
        try:
            while not self._has_ended and (self.position is None or self.position < id_):
                if not waiter[1].wait(max(0.0, deadline - monotonic())):
                    raise BroadcastError(f"the messages of {self.name!r:.200} do not arrive")
        finally:
            self._waiters.remove(waiter)

    def end(self) -> None:
        """The last subscriber has left."""
        self._has_ended = True
        self.settled.set()
        for _, event in self._waiters:
            event.set()
