"""The connection that receives published messages from Redis.

A :class:`RedisSubscriber` has one connection in subscriber mode, and a greenlet that reads from it.
After the connection is lost, it connects again, subscribes to all channels, and delivers the
messages that were stored in the meantime.

Redis answers commands in their order. Therefore the expected answers are stored in three queues:
for SUBSCRIBE, UNSUBSCRIBE and PING.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

from gevent import sleep, spawn
from gevent.event import AsyncResult, Event
from gevent.lock import RLock
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .backend import Message, Receiver
from .redis_messages import COUNT, REPLY_PREFIX, channel_of, decode_published, key_of
from .redis_urls import TIMEOUT

if TYPE_CHECKING:
    from gevent import Greenlet

logger = logging.getLogger("geventws.broadcast")

#: The exceptions of redis-py for a server that cannot be reached or answers with an error.
FAILURES = (RedisError, RedisClusterException, OSError)

_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0
#: The maximum number of channels in one SUBSCRIBE command.
_BATCH = 500
#: Seconds after which the reading greenlet lets other greenlets run.
_SLICE = 0.001
#: The number of ids that are remembered for each channel. If Redis loses its latest writes, one of
#: these ids may still be in its history.
_REMEMBERED = 100

Answer = TypeVar("Answer")


class ChannelState:
    """The state of the subscription to one channel."""

    __slots__ = ("complete_until", "is_live", "pending", "recent_ids", "settled")

    def __init__(self) -> None:
        #: Set when the subscription is live, or the attempt to subscribe has failed.
        self.settled = Event()
        #: Whether Redis has confirmed the subscription, and all earlier messages were delivered.
        self.is_live = False
        #: Until this time, by ``monotonic()``, no message is missing.
        self.complete_until = 0.0
        #: The ids of the latest messages; neither these nor older messages are delivered again.
        #: ``None`` until the first id was read from Redis, and without a history.
        self.recent_ids: deque[str] | None = None
        #: Messages that arrived after the confirmation of the subscription, until the missed
        #: messages are delivered. At most the messages of one round trip wait here. Redis
        #: limits them with client-output-buffer-limit for pubsub, 32 MiB by default.
        self.pending: list[Message] | None = None


class Connection(Protocol):
    """The methods of redis-py's connections that are used here."""

    def pack_command(self, *arguments: str) -> list[bytes]: ...

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    # The third item of a confirmation is an int, which is not used.
    def read_response(self, *, disconnect_on_error: bool) -> bytes | list[bytes]: ...

    def disconnect(self) -> None: ...


class ConnectionPool(Protocol):
    """The methods of redis-py's connection pools that are used here."""

    def get_connection(self) -> Connection: ...

    def release(self, connection: Connection) -> None: ...


class SubscriberBackend(Protocol):
    """The part of the backend that a :class:`RedisSubscriber` uses."""

    name: str
    receiver: Receiver
    history_size: int
    is_cluster: bool
    #: The channels that this process is subscribed to.
    channels: dict[str, ChannelState]

    @property
    def healthy(self) -> bool: ...

    def note_down(self, problem: BaseException) -> None: ...

    def note_success(self) -> None:
        """Mark the backend as healthy, if nothing else is known to be broken."""

    def newest_id(self, channel: str) -> str:
        """Return the id of the latest message in the history."""

    def missed_messages(
        self, channel: str, recent_ids: deque[str], interruption: float
    ) -> list[Message]:
        """Return the stored messages newer than the last one delivered."""

    def connection_pool(self, node: str) -> ConnectionPool:
        """Return the connections to a node."""

    def reassign(self, subscriber: RedisSubscriber) -> None:
        """Move the channels of a subscriber to the nodes that have them now."""

    def remove_subscriber(self, subscriber: RedisSubscriber) -> None:
        """Forget a subscriber that has ended."""

    def send_count(self, reply: bytes, count: int) -> None:
        """Send another process the number of subscribers of this process."""


