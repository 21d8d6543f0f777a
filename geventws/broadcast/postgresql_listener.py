"""The connection of a process that receives notifications.

One greenlet owns the connection. It listens to the groups of the channels with subscribers, passes
notifications on, and reconnects. :class:`CatchUp` reads from the tables on other connections, in
batches, so that the live channels do not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub, sleep, spawn
from gevent.event import Event

from ..exceptions import BroadcastError
from .backend import Receiver, Refusal
from .backoff import MAX_DELAY, Backoff
from .postgresql_channels import ChannelState, Stored
from .postgresql_connections import FAILURES, Connection, Settings, StatementError, number_of
from .postgresql_messages import (
    CONTROL,
    Id,
    Mark,
    MembersChange,
    Question,
    Reference,
    decode,
    encode_mark,
)
from .postgresql_schema import LISTENER_LOCK, LOCK_LISTENER

if TYPE_CHECKING:
    from gevent import Greenlet

logger = logging.getLogger("geventws.broadcast")
#: Seconds without channels after which the connection is closed.
_LINGER = 30.0
#: Seconds between two cleanups of the tables.
_CLEANUP_INTERVAL = 60.0
#: Seconds after which other greenlets run, even if more notifications have arrived.
_SLICE = 0.01
#: The number of channels that are read at once, and of large messages.
_BATCH = 200
_MAX_BODIES = 16


class Owner(Protocol):
    """The backend, as the listening connection sees it."""

    name: str
    settings: Settings
    receiver: Receiver
    #: The channels that this process is subscribed to, also while the connection is broken.
    channels: dict[str, ChannelState]

    def read(self, since: Mapping[str, Id]) -> dict[str, Stored]:
        """Return what the tables have of channels. Channels without a row are omitted."""

    def join(self, channels: Sequence[str]) -> dict[str, Id]:
        """Return the ids of the latest messages, and create the rows of new channels."""

    def read_bodies(self, references: Sequence[Reference]) -> dict[Reference, bytes | None]:
        """Return the bodies of large messages, as far as they exist."""

    def notify(self, group: str, payload: str) -> None:
        """Send a notification."""

    def clean(self) -> None:
        """Delete expired messages from the tables."""

    def answer(self, question: Question, pid: int) -> None:
        """Tell another process how many sockets this one has in a channel. Never blocks."""

    def note_listener_up(self) -> None:
        """The listening connection works."""

    def note_listener_down(self, problem: BaseException) -> None:
        """The listening connection is lost."""

    def note_listener_gone(self, problem: BaseException) -> None:
        """The listening connection is lost, and no channel needs it any more."""


class Listener:
    """The listening connection."""

    def __init__(self, backend: Owner) -> None:
        self._backend = backend
        self._catch_up = CatchUp(backend, self)
        #: Counts connections: what was read for an older one must not be applied.
        self.generation = 0
        self.is_connected = False
        #: The process identifier of the connection's session in the server.
        self.pid = 0
        self._connection: Connection | None = None
        #: Wakes the greenlet when something has arrived. Any: gevent annotates no watcher.
        self._watcher: Any = None
        self._groups: set[str] = set()
        #: The notification channel for the marks of this connection, and who waits for them.
        self._mark_group = ""
        self._marks: dict[Mark, Event] = {}
        self._new: list[ChannelState] = []
        self._wake = Event()
        self._greenlet: Greenlet[..., None] | None = None
        self._has_warned = False
        self._last_cleanup = monotonic()

    def add(self, states: Sequence[ChannelState]) -> None:
        """Start to listen to channels. Never blocks."""
        self._new += states
        if self._greenlet is None:
            self._greenlet = spawn(self._run)
        self._wake.set()

    def close(self) -> None:
        self._catch_up.close()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None
        self._disconnect()

    def wait_until_received(self) -> None:
        """Block until all notifications that were sent so far are handled.

        If the connection is lost, this returns.

        :raises BroadcastError: if that takes too long.
        """
        mark, received = Mark(getrandbits(62)), Event()
        self._marks[mark] = received
        try:
            self._backend.notify(self._mark_group, encode_mark(mark))
            if not received.wait(self._backend.settings.timeout):
                raise BroadcastError(f"the notifications of {self._backend.name} do not arrive")
        finally:
            del self._marks[mark]

    def abandon(self) -> Connection | None:
        """End in a forked child. Return the connection: it is the parent's, and must stay open."""
        connection, self._connection = self._connection, None
        self._catch_up.close()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        return connection

    # ------------------------------------------------------------ the greenlet

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                self._connect()
                backoff.reset()
                self._serve()
                break
            except Exception as problem:
                if not isinstance(problem, (StatementError, *FAILURES)):
                    # A bug in this module must not stop the messages for good.
                    logger.exception("The subscriptions of %s failed", self._backend.name)
                self._disconnect()
                self._backend.note_listener_down(problem)
                failure = problem
            sleep(backoff.next_pause())
            if not self._backend.channels:
                self._backend.note_listener_gone(failure)
                break
        self._disconnect()
        self._greenlet = None

    def _connect(self) -> None:
        connection = self._connection = Connection(self._backend.settings)
        row = connection.execute(LOCK_LISTENER, LISTENER_LOCK)[0]
        self.pid = number_of(row[0])
        if self.pid != connection.pgconn.backend_pid and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s is a connection pooler. In transaction mode, subscribers get no messages:"
                " connect to PostgreSQL itself, or use session mode",
                self._backend.name,
            )
        self.generation += 1
        self._new = list(self._backend.channels.values())
        self._groups = set()
        self._mark_group = f"{CONTROL}_mark_{getrandbits(62):x}"
        self._listen_to_new(CONTROL, self._mark_group)
        self.is_connected = True
        self.note_caught_up()

    def note_caught_up(self) -> None:
        """All channels may be live, except for those that the server refuses."""
        if self.is_connected and not self._new and not self._catch_up.is_busy:
            self._backend.note_listener_up()

    def _disconnect(self) -> None:
        self.is_connected = False
        self.generation += 1
        connection, self._connection = self._connection, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:  # before its descriptor is closed
            watcher.stop()
            watcher.close()
        for state in self._backend.channels.values():
            state.interrupt()
            state.settled.set()
        for received in self._marks.values():
            received.set()
        if connection is not None:
            connection.close()

    def _serve(self) -> None:
        """Pass notifications on, until the connection is lost or no channel is left."""
        connection = self._connection
        if connection is None:
            raise AssertionError("not connected")
        interval = self._backend.settings.check_interval
        last_check = last_channel = monotonic()
        watcher = self._watcher = get_hub().loop.io(connection.pgconn.socket, 1)
        watcher.start(self._wake.set)
        while True:
            is_awake = self._wake.wait(max(0.0, last_check + interval - monotonic()))
            self._wake.clear()
            if is_awake:
                connection.pgconn.consume_input()
                self._handle_received(connection)
            if self._new:
                self._listen_to_new()
            now = monotonic()
            if self._backend.channels:
                last_channel = now
            elif now - last_channel > _LINGER:
                return
            if now - last_check >= interval:
                self._check(connection)
                last_check = monotonic()

    def _handle_received(self, connection: Connection) -> None:
        """Handle the notifications that were read from the connection."""
        slice_end = monotonic() + _SLICE
        while (notification := connection.pgconn.notifies()) is not None:
            self._handle(notification.extra)
            if monotonic() > slice_end:
                sleep(0)
                slice_end = monotonic() + _SLICE

    def _handle(self, payload: bytes) -> None:
        decoded = decode(payload)
        if decoded is None:
            logger.debug("Ignored a notification of another program: %.200r", payload)
        elif isinstance(decoded, Question):
            self._backend.answer(decoded, self.pid)
        elif isinstance(decoded, Mark):
            if decoded in self._marks:
                self._marks[decoded].set()
        elif isinstance(decoded, MembersChange):
            self._backend.receiver.change_members(decoded.channel, decoded.change)
        else:
            state = self._backend.channels.get(decoded.channel)
            if state is not None and state.handle(decoded):
                self._catch_up.add([state])

    def _listen_to_new(self, *others: str) -> None:
        """Listen to the groups of new channels, in one transaction."""
        connection = self._connection
        if connection is None:
            return
        states, self._new = self._new, []
        groups = {state.group for state in states} - self._groups
        if groups or others:
            self._listen(connection, "LISTEN", [*groups, *others])
            self._groups |= groups
        elif states:
            connection.execute("SELECT 1")
        # With the answer, everything has arrived that was published before. It is not for the new
        # channels, even if the connection has been listening to their groups.
        self._handle_received(connection)
        channels = self._backend.channels
        current = [state for state in states if channels.get(state.name) is state]
        self._catch_up.add([state for state in current if state.start_listening()])
        self.note_caught_up()

    def _listen(self, connection: Connection, command: str, groups: Sequence[str]) -> None:
        connection.execute_script("; ".join(f"{command} {group}" for group in groups))
        self._wake.set()  # notifications may have arrived with the answer

    def _check(self, connection: Connection) -> None:
        """Find out whether the server still answers, and leave the groups without channels."""
        unused = self._groups - {state.group for state in self._backend.channels.values()}
        if unused:
            # A state that is added meanwhile finds that its group is missing.
            self._groups -= unused
            self._listen(connection, "UNLISTEN", list(unused))
        else:
            connection.execute("SELECT 1")
            self._wake.set()
        if monotonic() - self._last_cleanup > _CLEANUP_INTERVAL:
            self._last_cleanup = monotonic()
            spawn(self._backend.clean)


