"""Presence: which members a channel has, in all processes.

A :class:`Room` has what this process knows about a channel in which it has entries: these entries,
which it writes to the backend, and the :class:`~.members.Roster` of all processes' entries, which
follows the changes that the backend publishes. :class:`Presence` keeps both equal to the backend:

- Each process renews its lease every :data:`RENEWAL` seconds. If a process has not done so for
  :data:`LEASE` seconds, the next renewal of another process removes its entries.
- With each renewal, the process compares versions. It reads all entries if it has missed a change,
  and writes all of its own if the backend has lost them.
- If it does not know whether the backend has got an update, it writes all of its entries: this
  changes nothing if the backend has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import count
from os import urandom
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from gevent import sleep, spawn, spawn_later
from gevent.event import AsyncResult, Event
from gevent.pool import Group

from ..connection.logs import Throttle
from ..exceptions import BroadcastError
from .backend import Backend, Refusal
from .members import MAX_ENTRIES, PresenceEvent, Roster, State, Update, decode_change

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from .subscribers import Subscription

logger = logging.getLogger("geventws.broadcast")
_refusals = Throttle(target=logger)
#: Seconds between two renewals of a lease, and until it is over. If a process is killed, its
#: members have left after the sum at the latest.
RENEWAL, LEASE = 4.0, 10.0
#: Seconds after a loss until the entries of other processes are read: they are written again, too.
SETTLING = 5.0
#: Seconds that subscribe() waits for the list of members, and members() for this process's updates.
TIMEOUT = 5.0
#: Seconds that the end of a broadcast waits until the backend knows that its members have left.
_LEAVE_TIMEOUT = 1.0
#: Seconds before another attempt after a failure, and until a published change counts as missed.
_RETRY_DELAY, _PATIENCE = 0.5, 0.3
#: The maximum number of greenlets that update the backend, and of changes that wait for others.
_MAX_WORKERS, _MAX_WAITING = 4, 1000
#: Seconds between two events of a channel, for each socket: events take a tenth of a core at most.
_PAUSE = 50e-6


class Sender(Protocol):
    """The broadcast, as its presence sees it."""

    def send_event(self, event: PresenceEvent, sockets: Mapping[Connection, Subscription]) -> None:
        """Send an event to sockets. Never blocks, never raises."""


class Room:
    """A channel in which this process has entries."""

    __slots__ = (
        "audience",
        "base",
        "changes",
        "channel",
        "has_arrived",
        "is_busy",
        "is_due",
        "is_reporting",
        "is_stored",
        "needs_read",
        "newcomers",
        "next_report",
        "own",
        "read_after",
        "roster",
        "waiting",
    )

    def __init__(self, channel: str) -> None:
        self.channel = channel
        #: The texts of the entries of this process, by their numbers.
        self.own: dict[int, str] = {}
        #: The changes of ``own`` that the backend has not got yet, as in :class:`Update`.
        self.changes: dict[int, str | None] = {}
        #: The number of the latest update that the backend has got; 0 if it must get all entries.
        self.base = 0
        #: Set while the backend has got all changes.
        self.is_stored = Event()
        #: Whether a greenlet updates the backend, and whether it must do so once more.
        self.is_busy = self.is_due = False
        self.roster = Roster()
        #: Changes that cannot be applied yet, by version, and the event that one was applied.
        self.waiting: dict[int, list[str]] = {}
        self.has_arrived = Event()
        #: Whether the version must be compared, and the time before which it is not.
        self.needs_read = True
        self.read_after = 0.0
        #: Sockets that wait for the list of members, by the numbers of their entries.
        self.newcomers: dict[int, tuple[Subscription, AsyncResult[None]]] = {}
        #: Sockets that have got it.
        self.audience: dict[Connection, Subscription] = {}
        #: The time before which no event is sent, and whether a greenlet waits for it.
        self.next_report = 0.0
        self.is_reporting = False

    def apply_waiting(self) -> None:
        """Apply the changes that follow the latest known one."""
        roster = self.roster
        self.waiting = {it: self.waiting[it] for it in self.waiting if roster.is_ahead(it)}
        while roster.version is not None and roster.version + 1 in self.waiting:
            version = roster.version + 1
            roster.apply(version, self.waiting.pop(version))
        self.has_arrived.set()

    def forget_others(self) -> None:
        """Nobody in this process needs to know the members any more."""
        self.roster = Roster()
        self.waiting.clear()
        self.needs_read = True

    def interrupt(self) -> None:
        """An update has failed, or has been lost: the backend must get all entries."""
        self.base = 0
        self.roster.version = None
        self.waiting.clear()
        self.needs_read = True
        self.read_after = monotonic() + SETTLING
        self.is_stored.set()


class Presence:
    """The rooms of one :class:`~geventws.Broadcast`."""

    def __init__(self, backend: Backend, sender: Sender) -> None:
        self._backend = backend
        self._sender = sender
        self._process = urandom(8).hex()
        self._numbers = count(1)
        self._rooms: dict[str, Room] = {}
        #: The rooms whose updates the backend must get, in their order.
        self._queue: dict[Room, None] = {}
        self._workers = 0
        self._is_renewing = False
        #: The greenlets that may wait for the backend.
        self._greenlets = Group()

    # ------------------------------------------------- the interface for Broadcast

    def join(self, subscription: Subscription, text: str) -> AsyncResult[None]:
        """Add an entry. The result is set when the socket has got the list of members.

        It replaces the entry that :meth:`hand_over` has left to the subscription, in one change.

        :raises Refusal: if this process has too many entries in the channel.
        """
        room = self._rooms.get(subscription.channel)
        if room is None:
            room = self._rooms[subscription.channel] = Room(subscription.channel)
        replaced = subscription.entry
        if len(room.own) - (replaced in room.own) >= MAX_ENTRIES:
            raise Refusal(
                f"this process has {MAX_ENTRIES:,} members in {subscription.channel!r:.200}, which"
                " is the limit"
            )
        number = subscription.entry = next(self._numbers)
        self._remove(room, replaced)
        room.own[number] = room.changes[number] = text
        result: AsyncResult[None] = AsyncResult()
        if monotonic() < room.read_after or not self._backend.is_up:
            result.set()  # the list comes later
        room.newcomers[number] = subscription, result
        self._enqueue(room)
        if not self._is_renewing:
            self._is_renewing = True
            self._greenlets.spawn(self._renew)
        return result

    def leave(self, subscription: Subscription) -> None:
        """Remove the entry of a subscription. Never blocks."""
        room = self._rooms.get(subscription.channel)
        if room is None or not self._remove(room, subscription.entry):
            return
        self._silence(room, subscription)
        if not room.own:
            room.forget_others()
        self._enqueue(room)

    def hand_over(self, old: Subscription, new: Subscription) -> None:
        """Leave an entry to the next subscription of the socket, which joins soon, or leaves."""
        room = self._rooms.get(old.channel)
        if room is not None:
            self._silence(room, old)
            new.entry = old.entry

    def _remove(self, room: Room, number: int) -> bool:
        """Remove an entry of this process; return whether there was one."""
        if room.own.pop(number, None) is None:
            return False
        if room.changes.get(number) is None:
            room.changes[number] = None
        else:
            del room.changes[number]  # the backend has not got it
        return True

    def _silence(self, room: Room, subscription: Subscription) -> None:
        """Send no more events to the socket of a subscription."""
        room.audience.pop(subscription.ws, None)
        _, result = room.newcomers.pop(subscription.entry, (None, None))
        if result is not None:
            result.set()

    def welcome(self, channel: str) -> None:
        """A socket has become live: send it the list of members. Never blocks."""
        room = self._rooms.get(channel)
        if room is not None:
            self._report(room)

    def wait_until_stored(self, channel: str) -> None:
        """Wait until the backend has got the entries of this process, for a bounded time."""
        room = self._rooms.get(channel)
        if room is not None and self._backend.is_up:
            room.is_stored.wait(TIMEOUT)

    def receive(self, channel: str, payload: str) -> None:
        """Apply a change that the backend has published. Never blocks."""
        room = self._rooms.get(channel)
        if room is None or not room.own:
            return
        try:
            version, lines = decode_change(payload)
        except ValueError:
            logger.debug("Ignored a change of members by another program in %.200r", channel)
            return
        roster = room.roster
        if roster.has_reached(version):
            return
        is_stored = bool(lines) and roster.is_ahead(version) and len(room.waiting) < _MAX_WAITING
        if is_stored:
            room.waiting[version] = lines
            room.apply_waiting()
            self._report(room)
        if roster.version is not None and not roster.has_reached(version):
            self._read(room)
        elif not is_stored:
            room.needs_read = True  # once more: the entries are being read

    def close(self) -> None:
        """Tell the backend that all members of this process have left. Waits for a second."""
        rooms = self.forget()
        if rooms:
            leaving = spawn(self._leave, rooms)
            leaving.join(_LEAVE_TIMEOUT)
            leaving.kill(block=False)

    def _leave(self, rooms: list[Room]) -> None:
        try:
            for room in rooms:
                self._send_update(room, {}, None)
        except BroadcastError:
            pass  # it forgets this process after a while

    def forget(self) -> list[Room]:
        """Forget all members, without telling the backend. Return the rooms. Never blocks."""
        self._greenlets.kill(block=False)
        rooms = list(self._rooms.values())
        self._rooms = {}
        self._queue = {}
        for room in rooms:
            room.base = 0
            room.own, room.changes, newcomers = {}, {}, room.newcomers
            room.newcomers, room.audience = {}, {}
            room.is_stored.set()
            for _, result in newcomers.values():
                result.set()
        return rooms

    # --------------------------------------------------------------- the updates

    def _enqueue(self, room: Room) -> None:
        """Update the backend soon. Never blocks."""
        room.is_stored.clear()
        if room.is_busy:
            room.is_due = True
            return
        self._queue[room] = None
        if self._workers < _MAX_WORKERS:
            self._workers += 1
            self._greenlets.spawn(self._work)

    def _read(self, room: Room) -> None:
        """Read the entries: a change is missing."""
        room.needs_read = True
        self._enqueue(room)

    def _renew(self) -> None:
        while self._rooms:
            sleep(RENEWAL)
            for room in self._rooms.values():
                self._read(room)
        self._is_renewing = False

    def _work(self) -> None:
        try:
            while self._queue:
                room = next(iter(self._queue))
                del self._queue[room]
                room.is_busy, room.is_due = True, False
                try:
                    self._update(room)
                except Exception:
                    # A bug in this module must not stop the events for good.
                    logger.exception("The members of %.200r failed", room.channel)
                    room.interrupt()
                    sleep(_RETRY_DELAY)
                    room.is_due = True
                room.is_busy = False
                if self._rooms.get(room.channel) is not room:
                    continue
                if room.is_due or room.changes:
                    self._enqueue(room)
                elif not room.own:
                    del self._rooms[room.channel]
        finally:
            self._workers -= 1

    def _update(self, room: Room) -> None:
        """Write the changes of a room, and read what this process has missed."""
        is_reading = bool(room.own) and room.needs_read and monotonic() >= room.read_after
        changes, room.changes = room.changes, {}
        room.needs_read = room.needs_read and not is_reading
        known = (room.roster.version or 0) if is_reading else None
        try:
            state = self._send_update(room, changes if room.base else dict(room.own), known)
        except BroadcastError as problem:
            self._handle_failure(room, problem)
            return
        if state is None:  # the backend has lost something
            room.interrupt()
            room.is_due = True
            return
        if not room.changes:
            room.is_stored.set()
        if not room.own:
            return
        if is_reading and state.entries is not None:
            room.roster.load(state.version, state.entries)
            room.apply_waiting()
            self._report(room)
        if room.roster.version is None:
            if not is_reading:
                spawn_later(max(room.read_after - monotonic(), 0), self._read, room)
        elif room.waiting or room.needs_read or not self._wait_for(room, state.version):
            room.is_due = room.needs_read = True

    def _send_update(
        self, room: Room, changes: Mapping[int, str | None], known: int | None
    ) -> State | None:
        number = next(self._numbers)
        update = Update(self._process, room.base, number, changes, bool(room.own), LEASE, known)
        state = self._backend.update_members(room.channel, update)
        if state is not None:
            room.base = number
        return state

    def _wait_for(self, room: Room, version: int) -> bool:
        """Wait until a change has arrived. Return ``False`` if it seems to be lost."""
        deadline = monotonic() + _PATIENCE
        while room.own and not room.roster.has_reached(version):
            room.has_arrived.clear()
            if not room.has_arrived.wait(max(deadline - monotonic(), 0)):
                return False
        return True

    def _handle_failure(self, room: Room, problem: BroadcastError) -> None:
        room.interrupt()
        is_refusal = isinstance(problem, Refusal)
        for _, result in room.newcomers.values():
            if is_refusal:
                result.set_exception(problem)
            else:
                result.set()
        if is_refusal:  # the next renewal is another attempt
            _refusals.log(
                logging.WARNING, "The members of %.200r cannot be stored: %s", room.channel, problem
            )
            return
        self._backend.wait_until_healthy()
        sleep(_RETRY_DELAY)
        room.is_due = True

    # ---------------------------------------------------------------- the events

    def _report(self, room: Room) -> None:
        """Send events to the sockets, now or as soon as the latest ones are some time ago."""
        if room.is_reporting or room.roster.version is None:
            return
        pause = room.next_report - monotonic()
        if pause > 0:
            room.is_reporting = True
            spawn_later(pause, self._report_now, room)
        else:
            self._report_now(room)

    def _report_now(self, room: Room) -> None:
        room.is_reporting = False
        if room.roster.version is None:
            return  # after the interruption
        difference = room.roster.take_difference()
        for kind, texts in difference._asdict().items():
            if texts and room.audience:
                self._send(room, kind, texts.values(), room.audience)
        newcomers = {
            number: newcomer
            for number, newcomer in room.newcomers.items()
            if newcomer[0].is_live and f"{self._process}:{number}" in room.roster
        }
        sockets = {subscription.ws: subscription for subscription, _ in newcomers.values()}
        if sockets:
            self._send(room, "members", room.roster.texts(), sockets)
        for number, (_, result) in newcomers.items():
            if room.newcomers.pop(number, None) is not None:
                result.set()
        room.audience |= {ws: it for ws, it in sockets.items() if not it.is_over}
        room.next_report = monotonic() + len(room.audience) * _PAUSE

    def _send(
        self,
        room: Room,
        kind: str,
        texts: Iterable[str],
        sockets: Mapping[Connection, Subscription],
    ) -> None:
        self._sender.send_event(PresenceEvent(room.channel, kind, texts), dict(sockets))
