"""``redis://``: any number of processes and machines, by way of Redis or Valkey, with redis-py.

- A channel is a Redis channel of the name ``geventws:`` and the channel's. Its history is a stream
  of the same name, so that in a cluster both are at the same node.
- With history, a script appends to the stream and publishes in one step: the order is the same.
- The process has one connection that is subscribed, to channels that somebody here listens to;
  in a cluster, where channels are sharded, one to each node that has such channels.
- What is published while that connection is broken is read from the history when it is back,
  whatever Redis then remembers: all, nothing, or what it knew a while ago. Where the two meet, a
  ping on the connection tells what has passed by on it.

On the wire a message is a byte for its kind, its id, a space, and the payload.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import uniform
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from gevent import sleep, spawn
from gevent.event import AsyncResult, Event
from gevent.lock import RLock
from gevent.monkey import is_module_patched

from ..exceptions import BroadcastError
from .backend import Backend, History, Local, Message, parse_id

try:
    import redis
except ImportError as problem:
    raise ImportError(
        "a broadcast on Redis needs redis-py: pip install geventws[redis]"
    ) from problem

from redis.backoff import NoBackoff
from redis.connection import parse_url as _parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

logger = logging.getLogger("geventws.broadcast")

parse_url: Any = _parse_url  # it has no types

_PREFIX = "geventws:"
_REPLY = f"{_PREFIX}reply:"
_TEXT, _BINARY, _COUNT = b"\x01", b"\x02", b"\x03"
#: Key, then message, how many are kept, for how many milliseconds, and what publishes.
_PUBLISH = """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'm', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call(ARGV[4], KEYS[1], string.sub(ARGV[1], 1, 1) .. id .. ' ' .. string.sub(ARGV[1], 2))
return id
"""
#: In a script, a cluster asks the node that has the key.
_TIME = "return redis.call('TIME')"
#: How long Redis may take for an answer, in seconds, unless the URL has another socket_timeout.
_TIMEOUT = 5.0
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
#: How many channels are subscribed to by one command.
_BATCH = 500
#: How long messages may be passed on without letting the loop run, in seconds.
_SLICE = 0.001
#: How long subscribers() waits for each process, in seconds.
_COUNT_TIMEOUT = 1.0
_BEGINNING = "0-0"
#: How many ids of a channel are remembered, to know them again in a Redis that has fallen behind.
_REMEMBERED = 100
_FAILURES = (RedisError, RedisClusterException, OSError)


class _Channel:
    """A channel that is listened to."""

    __slots__ = ("heard_until", "is_live", "known", "settled", "waiting")

    def __init__(self) -> None:
        #: Set as soon as it is live, or the attempt has failed.
        self.settled = Event()
        #: Whether Redis has confirmed it, and what came before that is delivered.
        self.is_live = False
        #: Until when nothing has been missed, by monotonic().
        self.heard_until = 0.0
        #: The ids of the latest messages, of which nothing is to be delivered any more; None as
        #: long as that is not known, and without a history.
        self.known: deque[str] | None = None
        #: What has come in since Redis confirmed it, while it is found out what came before: until
        #: the answer to a ping, so no more than Redis sends within one round trip. What it has
        #: ready for us is bounded by its client-output-buffer-limit for pubsub, 32 MiB.
        self.waiting: list[Message] | None = None


class RedisBackend(Backend):
    """Carries messages through Redis: one server, a sentinel's, or a cluster."""

    def __init__(self, url: str, local: Local, history: int, history_ttl: float) -> None:
        super().__init__(url, local, history, history_ttl)
        self._service = _parse(url)
        self.is_cluster = self._service.kind == "cluster"
        self._client: Any = None
        #: Whether it answered the latest command with an error: out of memory, for instance.
        self._refuses = False
        #: What is listened to; kept while the connection is broken.
        self.channels: dict[str, _Channel] = {}
        #: By the name of the cluster's node; without a cluster the name is empty.
        self._listeners: dict[str, _Listener] = {}

    # -------------------------------------------------------------- the verbs

    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        body = _TEXT + data.encode() if isinstance(data, str) else _BINARY + data
        verb = "SPUBLISH" if self.is_cluster else "PUBLISH"
        with self._asking():
            if not (keep and self.history_size):
                self.client().execute_command(verb, _key(channel), body[:1] + b" " + body[1:])
                return None
            id_: bytes = self.client().eval(
                _PUBLISH,
                1,
                _key(channel),
                body,
                self.history_size,
                int(self.history_ttl * 1000),
                verb,
            )
        return id_.decode()

    def subscribe(self, channel: str) -> None:
        if not is_module_patched("socket"):
            raise RuntimeError(
                "subscribing by way of Redis would block the whole process: call"
                " gevent.monkey.patch_all() first of all, as gunicorn's gevent workers and"
                " python -m geventws do"
            )
        state = self.channels.get(channel)
        if state is None:
            state = self.channels[channel] = _Channel()
            self._listener_for(channel).add(channel, state)
        state.settled.wait(_TIMEOUT)

    def unsubscribe(self, channel: str) -> None:
        if self.channels.pop(channel, None) is not None:
            for listener in self._listeners.values():
                listener.remove(channel)

    def history(self, channel: str, since: str | None) -> History:
        if since is None:
            with self._asking():
                return History(self._kept(channel, _BEGINNING), True)
        listener = self._live_listener(channel)
        with self._asking():
            messages = self._kept(channel, _BEGINNING if parse_id(since) is None else since)
            if listener is not None:
                listener.let_pass()
        found = bool(messages) and messages[0].id == since
        return History(messages[1 if found else 0 :], found)

    def _live_listener(self, channel: str) -> _Listener | None:
        """Who hears a channel, if anybody here wants to."""
        state = self.channels.get(channel)
        if state is None:
            return None
        for listener in self._listeners.values():
            if state.is_live and channel in listener.wanted:
                return listener
        raise BroadcastError(f"{self.name} cannot be heard at the moment")

    def subscribers(self, channel: str) -> int:
        # Each process is asked, so nothing is left behind by one that dies.
        reply = f"{_REPLY}{uuid.uuid4().hex}"
        verb = "SPUBLISH" if self.is_cluster else "PUBLISH"
        total = 0
        with self._asking():
            client = self.client()
            processes = client.execute_command(verb, _key(channel), _COUNT + reply.encode())
            for _ in range(processes):
                answer = client.blpop([reply], timeout=_COUNT_TIMEOUT)
                if answer is None:
                    break  # it died, or hangs
                total += int(answer[1])
        return total

    def close(self) -> None:
        self.channels.clear()
        for listener in list(self._listeners.values()):
            listener.close()
        self._listeners.clear()
        if self._client is not None:
            self._client.close()

    # ------------------------------------------------------------------ asking

    def client(self) -> Any:
        """The client for everything but subscriptions; a cluster's connects when it is made."""
        if self._client is None:
            self._client = self._service.connect()
        return self._client

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as problem:
            self._refuses = isinstance(problem, ResponseError)
            self.note_down(problem)
            raise BroadcastError(f"{self.name} does not answer: {problem}") from problem
        self._refuses = False
        self.note_success()

    def note_success(self) -> None:
        """Something worked; it is up if nothing else is known to be broken."""
        if not self._refuses and all(listener.is_live for listener in self._listeners.values()):
            self.note_up()

    def newest(self, channel: str) -> str:
        """The id of the latest message of a channel."""
        entries = self.client().xrevrange(_key(channel), count=1)
        return entries[0][0].decode() if entries else _BEGINNING

    def missed(self, channel: str, known: deque[str], silence: float) -> list[Message]:
        """What is kept of the messages behind those that are known.

        :param silence: for how many seconds nothing was heard.
        """
        latest = known[-1]
        messages = self._kept(channel, latest)
        if messages and messages[0].id == latest:
            return messages[1:]
        if latest == _BEGINNING:
            return messages
        # It is forgotten: in the course of time, or since Redis has lost a part of its memory or
        # all of it. Then its clock may be behind, and the ids of new messages are smaller.
        messages = self._kept(channel, "-")
        for index in range(len(messages), 0, -1):
            if messages[index - 1].id in known:
                return messages[index:]
        if not messages:
            return messages
        # What Redis has known for longer than the silence lasts was heard in its time.
        seconds, microseconds = self.client().eval(_TIME, 1, _key(channel))
        now = int(seconds) * 1000 + int(microseconds) // 1000
        known_until = min(_order(latest), (now - int(silence * 1000), 0))
        return [message for message in messages if _order(message.id or "") > known_until]

    def _kept(self, channel: str, first: str) -> list[Message]:
        """The messages of the history, from an id on."""
        entries = self.client().xrange(_key(channel), first, "+")
        messages = (_message(channel, id_, fields) for id_, fields in entries)
        return [message for message in messages if message is not None]

    # --------------------------------------------------------------- listening

    def node_of(self, channel: str) -> str:
        """The name of the cluster's node that has a channel; empty if that is not known now."""
        if self.is_cluster:
            try:
                return str(self.client().get_node_from_key(_key(channel)).name)
            except _FAILURES:
                pass  # whoever listens finds out when the cluster is back
        return ""

    def pool_of(self, node: str) -> Any:
        """The connections to a node."""
        client = self.client()
        if not self.is_cluster:
            return client.connection_pool
        found = client.get_node(node_name=node)
        if found is None:
            raise RedisClusterException(f"there is no node {node or 'known'}")
        return client.get_redis_connection(found).connection_pool

    def _listener_for(self, channel: str) -> _Listener:
        node = self.node_of(channel)
        listener = self._listeners.get(node)
        if listener is None:
            listener = self._listeners[node] = _Listener(self, node)
            listener.start()
        return listener

    def reroute(self, listener: _Listener) -> None:
        """Look anew for the nodes of a listener's channels."""
        self.client().nodes_manager.initialize()
        for channel in list(listener.wanted):
            if self.node_of(channel) != listener.node:
                listener.wanted.discard(channel)
                state = self.channels.get(channel)
                if state is not None:
                    self._listener_for(channel).add(channel, state)

    def forget(self, listener: _Listener) -> None:
        """A listener has nothing to do any more."""
        if self._listeners.get(listener.node) is listener:
            del self._listeners[listener.node]

    def answer(self, reply: bytes, count: int) -> None:
        """Tell another process how many are subscribed here."""
        try:
            self.client().rpush(reply, count)
            self.client().expire(reply, 10)
        except _FAILURES:
            pass  # whoever asked waits no longer than a second


