"""``redis://``: the backend for any number of processes and machines, with Redis or Valkey.

- With a history, a script appends each message to a stream and publishes it in one step: both have
  the same order. :mod:`.redis_messages` describes the format.
- A process has one connection in subscriber mode (:mod:`.redis_subscriber`). It is subscribed to
  the channels with subscribers in this process. In a cluster, where channels are sharded, there is
  one for each node with such channels.
- After that connection was lost, missed messages are read from the history. This also works if
  Redis has lost its latest writes, or all of its data. A message may be read from the history and
  also arrive on the new connection: it is delivered once.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent import spawn
from gevent.monkey import is_module_patched

from ..exceptions import BroadcastError
from .backend import Backend, History, Message, Receiver, parse_id

try:
    import redis  # noqa: F401 - the first import of redis-py, with an instruction if it is missing
except ImportError as problem:
    raise ImportError(
        "a broadcast on Redis needs redis-py: pip install geventws[redis]"
    ) from problem

from redis.exceptions import RedisClusterException, ResponseError

from .redis_messages import COUNT, REPLY_PREFIX, decode_entry, encode_body, key_of, order_of
from .redis_subscriber import FAILURES, ChannelState, ConnectionPool, RedisSubscriber
from .redis_urls import TIMEOUT, parse_redis_url

#: The arguments are the message, the number of stored messages, the time until the history expires
#: in milliseconds, and the command for publishing.
_PUBLISH = """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'm', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call(ARGV[4], KEYS[1], string.sub(ARGV[1], 1, 1) .. id .. ' ' .. string.sub(ARGV[1], 2))
return id
"""
#: A script, so that a cluster asks the node that has the key.
_TIME = "return redis.call('TIME')"
#: Seconds that subscribers() waits for each process.
_COUNT_TIMEOUT = 1.0
#: Seconds until Redis deletes a list with numbers of subscribers.
_COUNT_TTL = 10
#: Less than the id of any message.
_BEGINNING = "0-0"


class RedisBackend(Backend):
    """A backend on Redis: one server, a sentinel's service, or a cluster."""

    def __init__(self, url: str, receiver: Receiver, history: int, history_ttl: float) -> None:
        super().__init__(url, receiver, history, history_ttl)
        self._deployment = parse_redis_url(url)
        self.is_cluster = self._deployment.kind == "cluster"
        self._publish_command = "SPUBLISH" if self.is_cluster else "PUBLISH"
        self._client: Any = None  # see Deployment.create_client()
        #: Whether Redis answered the latest command with an error, such as "out of memory".
        self._has_refused = False
        #: The channels that this process is subscribed to, also while the connection is broken.
        self.channels: dict[str, ChannelState] = {}
        #: By the name of the cluster's node; the name is empty without a cluster.
        self._subscribers: dict[str, RedisSubscriber] = {}

    # ------------------------------------------------------------- operations

    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        body = encode_body(data)
        command, key = self._publish_command, key_of(channel)
        with self._handling_failures():
            if not (keep and self.history_size):
                self.client().execute_command(command, key, body[:1] + b" " + body[1:])
                return None
            ttl = int(self.history_ttl * 1000)
            id_: bytes = self.client().eval(_PUBLISH, 1, key, body, self.history_size, ttl, command)
        return id_.decode()

    def subscribe(self, channel: str) -> None:
        if not is_module_patched("socket"):
            raise RuntimeError(
                "a subscription through Redis would block the whole process: call"
                " gevent.monkey.patch_all() at the beginning of the program, as gunicorn's gevent"
                " workers and python -m geventws do"
            )
        channel.encode()  # raises here, and not in the greenlet, for a lone surrogate
        state = self.channels.get(channel)
        if state is None:
            state = self.channels[channel] = ChannelState()
            # In a greenlet: if the first subscriber is interrupted, others may be waiting.
            spawn(self._add_channel, channel, state)
        state.settled.wait(TIMEOUT)

    def _add_channel(self, channel: str, state: ChannelState) -> None:
        """Subscribe to a channel in Redis, unless its last subscriber has left."""
        if self.channels.get(channel) is state:
            subscriber = self._subscriber_for(channel)
            if self.channels.get(channel) is state:  # finding the node may have taken some time
                subscriber.add(channel, state)

    def unsubscribe(self, channel: str) -> None:
        if self.channels.pop(channel, None) is not None:
            for subscriber in self._subscribers.values():
                subscriber.remove(channel)

    def history(self, channel: str, since: str | None) -> History:
        if since is None:
            with self._handling_failures():
                return History(self._stored_messages(channel, _BEGINNING), True)
        subscriber = self._live_subscriber(channel)
        with self._handling_failures():
            first = _BEGINNING if parse_id(since) is None else since
            messages = self._stored_messages(channel, first)
            if subscriber is not None:
                subscriber.wait_until_received()
        found = bool(messages) and messages[0].id == since
        return History(messages[1 if found else 0 :], found)

    def subscribers(self, channel: str) -> int:
        # Every process sends its number now. A stored number would be wrong after a crash.
        reply = f"{REPLY_PREFIX}{uuid.uuid4().hex}"
        request = COUNT + reply.encode()
        total = 0
        with self._handling_failures():
            client = self.client()
            processes = client.execute_command(self._publish_command, key_of(channel), request)
            for _ in range(processes):
                answer = client.blpop([reply], timeout=_COUNT_TIMEOUT)
                if answer is None:
                    break  # a process has ended or hangs
                total += int(answer[1])
        return total

    def close(self) -> None:
        self.channels.clear()
        for subscriber in list(self._subscribers.values()):
            subscriber.close()
        self._subscribers.clear()
        if self._client is not None:
            self._client.close()

    # ------------------------------------------------------- client and health

    def client(self) -> Any:
        """Return the client for all commands except subscriptions. A cluster's client connects."""
        if self._client is None:
            self._client = self._deployment.create_client()
        return self._client

    @contextmanager
    def _handling_failures(self) -> Iterator[None]:
        """Run a block of commands, and mark the backend as healthy or unhealthy.

        :raises BroadcastError: if a command fails.
        """
        try:
            yield
        except FAILURES as problem:
            self._has_refused = isinstance(problem, ResponseError)
            self.note_down(problem)
            raise BroadcastError(f"{self.name} does not answer: {problem}") from problem
        self._has_refused = False
        self.note_success()

    def note_success(self) -> None:
        """Mark the backend as healthy, if nothing else is known to be broken."""
        is_live = all(subscriber.is_live for subscriber in self._subscribers.values())
        if not self._has_refused and is_live:
            self.note_up()

    # ----------------------------------------------------------------- history

    def newest_id(self, channel: str) -> str:
        """Return the id of the latest message in the history."""
        entries = self.client().xrevrange(key_of(channel), count=1)
        return entries[0][0].decode() if entries else _BEGINNING

    def missed_messages(
        self, channel: str, recent_ids: deque[str], interruption: float
    ) -> list[Message]:
        """Return the stored messages newer than the last one delivered.

        :param recent_ids: the ids of the latest delivered messages.
        :param interruption: seconds since the last message could be received.
        """
        latest = recent_ids[-1]
        messages = self._stored_messages(channel, latest)
        if messages and messages[0].id == latest:
            return messages[1:]
        if latest == _BEGINNING:
            return messages
        # The last delivered message is not stored. It has expired, or Redis has lost some or all
        # of its data. In the latter case its clock may be behind: new messages have smaller ids.
        messages = self._stored_messages(channel, "-")
        for index in range(len(messages), 0, -1):
            if messages[index - 1].id in recent_ids:
                return messages[index:]
        if not messages:
            return messages
        # Messages that are older than the interruption were delivered.
        seconds, microseconds = self.client().eval(_TIME, 1, key_of(channel))
        now = int(seconds) * 1000 + int(microseconds) // 1000
        complete_until = min(order_of(latest), (now - int(interruption * 1000), 0))
        return [message for message in messages if order_of(message.id or "") > complete_until]

    def _stored_messages(self, channel: str, first: str) -> list[Message]:
        """Return the messages of the history, from an id on."""
        entries = self.client().xrange(key_of(channel), first, "+")
        messages = (decode_entry(channel, id_, fields) for id_, fields in entries)
        return [message for message in messages if message is not None]

    # ------------------------------------------------------------- subscribers

    def _live_subscriber(self, channel: str) -> RedisSubscriber | None:
        """Return the subscriber that receives a channel, or ``None`` for an unknown channel.

        :raises BroadcastError: if the subscription is not live at the moment.
        """
        state = self.channels.get(channel)
        if state is None:
            return None
        for subscriber in self._subscribers.values():
            if state.is_live and channel in subscriber.names:
                return subscriber
        raise BroadcastError(f"the subscriptions of {self.name} are interrupted")

    def _node_of(self, channel: str) -> str:
        """Return the name of the cluster's node for a channel; empty if it is unknown now."""
        if self.is_cluster:
            try:
                return str(self.client().get_node_from_key(key_of(channel)).name)
            except FAILURES:
                pass  # the subscriber asks again when the cluster is back
        return ""

    def connection_pool(self, node: str) -> ConnectionPool:
        """Return the connections to a node.

        :raises redis.RedisClusterException: if there is no such node.
        """
        client = self.client()
        if self.is_cluster:
            found = client.get_node(node_name=node)
            if found is None:
                raise RedisClusterException(f"the cluster has no node {node}")
            client = client.get_redis_connection(found)
        pool: ConnectionPool = client.connection_pool
        return pool

    def _subscriber_for(self, channel: str) -> RedisSubscriber:
        """Return the subscriber for the node of a channel; create it if there is none."""
        node = self._node_of(channel)
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
                state = self.channels.get(channel)
                if state is not None:
                    self._subscriber_for(channel).add(channel, state)

    def remove_subscriber(self, subscriber: RedisSubscriber) -> None:
        """Forget a subscriber that has ended."""
        if self._subscribers.get(subscriber.node) is subscriber:
            del self._subscribers[subscriber.node]

    def send_count(self, reply: bytes, count: int) -> None:
        """Send another process the number of subscribers of this process.

        :param reply: the key of the list that the other process reads.
        """
        try:
            self.client().rpush(reply, count)
            self.client().expire(reply, _COUNT_TTL)
        except FAILURES:
            pass  # the other process waits for at most a second
