"""``redis://``: the backend for any number of processes and machines, with Redis or Valkey.

- With a history, a script appends each message to a stream and publishes it in one step: both have
  the same order. :mod:`.redis_messages` describes the format.
- A process has one connection in subscriber mode (:mod:`.redis_subscriber`). It is subscribed to
  the channels with subscribers in this process. In a cluster, where channels are sharded, there is
  one for each node with such channels.
- When a subscription begins, also after that connection was lost, the messages that were stored
  meanwhile are read (:mod:`.redis_history`) and joined to those that arrive
  (:mod:`.redis_channel`). This also works if Redis has lost its latest writes, or all of its data.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha1
from itertools import chain
from random import getrandbits
from time import monotonic
from typing import Any

from gevent import spawn
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original

from ..exceptions import BroadcastError
from .backend import (
    PING_INTERVAL,
    Backend,
    History,
    Message,
    Receiver,
    Refusal,
    parse_id,
    require_patched_sockets,
)

try:
    import redis  # noqa: F401 - the first import of redis-py, with an instruction if it is missing
except ImportError as problem:
    raise ImportError(
        "a broadcast on Redis needs redis-py: pip install geventws[redis]"
    ) from problem

from redis.exceptions import NoScriptError, RedisClusterException

from .bodies import encode_body
from .members import State, Update
from .redis_channel import ChannelState, Read
from .redis_history import HistoryReader, Result, read_histories
from .redis_messages import (
    COUNT,
    LATEST_TTL,
    REPLY_PREFIX,
    epoch_of,
    key_of,
    latest_key_of,
    member_keys_of,
    new_epoch,
    order_of,
)
from .redis_subscriber import FAILURES, Connection, RedisSubscriber, is_refusal
from .redis_urls import TIMEOUT, Deployment, parse_redis_url

#: The original class, not gevent's: one value for all greenlets of a thread.
_ThreadLocal = get_original("_thread", "_local")
#: The keys are the stream, and the id of the latest message. The arguments are the message, the
#: number of stored messages, the time until they expire and until the latest id expires in
#: milliseconds, the command for publishing, and the number of a new epoch.
_PUBLISH = """
local time = redis.call('TIME')
local latest = redis.call('GET', KEYS[2]) or ''
local before, number = string.match(latest, '^(%d+)-(%d+)$')
if not before or #before > 15 or #number > 16 then  -- there is none, or it is not ours
    before, number = '0', ARGV[6]
end
number = tonumber(number) + 1
local ms = math.max(tonumber(before), time[1] * 1000 + math.floor(time[2] / 1000))
local function add()
    local id = string.format('%.0f-%.0f', ms, number)
    return redis.pcall('XADD', KEYS[1], 'MAXLEN', ARGV[2], id, 'm', ARGV[1], 'p', before)
end
local id = add()
if type(id) == 'table' then  -- an error, perhaps because another program has added a greater id
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            ms = math.max(ms, tonumber(string.match(info[i + 1], '^%d+')) + 1)
        end
    end
    id = add()
    if type(id) == 'table' then return id end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], id, 'PX', ARGV[4])
redis.call(ARGV[5], KEYS[1], string.sub(ARGV[1], 1, 1) .. id .. ' ' .. string.sub(ARGV[1], 2))
return id
"""
_PUBLISH_SHA = sha1(_PUBLISH.encode()).hexdigest()  # noqa: S324 - as Redis names scripts
#: Changes the entries of a process. The keys are the entries, the processes, and the Redis channel.
#: The arguments are the process, the base and the number of the update, the lease in milliseconds,
#: the known version, the version before the first one, the command for publishing, and whether the
#: process has entries; then the changes. The first write fails if Redis has no memory, so that no
#: later one does.
_UPDATE_MEMBERS = """
local entries, processes, process, base, number = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = redis.call('HGET', processes, process)
local stored = own and string.match(own, '^%d+') or '0'
if base == '0' and tonumber(number) <= tonumber(stored) or base ~= '0' and base ~= stored then
    return false
