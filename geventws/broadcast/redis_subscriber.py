"""The connection that receives published messages from Redis.

A :class:`RedisSubscriber` has one connection in subscriber mode, and a greenlet that reads from it.
After the connection is lost, it connects again and subscribes to all channels.

When Redis has confirmed the subscription to a channel, the messages that were stored before are
read on another connection, for many channels at a time; this greenlet goes on with other channels
meanwhile. Then a PING marks the point up to which messages of that time have arrived: they are
joined to the stored ones, and the channel is live.

Redis answers commands in their order. Therefore the commands that wait for answers are in a queue.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from gevent import sleep, spawn, spawn_later
from gevent.event import AsyncResult
from gevent.lock import RLock
from redis.exceptions import (
    AskError,
    ClusterError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..connection.logs import Throttle
from .backend import Message, Receiver
from .backoff import Backoff
from .redis_channel import ChannelState, Read
from .redis_history import BATCH, LATEST, Result
from .redis_messages import CHANGE, COUNT_REQUEST, channel_of, decode_published, key_of
from .redis_urls import TIMEOUT

if TYPE_CHECKING:
    from gevent import Greenlet

logger = logging.getLogger("geventws.broadcast")
#: Limits the lines about single channels: clients may decide how many channels there are.
_troubles = Throttle(target=logger)

#: The exceptions of redis-py for a server that cannot be reached or answers with an error.
FAILURES = (RedisError, RedisClusterException, OSError)
#: Errors that Redis answers for a while during a failover, or while a slot moves.
_PASSING = (ReadOnlyError, ClusterError, AskError, TryAgainError)
#: What Redis says if it refuses everything.
_GENERAL = ("permissions to run the", "DB index", "SELECT is not allowed")

_MESSAGES = frozenset({b"message", b"smessage"})
#: The maximum number of channels in one SUBSCRIBE command.
_MAX_NAMES = 500
#: The maximum number of greenlets of a connection that read stored messages.
_MAX_READERS = 4
#: The maximum of seconds until another attempt to subscribe to a channel that Redis refuses.
_MAX_RETRY_DELAY = 60.0
#: Seconds after which the reading greenlet lets other greenlets run.
_SLICE = 0.001


def is_refusal(problem: BaseException) -> bool:
    """Whether Redis works, and has refused one command: a key of another type, no permission.

    A missing permission for a command as such, or a database that does not exist, concerns all.
    """
    if not isinstance(problem, ResponseError) or isinstance(problem, _PASSING):
        return False
    return not any(text in str(problem) for text in _GENERAL)


class Connection(Protocol):
    """The methods of redis-py's connections that are used here."""

    def connect(self) -> None: ...

    def pack_command(self, *arguments: str) -> list[bytes]: ...

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    def send_command(self, *arguments: str) -> None: ...

    # The third item of a confirmation is an int, which is not used.
    def read_response(self, *, disconnect_on_error: bool) -> bytes | list[bytes]: ...

    def disconnect(self) -> None: ...


def _server_of(connection: Connection) -> str:
    """Return the id of the process of Redis; an empty string if it is secret."""
    connection.send_command("INFO", "server")
    try:
        answer = connection.read_response(disconnect_on_error=False)
    except ResponseError:
        return ""
    found = (
        re.search(rb"^run_id:(\w+)", answer, re.MULTILINE) if isinstance(answer, bytes) else None
    )
    return found[1].decode() if found else ""


class SubscriberBackend(Protocol):
    """The part of the backend that a :class:`RedisSubscriber` uses."""

    name: str
    receiver: Receiver
    is_cluster: bool
    #: The channels that this process is subscribed to.
    channels: dict[str, ChannelState]

    @property
    def is_up(self) -> bool: ...

    def history_size_of(self, channel: str) -> int: ...

    def note_down(self, problem: BaseException) -> None: ...

    def note_live(self) -> None:
        """The connection has received something, or a channel has become live."""

    def read_histories(self, starts: Mapping[str, str]) -> dict[str, Result]:
        """Read what Redis has stored of some channels, from some ids on.

        :raises BroadcastError: if Redis does not answer; the backend is marked as unhealthy then.
        """

    def new_connection(self, node: str) -> Connection:
        """Return a connection to a node that is not connected yet."""

    def reassign(self, subscriber: RedisSubscriber) -> None:
        """Move the subscriber's channels to the nodes that have them now."""

    def remove_subscriber(self, subscriber: RedisSubscriber) -> None:
        """Forget a subscriber that has ended."""

    def send_count(self, reply: bytes, count: int) -> None:
        """Send another process the number of subscribers of this process."""