class CatchUp:
    """Reads from the tables what channels need to become live."""

    def __init__(self, backend: Owner, listener: Listener) -> None:
        self._backend = backend
        self._listener = listener
        #: In the order of their arrival.
        self._queue: dict[ChannelState, None] = {}
        self._greenlet: Greenlet[..., None] | None = None

    def add(self, states: Sequence[ChannelState]) -> None:
        """Read for channels. Never blocks."""
        self._queue.update(dict.fromkeys(states))
        if self._queue and self._greenlet is None:
            self._greenlet = spawn(self._run)

    @property
    def is_busy(self) -> bool:
        """Whether a channel is not live yet."""
        return self._greenlet is not None

    def close(self) -> None:
        self._queue.clear()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _run(self) -> None:
        backoff = Backoff()
        size = _BATCH
        while self._queue:
            states = list(self._queue)[:size]
            for state in states:
                del self._queue[state]
            try:
                self._read(states)
                backoff.reset()
                continue
            except Refusal as refusal:
                if len(states) > 1:
                    # Find the channel that is refused. The others must not wait for it.
                    size = 1
                    self._queue = {**dict.fromkeys(states), **self._queue}
                    continue
                logger.warning("%.200r cannot be read: %s", states[0].name, refusal)
                spawn(self._retry_later, states[0])
                states[0].settled.set()
                size = _BATCH
                continue
            except BroadcastError:
                pass  # the backend has logged it
            except Exception:
                logger.exception("The subscriptions of %s failed", self._backend.name)
            self._queue = {**dict.fromkeys(states), **self._queue}
            sleep(backoff.next_pause())
        self._greenlet = None
        self._listener.note_caught_up()

    def _retry_later(self, state: ChannelState) -> None:
        sleep(MAX_DELAY)
        self.add([state])

    def _read(self, batch: Sequence[ChannelState]) -> None:
        """Read for a batch of channels, and apply the result."""
        generation = self._listener.generation
        channels = self._backend.channels
        states = [it for it in batch if channels.get(it.name) is it and it.is_listening]
        before = {state: (len(state.waiting), state.overflows) for state in states}
        references = [reference for state in states for reference in state.references()]
        stored = self._read_stored([state for state in states if state.needs_read])
        wanted = references[:_MAX_BODIES]
        bodies: dict[Reference, bytes | None] = dict.fromkeys(wanted)
        bodies |= self._backend.read_bodies(wanted)
        if stored:
            self._listener.wait_until_received()
        slice_end = monotonic() + _SLICE
        for state in states:
            if monotonic() > slice_end:
                sleep(0)
                slice_end = monotonic() + _SLICE
            if generation != self._listener.generation:
                return  # these channels are read again for the new connection
            covered, overflows = before[state]
            if channels.get(state.name) is not state:
                continue
            was_read = not state.needs_read or state.name in stored
            if (
                overflows != state.overflows
                or not was_read
                or not state.apply(stored.get(state.name), covered, bodies)
            ):
                self._queue[state] = None

    def _read_stored(self, states: Sequence[ChannelState]) -> dict[str, Stored]:
        """Read the positions of new channels, and what the others have missed."""
        new = [state.name for state in states if state.position is None]
        known = {state.name: state.position for state in states if state.position is not None}
        stored = self._backend.read(known)
        missing = known.keys() - stored.keys()
        positions = self._backend.join([*new, *missing])
        for name in new:
            if name in positions:
                stored[name] = Stored(*positions[name], ())
        if missing:
            # Their rows were deleted, and have been created again.
            stored |= self._backend.read(dict.fromkeys(missing, (0, 0)))
        return stored