end
redis.call('HSET', processes, process, string.format('%s %.0f', number, now + ARGV[4]))
local before = redis.call('HGET', processes, 'version')
local version = string.format('%.0f', (before or ARGV[6]) + 1)
local lines = {version}
local function remove(id)
    if redis.call('HDEL', entries, id) == 1 then lines[#lines + 1] = '-' .. id end
end
local function remove_all(process, kept)
    for _, id in ipairs(redis.call('HKEYS', entries)) do
        if string.sub(id, 1, #process + 1) == process .. ':' and not kept[id] then remove(id) end
    end
end
local changes = {}
for i = 9, #ARGV, 2 do changes[process .. ':' .. ARGV[i]] = ARGV[i + 1] end
if base == '0' then
    if own then remove_all(process, changes) end
else
    local all = redis.call('HGETALL', processes)
    for i = 1, #all, 2 do
        local expires = string.match(all[i + 1], ' (%d+)$')
        if expires and tonumber(expires) < now then
            remove_all(all[i], {})
            redis.call('HDEL', processes, all[i])
        end
    end
end
for i = 9, #ARGV, 2 do
    local id, text = process .. ':' .. ARGV[i], ARGV[i + 1]
    if text == '' then
        remove(id)
    elseif redis.call('HSETNX', entries, id, version .. ' ' .. text) == 1 then
        lines[#lines + 1] = '+' .. id .. ' ' .. text
    end
end
if #lines > 1 then
    local change = table.concat(lines, '\\n')
    if #change > 1048576 then change = version end
    redis.call(ARGV[7], KEYS[3], '\\6' .. change)
else
    version = before or ARGV[6]
end
redis.call('HSET', processes, 'version', version)
if ARGV[8] == '0' then redis.call('HDEL', processes, process) end
redis.call('PEXPIRE', entries, ARGV[4])
redis.call('PEXPIRE', processes, ARGV[4])
local all = false
if ARGV[5] ~= '' and ARGV[5] ~= before then all = redis.call('HGETALL', entries) end
return {version, all}
"""
_UPDATE_MEMBERS_SHA = sha1(_UPDATE_MEMBERS.encode()).hexdigest()  # noqa: S324 - as above
#: The versions of an epoch begin with a random number. Lua counts exactly up to 2**53.
_VERSION_BITS = 50
#: Publishes a message to the processes that are subscribed, and returns their number. PUBLISH
#: would count those with a subscription to a pattern, too.
_ASK = """
local processes = redis.call('PUBSUB', ARGV[2], KEYS[1])
redis.call(ARGV[3], KEYS[1], ARGV[1])
return processes[2]
"""
#: Seconds that subscribers() waits for the processes, and between two looks at their answers.
_COUNT_TIMEOUT = 1.0
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.05
#: Seconds until Redis deletes a list with numbers of subscribers.
_COUNT_TTL = 10


class Commander:
    """The client of one thread for all commands except subscriptions."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._client: Any = None  # see Deployment.create_client()
        self.free_connections = BoundedSemaphore(deployment.max_connections)

    def client(self) -> Any:
        """Return the client. A cluster's client connects when it is created."""
        if self._client is None:
            client = self._deployment.create_client()
            self._client = self._client or client  # another greenlet may have been faster
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def __del__(self) -> None:
        """Close the connections of a thread that has ended."""
        with suppress(Exception):
            self.close()


class RedisBackend(Backend):
    """A backend on Redis: one server, a sentinel's service, or a cluster."""

    has_members = True

    # Any: a URL, or a client of redis-py.
    def __init__(
        self,
        url: Any,
        receiver: Receiver,
        history: int | Mapping[str, int],
        history_ttl: float,
    ) -> None:
        self._deployment = parse_redis_url(url)
        super().__init__(self._deployment.url, receiver, history, history_ttl)
        self.is_cluster = self._deployment.is_cluster
        self._publish_command = "SPUBLISH" if self.is_cluster else "PUBLISH"
        self._ttl = int(history_ttl * 1000)
        self._latest_ttl = self._ttl + LATEST_TTL
        #: The commander of each thread. A socket of gevent belongs to one thread.
        self._local = _ThreadLocal()
        #: Whether Redis has answered the latest command, be it with an error.
        self._commands_work = True
        #: The channels that this process is subscribed to, also while the connection is broken.
        self.channels: dict[str, ChannelState] = {}
        #: Channels that the greenlet of :meth:`_add_channels` subscribes to together.
        self._new: dict[str, ChannelState] = {}
        self._is_adding = False
        #: By the name of the cluster's node; the name is empty without a cluster.
        self._subscribers: dict[str, RedisSubscriber] = {}
        self._reader = HistoryReader(self._read_delivered)

    # ------------------------------------------------------------- operations

    def publish(
        self, channel: str, data: str | bytes, keep: bool, excluded: str | None = None
    ) -> str | None:
        body = encode_body(data, excluded)
        size = self.history_size_of(channel) if keep else 0
        key = key_of(channel)
        with self._commands() as client:
            if not size:
                client.execute_command(self._publish_command, key, body[:1] + b" " + body[1:])
                return None
            arguments = (
                2,
                key,
                latest_key_of(channel),
                body,
                size,
                self._ttl,
                self._latest_ttl,
                self._publish_command,
                new_epoch(),
            )
            id_: bytes = _execute(client, _PUBLISH, _PUBLISH_SHA, *arguments)
        return id_.decode()

    def subscribe(self, channel: str) -> None:
        self.subscribe_all([channel])

    def subscribe_all(self, channels: Sequence[str]) -> None:
        require_patched_sockets("Redis")
        for channel in channels:
            channel.encode()  # raises here, and not in the greenlet, for a lone surrogate
            if channel not in self.channels:
                self._new[channel] = self.channels[channel] = ChannelState()
        if self._new and not self._is_adding:
            # In a greenlet: if the first subscriber is interrupted, others may be waiting.
            self._is_adding = True
            spawn(self._add_channels)
        deadline = monotonic() + TIMEOUT
        for channel in channels:
            state = self.channels.get(channel)
            if state is not None:
                state.settled.wait(max(deadline - monotonic(), 0))

    def _add_channels(self) -> None:
        """Subscribe to the new channels in Redis, unless their last subscribers have left."""
        try:
            while self._new:
                new, self._new = self._new, {}
                names: dict[str, list[str]] = {}
                for channel, state in new.items():
                    if self.channels.get(channel) is state:
                        names.setdefault(self._node_of(channel), []).append(channel)
                for node, its_channels in names.items():
                    # Finding the nodes may have taken some time.
                    current = [it for it in its_channels if self.channels.get(it) is new[it]]
                    self._subscriber_of_node(node).add(current)
        finally:
            self._is_adding = False

    def unsubscribe(self, channel: str) -> None:
        if self.channels.pop(channel, None) is not None:
            for subscriber in self._subscribers.values():
                subscriber.remove(channel)

    def history(self, channel: str, since: str | None) -> History:
        try:
            if since is None or channel not in self.channels:
                read = self._read_alone(channel)
            else:
                start = since if parse_id(since) else ""
                read = self._reader.read(channel, start)
                if not read.is_whole and not _is_complete(read, since):
                    read = self._reader.read(channel, "")
        except BroadcastError:
            raise
        except FAILURES as problem:
            raise self._error_of(problem) from problem
        return _history_since(read, since)

    def position(self, channel: str) -> str | None:
        state = self.channels.get(channel)
        return state.position if state is not None and state.is_live else None

    def is_after(self, id_: str, since: str) -> bool:
        return epoch_of(id_) != epoch_of(since) or order_of(id_) > order_of(since)

    def subscribers(self, channel: str) -> int:
        # Every process sends its number now. A stored number would be wrong after a crash.
        reply = f"{REPLY_PREFIX}{uuid.uuid4().hex}"
        request = COUNT + reply.encode()
        numsub = "SHARDNUMSUB" if self.is_cluster else "NUMSUB"
        state = self.channels.get(channel)
        if state is not None and not state.is_live:
            raise BroadcastError(f"the subscription to {channel!r:.200} is interrupted")
        with self._commands() as client:
            processes = client.eval(
                _ASK, 1, key_of(channel), request, numsub, self._publish_command
            )
        deadline, delay = monotonic() + _COUNT_TIMEOUT, _FIRST_LOOK
        # No connection is kept while this waits: the answer of this process needs one.
        while True:
            with self._commands() as client:
                answers = client.lrange(reply, 0, -1) if processes else []
            if len(answers) >= processes:
                return sum(map(int, answers))
            if monotonic() > deadline:
                raise BroadcastError(
                    f"{processes - len(answers)} of the {processes} processes that are subscribed"
                    f" to {channel!r:.200} have not sent the number of their subscribers"
                )
            time.sleep(delay)  # looked up now: gevent replaces it
            delay = min(2 * delay, _LAST_LOOK)

    def update_members(self, channel: str, update: Update) -> State | None:
        arguments = (
            update.process,
            update.base,
            update.number,
            int(update.lease * 1000),
            "" if update.known is None else update.known,
            getrandbits(_VERSION_BITS),
            self._publish_command,
            int(update.has_entries),
            *chain.from_iterable((it, text or "") for it, text in update.changes.items()),
        )
        keys = (*member_keys_of(channel), key_of(channel))
        with self._commands() as client:
            answer = _execute(client, _UPDATE_MEMBERS, _UPDATE_MEMBERS_SHA, 3, *keys, *arguments)
        if answer is None:
            return None
        version, entries = answer
        if entries is not None:
            entries = _decode_entries(zip(entries[::2], entries[1::2], strict=True))
        return State(int(version), entries)

    def members(self, channel: str) -> Mapping[str, str]:
        with self._commands() as client:
            return _decode_entries(client.hgetall(member_keys_of(channel)[0]).items())

    def abandon(self) -> None:
        subscribers, self._subscribers = self._subscribers, {}
        self.channels = {}
        self._new = {}
        self._is_adding = False
        self._local = _ThreadLocal()
        for subscriber in subscribers.values():
            subscriber.close()

    def close(self) -> None:
        channels, self.channels = self.channels, {}
        for state in channels.values():
            state.settled.set()
        for subscriber in list(self._subscribers.values()):
            subscriber.close()
        self._subscribers.clear()
        if hasattr(self._local, "commander"):  # those of other threads end with their threads
            self._local.commander.close()

    # ------------------------------------------------------- client and health

    def _commander(self) -> Commander:
        """Return what this thread sends commands with."""
        if not hasattr(self._local, "commander"):
            self._local.commander = Commander(self._deployment)
        commander: Commander = self._local.commander
        return commander

    def client(self) -> Any:
        """Return the client of this thread for all commands except subscriptions."""
        return self._commander().client()

    @contextmanager
    def _commands(self) -> Iterator[Any]:
        """Lend the client for a block of commands, as soon as a connection is free.

        Mark the backend as healthy or unhealthy after that.

        :raises Refusal: if Redis refuses a command.
        :raises BroadcastError: if Redis does not answer, or no connection becomes free in time.
        """
        free_connections = self._commander().free_connections
        if not free_connections.acquire(timeout=TIMEOUT):
            raise BroadcastError(
                f"all {self._deployment.max_connections} connections to {self.name} are busy;"
                " max_connections in the URL allows more"
            )
        try:
            yield self.client()
        except BroadcastError:
            raise
        except FAILURES as problem:
            raise self._error_of(problem) from problem
        finally:
            free_connections.release()
        self._commands_work = True
        if not self.is_up:
            self._note_success()

    def _error_of(self, problem: BaseException) -> BroadcastError:
        """Return the error of this package for one of redis-py; note what it says about Redis."""
        if is_refusal(problem):
            return Refusal(f"{self.name} refuses: {problem}")
        self._commands_work = False
        self.note_down(problem)
        return BroadcastError(f"{self.name} does not answer: {problem}")

    def is_watched(self) -> bool:
        return self._commands_work and bool(self._subscribers)

    def ping(self) -> None:
        try:
            if self.is_cluster:
                self.client().ping()
            else:
                # Not one of the connections for commands, which may all be in use.
                connection = self.new_connection("")
                try:
                    connection.connect()
                    connection.send_command("PING")
                    connection.read_response(disconnect_on_error=False)
                finally:
                    connection.disconnect()
        except BroadcastError:
            raise
        except FAILURES as problem:
            raise self._error_of(problem) from problem
        self._commands_work = True
        self._note_success()

    def note_live(self) -> None:
        """The subscriptions work: find out whether commands do."""
        if self._commands_work:
            self._note_success()
        elif monotonic() - self._pinged_at >= PING_INTERVAL:
            self._pinged_at = monotonic()
            spawn(self._ping)

    def _note_success(self) -> None:
        """Mark the backend as healthy, if nothing else is known to be broken."""
        if not self.is_up and all(it.is_live for it in self._subscribers.values()):
            self.note_up()

    # ----------------------------------------------------------------- history

    def read_histories(self, starts: Mapping[str, str]) -> dict[str, Result]:
        """Read what Redis has stored of some channels, from some ids on.

        :raises BroadcastError: if Redis does not answer.
        """
        with self._commands() as client:
            return read_histories(client, starts, self._latest_ttl)

    def _read_alone(self, channel: str) -> Read:
        """Read all messages of a channel."""
        result = self.read_histories({channel: ""})[channel]
        if isinstance(result, Exception):
            raise result
        return result

    def _read_delivered(self, starts: Mapping[str, str]) -> dict[str, Result]:
        """Read histories. Every message up to the latest one has been delivered after that.

        :raises BroadcastError: if Redis does not answer.
        """
        generations = {
            channel: (state, state.generation)
            for channel in starts
            if (state := self.channels.get(channel)) is not None and state.is_live
        }
        results = self.read_histories(starts)
        for subscriber in list(self._subscribers.values()):
            if not subscriber.names.isdisjoint(starts):
                subscriber.wait_until_received()
        for channel, result in results.items():
            state = self.channels.get(channel)
            if state is None or isinstance(result, Exception):
                continue
            if state.refusal is not None:
                results[channel] = state.refusal
            elif generations.get(channel) != (state, state.generation):
                results[channel] = BroadcastError(
                    f"the subscription to {channel!r:.200} is interrupted"
                )
            elif state.recent is None:
                state.note_delivered(result.latest)
            elif not state.has_delivered(result.latest):
                # In a cluster, while the channel moves to another node.
                results[channel] = BroadcastError(
                    f"messages of {channel!r:.200} have not arrived yet"
                )
        return results

    # ------------------------------------------------------------- subscribers

    def _node_of(self, channel: str) -> str:
        """Return the name of the cluster's node for a channel; empty if it is unknown now."""
        if self.is_cluster:
            try:
                return str(self.client().get_node_from_key(key_of(channel)).name)
            except FAILURES:
                pass  # the subscriber asks again when the cluster is back
        return ""

    def new_connection(self, node: str) -> Connection:
        """Return a connection to a node that is not connected yet. No command uses it.

        :raises redis.RedisClusterException: if there is no such node.
        """
        client = self.client()
        if self.is_cluster:
            found = client.get_node(node_name=node)
            if found is None:
                raise RedisClusterException(f"the cluster has no node {node}")
            client = client.get_redis_connection(found)
        pool = client.connection_pool
        connection: Connection = pool.connection_class(**pool.connection_kwargs)
        return connection

    def _subscriber_of_node(self, node: str) -> RedisSubscriber:
        """Return the subscriber for a node; create it if there is none."""
        subscriber = self._subscribers.get(node)
        if subscriber is None:
            subscriber = self._subscribers[node] = RedisSubscriber(self, node)
            subscriber.start()
        return subscriber

    def reassign(self, subscriber: RedisSubscriber) -> None:
        """Read the cluster's topology, and move the subscriber's channels to their nodes."""
        self.client().nodes_manager.initialize()
        for channel in list(subscriber.names):
            if self._node_of(channel) != subscriber.node:
                subscriber.names.discard(channel)
                if channel in self.channels:
                    self._subscriber_of_node(self._node_of(channel)).add([channel])

    def remove_subscriber(self, subscriber: RedisSubscriber) -> None:
        """Forget a subscriber that has ended."""
        if self._subscribers.get(subscriber.node) is subscriber:
            del self._subscribers[subscriber.node]

    def send_count(self, reply: bytes, count: int) -> None:
        """Send another process the number of subscribers of this process.

        :param reply: the key of the list that the other process reads.
        """
        try:
            with self._commands() as client:
                client.rpush(reply, count)
                client.expire(reply, _COUNT_TTL)
        except BroadcastError:
            pass  # the other process reports that an answer is missing


# Any: arguments and answers of a script.
def _execute(client: Any, script: str, sha: str, *arguments: Any) -> Any:
    """Execute a script, which Redis may know already."""
    try:
        return client.evalsha(sha, *arguments)
    except NoScriptError:
        return client.eval(script, *arguments)


def _decode_entries(entries: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {id_.decode("ascii"): entry.decode("ascii") for id_, entry in entries}


def _is_complete(read: Read, since: str) -> bool:
    """Whether no message after ``since`` is missing."""
    if since == read.latest or any(entry.id == since for entry in read.entries):
        return True
    return bool(read.entries) and read.entries[0].previous == since


def _history_since(read: Read, since: str | None) -> History:
    """Return the messages after ``since`` of all that were read."""
    messages = [entry.message for entry in read.entries]
    if not since:
        return History(messages, True)
    later: list[Message] = messages
    if _is_known(read, since):
        epoch, order = epoch_of(since), order_of(since)
        later = [
            entry.message
            for entry in read.entries
            if epoch_of(entry.id) != epoch or order_of(entry.id) > order
        ]
    return History(later, _is_complete(read, since))


def _is_known(read: Read, since: str) -> bool:
    """Whether ``since`` can be compared with the ids that were read."""
    if parse_id(since) is None or order_of(since) > order_of(read.latest):
        return False
    return epoch_of(since) == epoch_of(read.latest)