class _Command:
    """A command that Redis has not answered completely."""

    __slots__ = ("callback", "channels", "kind")

    def __init__(
        self,
        kind: str,
        channels: Sequence[tuple[str, ChannelState | None]] = (),
        callback: Callable[[bool], object] = bool,
    ) -> None:
        self.kind = kind
        #: The channels that are not confirmed yet, and their states when the command was sent.
        self.channels = deque(channels)
        #: Called with True after the answer to PING; with False if the connection is lost before.
        self.callback = callback


class RedisSubscriber:
    """A connection in subscriber mode, and the greenlet that reads from it."""

    def __init__(self, backend: SubscriberBackend, node: str) -> None:
        self.backend = backend
        #: The name of the cluster's node; empty without a cluster, and for an unknown node.
        self.node = node
        #: The channels of this connection.
        self.names: set[str] = set()
        self.is_connected = False
        #: Channels that have not become live since the connection was opened.
        self._recovering: set[str] = set()
        #: Channels whose stored messages are not read yet.
        self._unread: dict[str, ChannelState] = {}
        self._readers = 0
        self._commands: deque[_Command] = deque()
        self._confirmation = b"ssubscribe" if backend.is_cluster else b"subscribe"
        self._connection: Connection | None = None
        #: The id of the process of Redis; empty if it is unknown.
        self._server = ""
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
        """Kill the greenlet, which closes the connection. Never blocks.

        In a forked child, redis-py closes only the child's descriptor of it.
        """
        self.names.clear()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def add(self, channels: Sequence[str]) -> None:
        """Subscribe to channels, now or as soon as there is a connection."""
        self.names.update(channels)
        if self.is_connected:
            try:
                self._subscribe(channels)
            except FAILURES:
                self._settle(channels)
                self._break_connection()

    def remove(self, channel: str) -> None:
        """Unsubscribe from a channel. Never blocks."""
        if channel in self.names:
            self.names.discard(channel)
            self._recovering.discard(channel)
            self._unread.pop(channel, None)
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

    def _subscribe(self, channels: Sequence[str]) -> None:
        # In a cluster, all channels of one command must belong to the same slot.
        step = 1 if self.backend.is_cluster else _MAX_NAMES
        for first in range(0, len(channels), step):
            with self._lock:
                # While this greenlet waited for the lock, a channel may have lost its subscribers.
                states = [
                    (name, self.backend.channels.get(name))
                    for name in channels[first : first + step]
                    if name in self.names
                ]
                self._send(_Command("SUBSCRIBE", [it for it in states if it[1] is not None]))

    def _unsubscribe(self, channel: str) -> None:
        try:
            with self._lock:
                # Another greenlet may have subscribed to the channel again.
                if channel not in self.names:
                    self._send(_Command("UNSUBSCRIBE", [(channel, None)]))
        except FAILURES:
            pass  # the greenlet connects again

    def _ping(self, callback: Callable[[bool], object]) -> None:
        """Call ``callback(True)`` when all messages that Redis has sent so far are processed.

        Call ``callback(False)`` if the connection is lost before.
        """
        with self._lock:
            if self._connection is None or self._is_broken:
                callback(False)
            else:
                self._send(_Command("PING", callback=callback))

    def _send(self, command: _Command) -> None:
        """Send a command, and expect its answers.

        If sending fails, the connection is not used again, and all expected answers are dropped.
        """
        connection = self._connection
        names = [key_of(channel) for channel, _ in command.channels]
        if connection is None or self._is_broken or (not names and command.kind != "PING"):
            return
        is_sharded = names and self.backend.is_cluster
        # This may raise an exception, and must not change the queue then.
        packed = connection.pack_command(f"{'S' if is_sharded else ''}{command.kind}", *names)
        self._commands.append(command)
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

    def _settle(self, channels: Sequence[str]) -> None:
        """Release the greenlets that wait for a subscription."""
        for channel in channels:
            state = self.backend.channels.get(channel)
            if state is not None:
                state.settled.set()

    # ------------------------------------------------------------ the greenlet

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while self.names:
                try:
                    self._connect()
                    backoff.reset()
                    self._read_responses()
                except Exception as problem:
                    if not (self._is_broken or isinstance(problem, FAILURES)):
                        # A bug in this module must not stop the messages for good.
                        logger.exception("The subscriptions of %s failed", self.backend.name)
                    self._disconnect()
                    self._handle_failure(problem)
                    sleep(backoff.next_pause())
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
        connection = backend.new_connection(self.node)
        connection.connect()
        self._server = _server_of(connection)
        self._connection = connection
        self._is_broken = False
        self._commands.clear()
        self.is_connected = True
        channels = [name for name in self.names if name in backend.channels]
        self._recovering = set(channels)
        for channel in channels:
            backend.channels[channel].settled.clear()
        if not channels:
            backend.note_live()
        self._subscribe(channels)

    def _disconnect(self) -> None:
        self.is_connected = False
        connection, self._connection = self._connection, None
        commands = list(self._commands)
        self._commands.clear()
        self._unread.clear()
        for channel in self.names & self.backend.channels.keys():
            self.backend.channels[channel].interrupt()
        for command in commands:
            command.callback(False)
        if connection is not None:
            connection.disconnect()

    def _handle_failure(self, problem: BaseException) -> None:
        """Report a failure, and release the greenlets that wait for a subscription."""
        if not self.names:
            return
        backend = self.backend
        backend.note_down(problem)
        self._settle(list(self.names))
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
            except ResponseError as refusal:
                self._handle_refusal(refusal)
                continue
            is_pinged = False
            if not self.backend.is_up:
                self.backend.note_live()  # Redis was slow, and the connection is intact
            self._handle_response(response)
            if monotonic() - self._last_pause > _SLICE:
                # A socket with data never blocks, so that no other greenlet would run.
                sleep(0)
                self._last_pause = monotonic()

    def _handle_response(self, response: bytes | list[bytes]) -> None:
        if isinstance(response, bytes) or response[0] == b"pong":  # bytes without subscriptions
            self._take_command("PING").callback(True)
            return
        kind, key, data = response
        channel = channel_of(key)
        if kind in _MESSAGES:
            if data.startswith(COUNT_REQUEST):  # also while Redis has yet to end the subscription
                spawn(self.backend.send_count, data[1:], self.backend.receiver.count(channel))
            elif data.startswith(CHANGE):
                if channel in self.backend.channels:
                    change = data[1:].decode("ascii", "replace")
                    self.backend.receiver.change_members(channel, change)
            elif (
                channel in self.names and (state := self.backend.channels.get(channel)) is not None
            ):
                self._handle_message(channel, state, data)
        elif kind == self._confirmation:
            self._handle_confirmation(channel, self._take_answer("SUBSCRIBE", channel))
        elif self._is_expected("UNSUBSCRIBE", channel):
            self._take_answer("UNSUBSCRIBE", channel)
        elif channel in self.names:
            # A cluster ends the subscriptions of a slot that moves to another node.
            raise RedisClusterException(f"the channel {channel} has moved to another node")

    def _is_expected(self, kind: str, channel: str) -> bool:
        """Whether the next answer is about a channel of a command."""
        if not self._commands or self._commands[0].kind != kind:
            return False
        channels = self._commands[0].channels
        return bool(channels) and channels[0][0] == channel

    def _take_answer(self, kind: str, channel: str) -> ChannelState | None:
        """Note that a command is confirmed for a channel; return its state at that time."""
        if not self._is_expected(kind, channel):
            raise RedisConnectionError("Redis has sent an unexpected answer")
        channels = self._commands[0].channels
        _, state = channels.popleft()
        if not channels:
            self._commands.popleft()
        return state

    def _take_command(self, kind: str) -> _Command:
        if not self._commands or self._commands[0].kind != kind:
            raise RedisConnectionError("Redis has sent an unexpected answer")
        return self._commands.popleft()

    def _handle_refusal(self, refusal: ResponseError) -> None:
        """Handle an error that Redis has answered to the oldest command.

        It refuses all channels of a SUBSCRIBE because of one: each is tried by itself.
        """
        if not is_refusal(refusal) or not self._commands or self._commands[0].kind != "SUBSCRIBE":
            raise refusal
        channels = list(self._commands.popleft().channels)
        if len(channels) > 1:
            for channel, _ in channels:
                self._subscribe([channel])
            return
        for channel, state in channels:
            if state is not None and self.backend.channels.get(channel) is state:
                self._refuse(channel, state, refusal)

    def _refuse(self, channel: str, state: ChannelState, refusal: ResponseError) -> None:
        """Note that Redis refuses a channel, and try again later."""
        if state.refusal is None:
            _troubles.log(
                logging.ERROR,
                "%s refuses the channel %.200r: %s",
                self.backend.name,
                channel,
                refusal,
            )
        state.refusal = refusal
        state.settled.set()
        self._finish_recovery(channel)
        spawn_later(state.retry_delay, self._retry, channel, state, self._connection)
        state.retry_delay = min(2 * state.retry_delay, _MAX_RETRY_DELAY)

    def _retry(self, channel: str, state: ChannelState, connection: Connection | None) -> None:
        if connection is self._connection and self.backend.channels.get(channel) is state:
            self.add([channel])

    # ---------------------------------------------------------------- messages

    def _handle_confirmation(self, channel: str, state: ChannelState | None) -> None:
        if state is None or self.backend.channels.get(channel) is not state:
            return  # everybody has left, or left and come back
        if state.is_live or state.pending is not None:
            return  # confirmed for the second time
        state.refusal = None
        state.confirm(self._server)
        if not self.backend.history_size_of(channel):
            self._go_live(channel, state, None)
            return
        self._unread[channel] = state
        if self._readers < _MAX_READERS:
            self._readers += 1
            spawn(self._read_stored)

    def _handle_message(self, channel: str, state: ChannelState | None, data: bytes) -> None:
        if state is None:
            return  # the backend is being closed
        message = decode_published(channel, data)
        if message is None:
            logger.debug("Ignored a message of another program in the channel %r", channel)
        elif state.is_live:
            self._deliver(state, message)
        elif state.pending is not None:
            state.add_pending(message)

    def _deliver(self, state: ChannelState, message: Message) -> None:
        if message.id is not None:
            state.note_delivered(message.id)
        self.backend.receiver.deliver(message)

    def _read_stored(self) -> None:
        """Read what was stored before the subscriptions began, until all channels are live."""
        backoff = Backoff()
        try:
            while self._unread:
                connection = self._connection
                batch = dict(list(self._unread.items())[:BATCH])
                for channel in batch:
                    del self._unread[channel]
                try:
                    results = self._read_and_wait(batch)
                except FAILURES:
                    if connection is not self._connection:
                        continue
                    self._settle(list(batch))
                    sleep(backoff.next_pause())
                    results = {}
                if connection is self._connection:
                    self._go_live_together(batch, results)
        except Exception:
            # A bug in this module must not stop the messages for good.
            logger.exception("The subscriptions of %s failed", self.backend.name)
            self._break_connection()
        finally:
            self._readers -= 1

    def _read_and_wait(self, batch: Mapping[str, ChannelState]) -> dict[str, Result]:
        """Read stored messages, and wait for the new ones that were published before."""
        starts = {channel: state.position or LATEST for channel, state in batch.items()}
        results = self.backend.read_histories(starts)
        self.wait_until_received()
        return results

    def _go_live_together(
        self, batch: Mapping[str, ChannelState], results: Mapping[str, Result]
    ) -> None:
        for channel, state in batch.items():
            if self.backend.channels.get(channel) is not state or state.pending is None:
                continue
            result = results.get(channel)
            if isinstance(result, Read):
                self._go_live(channel, state, result)
            elif result is not None and is_refusal(result):
                _troubles.log(
                    logging.ERROR, "The history of %.200r cannot be read: %s", channel, result
                )
                self._go_live(channel, state, None)
            else:
                self._unread[channel] = state  # once more

    def _go_live(self, channel: str, state: ChannelState, read: Read | None) -> None:
        """Deliver what was stored and has arrived meanwhile; from now on, all that arrives."""
        missed, messages = state.go_live(read)
        state.settled.set()
        state.retry_delay = 1.0
        if missed:
            self.backend.receiver.miss(channel, missed)
        for message in messages:
            self._deliver(state, message)
        self._finish_recovery(channel)

    def _finish_recovery(self, channel: str) -> None:
        if channel in self._recovering:
            self._recovering.discard(channel)
            if not self._recovering:
                self.backend.note_live()