class RedisSubscriber:
    """A connection in subscriber mode to one Redis server, and the greenlet that reads from it."""

    def __init__(self, backend: SubscriberBackend, node: str) -> None:
        self.backend = backend
        #: The name of the cluster's node; empty without a cluster, and for an unknown node.
        self.node = node
        #: The channels of this connection.
        self.names: set[str] = set()
        self.is_connected = False
        #: Channels that have not become live since the connection was opened.
        self._recovering: set[str] = set()
        #: SUBSCRIBE commands that Redis has not confirmed yet, one entry for each channel.
        self._unconfirmed: deque[tuple[str, ChannelState]] = deque()
        #: Channels of UNSUBSCRIBE commands that Redis has not confirmed yet.
        self._unconfirmed_ends: deque[str] = deque()
        #: The callbacks of PING commands that Redis has not answered yet.
        self._pong_callbacks: deque[Callable[[bool], object]] = deque()
        #: The time of the latest response, by ``monotonic()``.
        self._last_response = 0.0
        self._confirmation = b"ssubscribe" if backend.is_cluster else b"subscribe"
        self._pool: ConnectionPool | None = None
        self._connection: Connection | None = None
        #: Whether a command could not be sent. redis-py has then closed the connection, and the
        #: next command would open another one, without the subscriptions.
        self._is_broken = False
        self._lock = RLock()  # one command at a time
        self._greenlet: Greenlet[..., None] | None = None
        self._last_pause = 0.0

    @property
    def is_live(self) -> bool:
        """Whether messages of all channels arrive."""
        return self.is_connected and not self._recovering

    def start(self) -> None:
        """Start the greenlet. It ends when there are no channels."""
        self._greenlet = spawn(self._run)

    def close(self) -> None:
        """Kill the greenlet, which closes the connection. Never blocks."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def add(self, channel: str, state: ChannelState) -> None:
        """Subscribe to a channel, now or as soon as there is a connection."""
        self.names.add(channel)
        if not self.is_connected:
            return
        try:
            self._read_position(channel, state)
            self._subscribe([channel])
        except FAILURES:
            state.settled.set()
            self._break_connection()

    def remove(self, channel: str) -> None:
        """Unsubscribe from a channel. Never blocks."""
        if channel in self.names:
            self.names.discard(channel)
            self._recovering.discard(channel)
            if self.is_connected:
                spawn(self._unsubscribe, channel)

    def wait_until_received(self) -> None:
        """Block until all messages that Redis has sent so far are processed.

        :raises redis.ConnectionError: if the connection is lost, or Redis does not answer in time.
        """
        received: AsyncResult[bool] = AsyncResult()
        self._ping(received.set)
        if not received.wait(TIMEOUT):
            raise RedisConnectionError("the connection for subscriptions is interrupted")

    # ---------------------------------------------------------------- commands

    def _unsubscribe(self, channel: str) -> None:
        try:
            with self._lock:
                # Another greenlet may have subscribed to the channel again.
                if channel not in self.names:
                    self._send("UNSUBSCRIBE", [channel], self._unconfirmed_ends, [channel])
        except FAILURES:
            pass  # the greenlet connects again

    def _subscribe(self, channels: list[str]) -> None:
        with self._lock:
            # While this greenlet waited for the lock, a channel may have lost its last subscriber.
            states = [(name, self.backend.channels.get(name)) for name in channels]
            current = [(name, state) for name, state in states if state and name in self.names]
            self._send("SUBSCRIBE", [name for name, _ in current], self._unconfirmed, current)

    def _ping(self, callback: Callable[[bool], object]) -> None:
        """Call ``callback(True)`` when all messages that Redis has sent so far are processed.

        Call ``callback(False)`` if the connection is lost before.
        """
        with self._lock:
            if self._connection is None or self._is_broken:
                callback(False)
            else:
                self._send("PING", [], self._pong_callbacks, [callback])

    def _send(
        self, command: str, channels: list[str], expected: deque[Answer], answers: list[Answer]
    ) -> None:
        """Append the expected answers to ``expected``, and send a command.

        If sending fails, the connection is not used again, and all expected answers are dropped.
        """
        connection = self._connection
        if connection is None or self._is_broken or (not channels and command != "PING"):
            return
        if channels and self.backend.is_cluster:
            command = f"S{command}"
        # This may raise an exception, and must not change `expected` then.
        packed = connection.pack_command(command, *map(key_of, channels))
        expected.extend(answers)
        try:
            connection.send_packed_command(packed, check_health=False)
        except BaseException:
            if connection is self._connection:
                self._is_broken = True
            raise

    def _break_connection(self) -> None:
        """Close the connection. The greenlet notices it, and connects again."""
        if self._connection is not None:
            self._is_broken = True
            self._connection.disconnect()

    def _read_position(self, channel: str, state: ChannelState) -> None:
        """Read the id of the latest message of a new channel: only later ones are delivered."""
        if self.backend.history_size and state.recent_ids is None:
            now = monotonic()
            newest = self.backend.newest_id(channel)
            if state.recent_ids is None:  # otherwise another greenlet has read it meanwhile
                state.complete_until = now
                state.recent_ids = deque([newest], _REMEMBERED)

    def _read_positions(self) -> None:
        channels = self.backend.channels
        while new := [
            name for name in self.names if name in channels and channels[name].recent_ids is None
        ]:
            for name in new:
                state = channels.get(name)
                if state is not None:
                    self._read_position(name, state)

    # ------------------------------------------------------------ the greenlet

    def _run(self) -> None:
        delay = _FIRST_DELAY
        try:
            while self.names:
                try:
                    self._connect()
                    delay = _FIRST_DELAY
                    self._read_responses()
                except Exception as problem:
                    if not (self._is_broken or isinstance(problem, FAILURES)):
                        # A bug in this module must not stop the messages for good.
                        logger.exception("The subscriptions of %s failed", self.backend.name)
                    self._disconnect()
                    self._handle_failure(problem)
                    sleep(delay * uniform(0.5, 1))  # noqa: S311 - not a secret
                    delay = min(2 * delay, _MAX_DELAY)
        finally:
            self.backend.remove_subscriber(self)
            self._disconnect()

    def _connect(self) -> None:
        """Open the connection, and subscribe to all channels."""
        backend = self.backend
        if backend.is_cluster and not self.node:
            backend.reassign(self)
            if self.names:
                raise RedisClusterException("the node of a channel is unknown")
            return
        self._pool = backend.connection_pool(self.node)
        self._connection = self._pool.get_connection()
        self._is_broken = False
        self._unconfirmed.clear()
        self._unconfirmed_ends.clear()
        if backend.history_size:
            self._read_positions()
        self.is_connected = True
        self._recovering = self.names & backend.channels.keys()
        channels = list(self._recovering)
        for channel in channels:
            backend.channels[channel].settled.clear()
        if not channels:
            backend.note_success()
        # In a cluster, all channels of one command must belong to the same slot.
        step = 1 if backend.is_cluster else _BATCH
        for first in range(0, len(channels), step):
            self._subscribe(channels[first : first + step])

    def _disconnect(self) -> None:
        self.is_connected = False
        connection, self._connection = self._connection, None
        callbacks = list(self._pong_callbacks)
        self._pong_callbacks.clear()
        for channel in self.names & self.backend.channels.keys():
            state = self.backend.channels[channel]
            if state.is_live:
                state.complete_until = self._last_response
            state.is_live = False
            state.pending = None
        for callback in callbacks:
            callback(False)
        if connection is not None and self._pool is not None:
            connection.disconnect()
            self._pool.release(connection)

    def _handle_failure(self, problem: BaseException) -> None:
        """Report a failure, and release the greenlets that wait for a subscription."""
        backend = self.backend
        backend.note_down(problem)
        for channel in self.names:
            state = backend.channels.get(channel)
            if state is not None:
                state.settled.set()
        if backend.is_cluster:
            try:
                backend.reassign(self)
            except FAILURES:
                pass  # the next attempt follows soon

    def _read_responses(self) -> None:
        """Process responses until the connection is lost, or there are no channels."""
        connection = self._connection
        is_pinged = False
        self._last_pause = monotonic()
        while connection is not None:
            try:
                response = connection.read_response(disconnect_on_error=False)
            except RedisTimeoutError:
                if is_pinged or self._is_broken:
                    raise
                if not self.names:
                    return
                is_pinged = True
                self._ping(bool)  # a callback without effect
                continue
            is_pinged = False
            self._last_response = monotonic()
            if not self.backend.healthy:
                self.backend.note_success()  # Redis was slow, and the connection is intact
            self._handle_response(response)
            if monotonic() - self._last_pause > _SLICE:
                # A socket with data never blocks, so that no other greenlet would run.
                sleep(0)
                self._last_pause = monotonic()

    def _handle_response(self, response: bytes | list[bytes]) -> None:
        if isinstance(response, bytes):
            response = [response.lower()]  # without subscriptions, PING is answered with b"PONG"
        if response[0] == b"pong":
            self._pong_callbacks.popleft()(True)
            return
        kind, key, data = response
        if kind == self._confirmation:
            self._handle_confirmation(key)
            return
        channel = channel_of(key)
        if kind in {b"message", b"smessage"}:
            if channel in self.names:
                self._handle_message(channel, self.backend.channels[channel], data)
        elif self._unconfirmed_ends and channel == self._unconfirmed_ends[0]:
            self._unconfirmed_ends.popleft()
        elif channel in self.names:
            # A cluster ends the subscriptions of a slot that moves to another node.
            raise RedisClusterException(f"the channel {channel} has moved to another node")

    def _handle_confirmation(self, key: bytes) -> None:
        channel, state = self._unconfirmed.popleft()
        if key != key_of(channel).encode():
            raise RedisConnectionError("Redis has confirmed an unexpected subscription")
        is_confirmed_twice = state.is_live or state.pending is not None
        if self.backend.channels.get(channel) is state and not is_confirmed_twice:
            self._catch_up(channel, state)

    def _handle_message(self, channel: str, state: ChannelState, data: bytes) -> None:
        if data.startswith(COUNT + REPLY_PREFIX.encode()):
            spawn(self.backend.send_count, data[1:], self.backend.receiver.count(channel))
            return
        message = decode_published(channel, data)
        if message is None:
            logger.debug("Ignored a message of another program in the channel %r", channel)
        elif state.pending is not None:
            state.pending.append(message)
        elif state.is_live:
            self._deliver(state, message)

    def _deliver(self, state: ChannelState, message: Message) -> None:
        if state.recent_ids is not None and message.id is not None:
            state.recent_ids.append(message.id)
        self.backend.receiver.deliver(message)

    def _catch_up(self, channel: str, state: ChannelState) -> None:
        """Fetch the messages that were stored before Redis confirmed the subscription."""
        missed: list[Message] = []
        if state.recent_ids is not None:
            interruption = monotonic() - state.complete_until
            missed = self.backend.missed_messages(channel, state.recent_ids, interruption)
        if missed:
            # Messages since the confirmation may arrive on the connection as well. The answer to
            # PING marks the point up to which they are duplicates.
            state.pending = []
            self._ping(partial(self._make_live, channel, state, missed))
        else:
            self._make_live(channel, state, missed, True)

    def _make_live(
        self, channel: str, state: ChannelState, missed: list[Message], is_connected: bool
    ) -> None:
        """Deliver the missed and then the pending messages, without duplicates."""
        if not is_connected or self.backend.channels.get(channel) is not state:
            return
        pending = state.pending or []
        ids = {message.id for message in pending}
        for message in missed:
            if message.id not in ids:
                self._deliver(state, message)
        for message in pending:
            self._deliver(state, message)
        state.pending = None
        state.is_live = True
        state.settled.set()
        self._recovering.discard(channel)
        if not self._recovering:
            self.backend.note_success()