class _Listener:
    """The connection that is subscribed, and the greenlet that reads from it."""

    def __init__(self, backend: RedisBackend, node: str) -> None:
        self.backend = backend
        self.node = node
        self.wanted: set[str] = set()
        self.is_connected = False
        #: Channels whose subscriptions are not back yet since the connection is.
        self._returning: set[str] = set()
        #: For whom the confirmations are that are due, and what is done with each pong that is:
        #: Redis answers in the order of the commands.
        self._confirmations: deque[tuple[str, _Channel]] = deque()
        self._pongs: deque[Callable[[bool], object]] = deque()
        #: Channels of which it is still to be confirmed that they are not subscribed to any more.
        self._departures: deque[str] = deque()
        #: When Redis was last heard, by monotonic().
        self._heard = 0.0
        self._kind = b"ssubscribe" if backend.is_cluster else b"subscribe"
        self._pool: Any = None
        self._connection: Any = None
        #: Whether a command failed to go out: redis-py has closed the connection then, and would
        #: open another one with the next command, without the subscriptions.
        self._is_broken = False
        self._lock = RLock()  # one command at a time
        self._greenlet: Any = None
        self._yielded = 0.0

    @property
    def is_live(self) -> bool:
        """Whether everything comes in that should."""
        return self.is_connected and not self._returning

    def start(self) -> None:
        self._greenlet = spawn(self._run)

    def close(self) -> None:
        self._greenlet.kill(block=False)

    def add(self, channel: str, state: _Channel) -> None:
        """Listen to one more channel."""
        self.wanted.add(channel)
        if not self.is_connected:
            return  # it is subscribed to as soon as there is a connection
        try:
            self._note_position(channel, state)
            self._subscribe([channel])
        except _FAILURES:
            state.settled.set()
            self._begin_anew()

    def remove(self, channel: str) -> None:
        """Listen to one channel less."""
        if channel in self.wanted:
            self.wanted.discard(channel)
            self._returning.discard(channel)
            if self.is_connected:
                spawn(self._unsubscribe, channel)

    def let_pass(self) -> None:
        """Block until all that Redis has sent by now is taken in.

        :raises redis.ConnectionError: when it cannot be told.
        """
        passed: AsyncResult[bool] = AsyncResult()
        self._ping(passed.set)
        if not passed.wait(_TIMEOUT):
            raise RedisConnectionError("the subscriptions are interrupted")

    def _unsubscribe(self, channel: str) -> None:
        try:
            with self._lock:
                # Meanwhile somebody may have come back, and subscribed already.
                if channel not in self.wanted:
                    self._send("UNSUBSCRIBE", [channel], self._departures, [channel])
        except _FAILURES:
            pass  # the greenlet begins anew

    def _subscribe(self, channels: list[str]) -> None:
        with self._lock:
            # Of some the last one who listened may have gone meanwhile.
            states = [(name, self.backend.channels.get(name)) for name in channels]
            due = [(name, state) for name, state in states if state and name in self.wanted]
            self._send("SUBSCRIBE", [name for name, _ in due], self._confirmations, due)

    def _ping(self, react: Callable[[bool], object]) -> None:
        """Call ``react(True)`` when all that Redis has sent by now is taken in, or else False."""
        with self._lock:
            if self._connection is None or self._is_broken:
                react(False)
            else:
                self._send("PING", [], self._pongs, [react])

    def _send(self, verb: str, names: list[str], expected: deque[Any], answers: list[Any]) -> None:
        """Send a command, and note the answers to come; both or neither.

        If the command may have gone out in part, the connection is used no more.
        """
        connection = self._connection
        if connection is None or self._is_broken or (not names and verb != "PING"):
            return
        if names and self.backend.is_cluster:
            verb = f"S{verb}"
        command = connection.pack_command(verb, *map(_key, names))  # fails before anything is noted
        expected.extend(answers)
        try:
            connection.send_packed_command(command, check_health=False)
        except BaseException:
            if connection is self._connection:
                self._is_broken = True
            raise

    def _begin_anew(self) -> None:
        """Break the connection, which the greenlet notices."""
        if self._connection is not None:
            self._is_broken = True
            self._connection.disconnect()

    def _note_position(self, channel: str, state: _Channel) -> None:
        if self.backend.history_size and state.known is None:
            now = monotonic()
            newest = self.backend.newest(channel)
            if state.known is None:  # else somebody was quicker
                state.heard_until = now
                state.known = deque([newest], _REMEMBERED)

    def _note_positions(self) -> None:
        """Before there is a subscription: what comes after that is missed by nobody."""
        channels = self.backend.channels
        while unknown := [
            name for name in self.wanted if name in channels and channels[name].known is None
        ]:
            for name in unknown:
                state = channels.get(name)
                if state is not None:
                    self._note_position(name, state)

    # ------------------------------------------------------------ the greenlet

    def _run(self) -> None:
        delay = _FIRST_DELAY
        try:
            while self.wanted:
                try:
                    self._connect()
                    delay = _FIRST_DELAY
                    self._read()
                except Exception as problem:
                    if not (self._is_broken or isinstance(problem, _FAILURES)):
                        # A fault of ours must not stop the messages for good.
                        logger.exception("Listening to %s failed", self.backend.name)
                    self._disconnect()
                    self._lost(problem)
                    sleep(delay * uniform(0.5, 1))  # noqa: S311 - no secret
                    delay = min(2 * delay, _LONGEST_DELAY)
        finally:
            self.backend.forget(self)
            self._disconnect()

    def _connect(self) -> None:
        backend = self.backend
        if backend.is_cluster and not self.node:
            backend.reroute(self)
            if self.wanted:
                raise RedisClusterException("no node is known for a channel")
            return
        self._pool = backend.pool_of(self.node)
        self._connection = self._pool.get_connection()
        self._is_broken = False
        self._confirmations.clear()
        self._departures.clear()
        if backend.history_size:
            self._note_positions()
        self.is_connected = True
        self._returning = self.wanted & backend.channels.keys()
        channels = list(self._returning)
        for channel in channels:
            backend.channels[channel].settled.clear()
        if not channels:
            backend.note_success()
        step = 1 if backend.is_cluster else _BATCH  # one command may name one slot
        for first in range(0, len(channels), step):
            self._subscribe(channels[first : first + step])

    def _disconnect(self) -> None:
        self.is_connected = False
        connection, self._connection = self._connection, None
        pongs = list(self._pongs)
        self._pongs.clear()
        for channel in self.wanted & self.backend.channels.keys():
            state = self.backend.channels[channel]
            if state.is_live:
                state.heard_until = self._heard
            state.is_live = False
            state.waiting = None
        for react in pongs:
            react(False)
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)

    def _lost(self, problem: BaseException) -> None:
        backend = self.backend
        backend.note_down(problem)
        for channel in self.wanted:
            state = backend.channels.get(channel)
            if state is not None:
                state.settled.set()
        if backend.is_cluster:
            try:
                backend.reroute(self)
            except _FAILURES:
                pass  # the next attempt is not far

    def _read(self) -> None:
        """Take in messages until the connection breaks, or nobody wants any."""
        connection = self._connection
        pinged = False
        self._yielded = monotonic()
        while connection is not None:
            try:
                response = connection.read_response(disconnect_on_error=False)
            except RedisTimeoutError:
                if pinged or self._is_broken:
                    raise
                if not self.wanted:
                    return
                pinged = True
                self._ping(bool)  # there is nothing to do then
                continue
            pinged = False
            self._heard = monotonic()
            if not self.backend.healthy:
                self.backend.note_success()  # it was only slow
            self._take(response)
            if monotonic() - self._yielded > _SLICE:
                # A socket that always has something to read never lets the loop run.
                sleep(0)
                self._yielded = monotonic()

    def _take(self, response: Any) -> None:
        if response == b"PONG" or response[0] == b"pong":  # the former if nothing is subscribed to
            self._pongs.popleft()(True)
            return
        kind, key, data = response
        if kind == self._kind:
            channel, state = self._confirmations.popleft()
            if key != _key(channel).encode():
                raise RedisConnectionError("a confirmation is not the one that is due")
            is_known = state.is_live or state.waiting is not None  # by an earlier confirmation
            if self.backend.channels.get(channel) is state and not is_known:
                self._catch_up(channel, state)
            return
        channel = key.decode()[len(_PREFIX) :]
        if kind in {b"message", b"smessage"}:
            if channel in self.wanted:
                self._take_message(channel, self.backend.channels[channel], data)
        elif self._departures and channel == self._departures[0]:
            self._departures.popleft()
        elif channel in self.wanted:
            raise RedisClusterException(f"the channel {channel} has moved to another node")

    def _take_message(self, channel: str, state: _Channel, data: bytes) -> None:
        kind = data[:1]
        if kind == _COUNT and data[1:].startswith(_REPLY.encode()):
            spawn(self.backend.answer, data[1:], self.backend.local.count(channel))
            return
        if kind not in {_TEXT, _BINARY}:
            logger.debug("What came in on %r was published by another program", channel)
            return
        id_, _, payload = data[1:].partition(b" ")
        try:
            content = payload.decode() if kind == _TEXT else payload
            message = Message(channel, content, id_.decode() or None)
        except UnicodeDecodeError:
            logger.debug("What came in on %r was published by another program", channel)
            return
        if state.waiting is not None:
            state.waiting.append(message)
        elif state.is_live:
            self._deliver(state, message)

    def _deliver(self, state: _Channel, message: Message) -> None:
        if state.known is not None and message.id is not None:
            state.known.append(message.id)
        self.backend.local.deliver(message)

    def _catch_up(self, channel: str, state: _Channel) -> None:
        """Redis has confirmed a subscription: find out what was published before."""
        missed = []
        if state.known is not None:
            silence = monotonic() - state.heard_until
            missed = self.backend.missed(channel, state.known, silence)
        if missed:
            # The latest of these may come in as well: those since the confirmation.
            state.waiting = []
            self._ping(partial(self._go_live, channel, state, missed))
        else:
            self._go_live(channel, state, missed, True)

    def _go_live(
        self, channel: str, state: _Channel, missed: list[Message], has_passed: bool
    ) -> None:
        """Deliver what was missed, then what has come in meanwhile, none twice."""
        if not has_passed or self.backend.channels.get(channel) is not state:
            return
        waiting = state.waiting or []
        ids = {message.id for message in waiting}
        for message in missed:
            if message.id not in ids:
                self._deliver(state, message)
        for message in waiting:
            self._deliver(state, message)
        state.waiting = None
        state.is_live = True
        state.settled.set()
        self._returning.discard(channel)
        if not self._returning:
            self.backend.note_success()


class _Service(NamedTuple):
    """Where a URL points to."""

    kind: str  # "", "sentinel" or "cluster"
    url: str
    hosts: list[tuple[str, int]]
    name: str
    options: dict[str, Any]

    def connect(self) -> Any:
        """A client; without a cluster this connects to nothing."""
        # Without retries: a message whose fate is not known must not be published twice.
        common = {
            "protocol": 2,
            "socket_timeout": _TIMEOUT,
            "socket_connect_timeout": _TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        if not self.kind:
            return redis.Redis.from_url(self.url, **common)
        options = {**common, **self.options}
        if self.kind == "cluster":
            nodes = [
                redis.cluster.ClusterNode(*address)  # type: ignore[no-untyped-call]
                for address in self.hosts
            ]
            return redis.RedisCluster(startup_nodes=nodes, **options)
        own = {
            name: value for name, value in options.items() if name.startswith(("ssl", "socket_"))
        }
        sentinel: Any = redis.sentinel.Sentinel
        return sentinel(self.hosts, sentinel_kwargs=own, **options).master_for(self.name)


def _parse(url: str) -> _Service:
    """Take a URL apart; raises ValueError for one that makes no sense."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        parse_url(url)  # complains now, rather than at the first use
        return _Service("", url, [], "", {})
    userinfo, at, addresses = parts.netloc.rpartition("@")
    default = 26379 if kind == "sentinel" else 6379
    hosts = []
    for address in addresses.split(","):
        one = urlsplit(f"//{address}")
        if not one.hostname:
            raise ValueError(f"{address or 'nothing'} is not an address of Redis")
        hosts.append((one.hostname, one.port or default))
    name, _, db = unquote(parts.path).strip("/").partition("/")
    if (kind == "sentinel") != bool(name):
        raise ValueError(f"{parts.scheme}:// takes hosts, and a path only for a sentinel's service")
    query = f"?{parts.query}" if parts.query else ""
    options = parse_url(f"{scheme}://{userinfo}{at}host/{db}{query}")
    for unwanted in ("host", "port", "connection_class"):
        options.pop(unwanted, None)
    if kind == "cluster":
        options.pop("db", None)
    if scheme == "rediss":
        options["ssl"] = True
    return _Service(kind, url, hosts, name, options)


def _key(channel: str) -> str:
    return _PREFIX + channel


def _order(id_: str) -> tuple[int, int]:
    return parse_id(id_) or (0, 0)


def _message(channel: str, id_: bytes, fields: dict[bytes, bytes]) -> Message | None:
    """A message of the history; None for what another program has put there."""
    body = fields.get(b"m", b"")
    if body[:1] not in {_TEXT, _BINARY}:
        return None
    try:
        data = body[1:].decode() if body[:1] == _TEXT else body[1:]
    except UnicodeDecodeError:
        return None
    return Message(channel, data, id_.decode())
