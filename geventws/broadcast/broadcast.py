"""The interface for applications: :class:`Broadcast`."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload
from weakref import WeakSet

from gevent import Timeout, get_hub, joinall, killall, sleep, spawn
from gevent.monkey import get_original

from ..connection.logs import Throttle
from ..connection.threads import call_in_hub
from ..connection.transport import SharedMessage, Transport, bytes_of, fan_out
from ..exceptions import BroadcastError, ConnectionClosed
from ..options import MAX_SECONDS
from ..protocol.frames import encode_text
from ..protocol.state import State
from .backend import Backend, Message, Refusal, check_channel, log_dropped
from .members import PresenceEvent, encode_member, members_of
from .presence import TIMEOUT, Presence
from .queues import ThreadSafeQueue
from .registry import backend_for
from .sending import SlicedSender, is_large
from .subscribers import Channel, Listener, Subscription, Subscriptions

if TYPE_CHECKING:
    from gevent.hub import Hub

    from ..connection.connection import Connection
    from ..typing import Data

_News = TypeVar("_News", Message, PresenceEvent)

logger = logging.getLogger("geventws.broadcast")
#: The original function: gevent's returns the id of a greenlet.
_thread_ident = get_original("_thread", "get_ident")
#: Seconds before another attempt to read the history.
_RETRY_DELAY = 0.5
#: The maximum number of seconds by which subscribing delays a ``101``.
_MAX_DELAY = 1.0
#: Bytes of messages from other threads that may wait for the thread of the subscribers. Above it,
#: ``publish()`` blocks.
_MAX_INCOMING = 4 << 20
#: Limits the lines about missed messages: there may be thousands of channels.
_gaps = Throttle(target=logger)
#: All objects, for :func:`_abandon_all`.
_all: WeakSet[Broadcast] = WeakSet()
#: Functions that are called with each message for subscribers in this process.
observers: set[Callable[[Message], object]] = set()


class LocalChannel(NamedTuple):
    """A channel with subscribers in this process."""

    backend: str
    channel: str
    #: The number of sockets that are subscribed.
    sockets: int


def local_channels() -> list[LocalChannel]:
    """Return the channels of all broadcasts of this process."""
    return [
        LocalChannel(broadcast._backend.name, channel, broadcast.count(channel))
        for broadcast in list(_all)
        for channel in list(broadcast._channels)
    ]


def has_local_broadcasts() -> bool:
    """Return whether a broadcast reaches the subscribers of this process only."""
    return any(broadcast._backend.is_local for broadcast in list(_all))


class Broadcast:
    """Publishes messages to all subscribers of a channel, in every process::

        broadcast = Broadcast("memory://")

        def chat(environ, start_response):
            ws = environ["wsgi.websocket"]
            with broadcast.subscribe("room", ws):
                for message in ws:
                    broadcast.publish("room", message)
            return []

    The constructor does not connect to the backend: call it before or after workers are forked.
    Messages of one publisher arrive in their order. Each frame is built once for all sockets, and
    written without waiting for any socket.

    :param url: the backend:

        - ``memory://``: one process. ``memory://?max_history_size=…`` limits the memory of all
          histories together, in bytes; the default is 64 MiB.
        - ``redis://[user:password@]host[:port]``: any number of processes. Also ``rediss://``
          (TLS), ``unix://``, ``redis+sentinel://host,host/service`` and
          ``redis+cluster://host,host``.
        - A client of redis-py, such as ``redis.Redis(…)``, whose settings are used for connections
          of the broadcast's own.
        - ``postgresql://[user:password@]host[:port]/database``: any number of processes.
        - The backend of another package; see :mod:`geventws.broadcast.registry`.
    :param history: the number of messages that are stored for each channel; they have ids.
        0 stores none. A mapping of patterns to numbers, such as ``{"chat:*": 100, "*": 0}``,
        decides by the name of the channel: the first pattern that matches counts (see
        :mod:`fnmatch`), and channels without one have no history. Every process must use the same
        value.
    :param history_ttl: seconds after the latest message of a channel until its history expires.
    :param envelope: a function of a message and its id that returns the message for the sockets.
        It can send the id to clients, which return it as ``since``; see :meth:`subscribe`. If it
        needs a third argument, this is the name of the channel. Each process calls it once for
        each message. It must not block.
    :param presence: a function of a :class:`~geventws.broadcast.PresenceEvent` that returns the
        message for the sockets of members; see :meth:`subscribe`. The default is
        :meth:`PresenceEvent.to_json() <geventws.broadcast.PresenceEvent.to_json>`. It must not
        block.
    :param when_slow: the policy for a socket that misses messages, because its ``max_send_buffer``
        is full, or because this process has missed more messages than the history keeps.
        ``"close"`` closes it with 1013 (try again later); ``"skip"`` sends it the next ones.
    :raises ValueError: for an unknown URL scheme or an invalid option.
    """

    def __init__(
        self,
        # Any: a client of redis-py, which is optional.
        url: str | Any = "memory://",
        *,
        history: int | Mapping[str, int] = 0,
        history_ttl: float = 3600.0,
        # Any: only the application knows whether its messages are text or binary.
        envelope: Callable[[Any, str | None], str | bytes]
        | Callable[[Any, str | None, str], str | bytes]
        | None = None,
        presence: Callable[[PresenceEvent], str | bytes] = PresenceEvent.to_json,
        when_slow: str = "close",
    ) -> None:
        _check_history(history)
        # Written so that nan is refused.
        if not isinstance(history_ttl, (int, float)) or not 0 < history_ttl <= MAX_SECONDS:
            raise ValueError(
                "history_ttl must be a positive number of seconds, at most"
                f" {MAX_SECONDS}, not {history_ttl!r}"
            )
        if when_slow not in {"close", "skip"}:
            raise ValueError(f"when_slow must be 'close' or 'skip', not {when_slow!r}")
        if not callable(presence):
            raise TypeError(f"presence must be a function, not {presence!r:.100}")
        self._envelope = _with_channel(envelope)
        self._format_event = presence
        self._closes_slow = when_slow == "close"
        self._channels: dict[str, Channel] = {}
        #: The hub and the thread of all subscribers; set by the first one.
        self._hub: Hub | None = None
        self._thread: int | None = None
        #: Messages that have not been dispatched yet.
        self._incoming = ThreadSafeQueue()
        self._is_dispatching = False
        self._is_closed = False
        self._sender = SlicedSender(self._handle_undelivered)
        self._backend: Backend = backend_for(url)(url, self, history, history_ttl)
        self._presence = Presence(self._backend, self)
        _all.add(self)

    # -------------------------------------------------------------- publishing

    def publish(
        self,
        channel: str,
        message: Data,
        *,
        keep: bool = True,
        exclude: Connection | None = None,
    ) -> str | None:
        """Send ``str`` as text, or bytes as binary, to all subscribers; return the message's id.

        May be called in any greenlet or thread, and in any process, also without a server. Does
        not wait for subscribers; a message to more than about 200 sockets of this process is sent
        in slices of 2 ms, between which other greenlets run. Redis may take ``socket_timeout``
        seconds to answer; the default is 5, and the URL can change it. The id is ``None`` if the
        message is not stored.

        With ``memory://``, a call in another thread blocks while more than 4 MiB of messages wait
        for the thread of the subscribers.

        :param channel: the name of a channel, at most 1,024 bytes in UTF-8.
        :param keep: whether to store the message in the channel's history. Pass ``False`` for
            messages that soon become worthless, such as "Ann is typing".
        :param exclude: a WebSocket that does not get the message, such as its sender. The message
            counts as received: :attr:`Subscription.position` moves on. If the client returns with
            an older id as ``since``, its new WebSocket gets the message.
        :raises BroadcastError: if the backend does not answer. The message may have been sent
            nevertheless: if it is published again, subscribers may get it twice.
        :raises TypeError: if the message is neither ``str`` nor bytes-like, or ``exclude`` is no
            WebSocket.
        :raises ValueError: for an invalid channel name, or a ``str`` with a lone surrogate, which
            UTF-8 cannot encode.
        :raises TimeoutError: in another thread, if the thread of the subscribers is blocked for
            30 seconds. The message has been published.
        """
        self._check(channel)
        if not isinstance(message, str):
            message = bytes_of(message)
        elif not message.isascii():
            encode_text(message, "the message")
        excluded = None if exclude is None else _connection_of(exclude, "excluded").id
        id_ = self._backend.publish(channel, message, keep, excluded)
        hub = self._hub
        if (
            hub is not None
            and self._incoming.size > _MAX_INCOMING
            and _thread_ident() != self._thread
        ):
            call_in_hub(hub, self._dispatch)
        return id_

    def history(self, channel: str) -> list[Message]:
        """Return the stored messages of a channel, the oldest first. Each has ``id`` and ``data``.

        To show a new client the history and continue without a gap, subscribe with the id of the
        last message as ``since``.

        :raises BroadcastError: if the backend does not answer.
        :raises ValueError: for an invalid channel name.
        """
        self._check(channel)
        return self._backend.history(channel, None).messages

    def subscribers(self, channel: str) -> int:
        """Return the number of sockets that are subscribed to a channel, in all processes.

        :raises BroadcastError: if the backend does not answer.
        :raises ValueError: for an invalid channel name.
        """
        self._check(channel)
        return self._backend.subscribers(channel)

    # Any: the application decides what a member is.
    def members(self, channel: str) -> dict[str, Any]:
        """Return the members of a channel in all processes, by key, in the order of their arrival.

        The members are those of :meth:`subscribe`. May be called in any process. Asks the backend.

        :raises BroadcastError: if the backend does not answer.
        :raises NotImplementedError: if the backend has no presence.
        :raises ValueError: for an invalid channel name.
        """
        self._check(channel)
        if _thread_ident() == self._thread:
            self._presence.wait_until_stored(channel)
        return members_of(self._backend.members(channel))

    @property
    def healthy(self) -> bool:
        """Whether the latest operations of the backend succeeded; for a health check."""
        return self._backend.healthy

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all subscriptions and release the backend. The sockets stay open.

        If there are members, this waits for up to a second until the backend knows that they have
        left. Idempotent. After that, all other methods raise :exc:`RuntimeError`, except for
        :meth:`unsubscribe`. A program that ends need not call this.
        """
        if self._is_closed:
            return
        self._is_closed = True
        for subscribers in self._channels.values():
            for listener in subscribers.listeners:
                listener.end()
            for subscription in subscribers.subscriptions():
                subscription.end()
        self._channels.clear()
        self._sender.clear()
        self._presence.close()
        self._backend.close()

    def _abandon(self) -> None:
        """Forget all subscribers, in a forked child: the sockets belong to the parent."""
        self._channels = {}
        self._hub = self._thread = None
        self._sender.clear()
        self._incoming = ThreadSafeQueue()
        self._is_dispatching = False
        self._presence.forget()
        self._presence = Presence(self._backend, self)
        self._backend.abandon()

    # ------------------------------------------------------------- subscribing

    @overload  # a str is an Iterable[str], too: this signature comes first
    def subscribe(  # type: ignore[overload-overlap]
        self,
        channel: str,
        ws: Connection,
        since: str | None = None,
        *,
        member: object = None,
        key: str | None = None,
    ) -> Subscription: ...

    @overload
    def subscribe(
        self,
        channel: Iterable[str],
        ws: Connection,
        since: str | Mapping[str, str | None] | None = None,
        *,
        member: object = None,
        key: str | None = None,
    ) -> Subscriptions: ...

    def subscribe(
        self,
        channel: str | Iterable[str],
        ws: Connection,
        since: str | Mapping[str, str | None] | None = None,
        *,
        member: object = None,
        key: str | None = None,
    ) -> Subscription | Subscriptions:
        """Send the messages of a channel to a socket, until the ``with`` block ends::

            with broadcast.subscribe("room", ws):
                for message in ws:
                    ...

        Without a ``with`` block, until the connection ends, which suits a view that only sends::

            broadcast.subscribe("room", ws)
            ws.detach()

        A socket may subscribe to any number of channels. Several names subscribe it to all of them
        at once, which takes no longer than one: ``subscribe(["news", "sports"], ws)`` returns the
        subscriptions by their names, and ``since`` may be a mapping of names to ids.

        Blocks until the subscription is active, for a bounded time, and then sends the ``101`` if
        it has not been sent: what is published when the client has it arrives. A backend that does
        not answer delays it by one second. If the backend cannot be reached, this method returns
        nevertheless; the subscription becomes active automatically when the backend is back.

        :param since: the id of the last message that the client received (see ``envelope``), or a
            :attr:`Subscription.position`. The socket first gets the stored messages after this id,
            then new messages, without a gap or a duplicate. :attr:`Subscription.recovered` is true
            if all of these messages were stored. The value may be any string of a client. For an
            invalid id the socket gets all stored messages; for ``""``, too, and it is recovered.
        :param member: makes the socket a member of the channel: a value that JSON can represent,
            such as ``{"name": "Ann"}``, with at most 4,096 bytes of JSON. The socket gets the list
            of all members, in all processes, and then an event for each change; see ``presence``.
            The list comes after the missed messages and before this method returns, or as soon as
            the backend is back.
        :param key: subscriptions with the same key are one member, which leaves with the last of
            them; the latest one decides what the member is. At most 256 bytes of JSON. By default,
            each socket is a member of its own.
        :raises BroadcastError: if ``since`` or ``member`` is given, and the backend refuses to read
            the history or to store the member of this channel; also if this process has 10,000
            members in the channel. If the backend cannot be reached, this is done later.
        :raises ConnectionClosed: if the client disconnected before the ``101``.
        :raises RuntimeError: if the backend uses the network and ``gevent.monkey.patch_all()`` was
            not called, or if another thread already has subscribers of this ``Broadcast``.
        :raises NotImplementedError: if ``member`` is given, and the backend has no presence.
        :raises TypeError: if ``ws`` is not a WebSocket, ``since`` or ``key`` is not a ``str``, or
            JSON does not have the type of ``member``.
        :raises ValueError: for an invalid channel name: empty, more than 1,024 bytes in UTF-8, or
            with a lone surrogate. Also for a ``member`` or ``key`` that is too long, a
            ``member`` with more than 100 levels, and a ``key`` without a ``member``.
        """
        ids: dict[str, str | None] = {}
        if isinstance(channel, (str, bytes)) or not isinstance(channel, Iterable):
            check_channel(channel)
            ids[channel] = _check_since(since)
        else:
            for name in channel:
                check_channel(name)
                ids[name] = _check_since(since.get(name) if isinstance(since, Mapping) else since)
        ws = _connection_of(ws, "subscribed")
        subscriptions = self._subscribe(ids, ws, self._encode_entry(ws, member, key))
        return subscriptions[channel] if isinstance(channel, str) else subscriptions

    def _encode_entry(self, ws: Connection, member: object, key: str | None) -> str | None:
        """Return the text of the entry of a member."""
        if member is None:
            if key is not None:
                raise ValueError("a key needs a member")
            return None
        if not self._backend.has_members:
            raise NotImplementedError(f"the backend of {self._backend.name} has no presence")
        return encode_member(ws.id if key is None else key, member)

    def _subscribe(
        self, since: dict[str, str | None], ws: Connection, entry: str | None
    ) -> Subscriptions:
        """Subscribe a socket to channels, by their names."""
        for channel in since:
            self._check_subscriber(channel)
        subscriptions = Subscriptions()
        try:
            for channel, id_ in since.items():
                subscriptions[channel] = self._add(channel, ws, id_, entry is not None)
            if ws._endpoint.state is State.PENDING:
                with Timeout(_MAX_DELAY, False):  # type: ignore[arg-type] # as documented
                    self._backend.subscribe_all(list(since))
                self._check_open()
                ws._open()
            for subscription in subscriptions.values():
                self._begin(subscription)
            self._backend.subscribe_all(
                [channel for channel, it in subscriptions.items() if not it.is_over]
            )
            self._check_open()
            self._start_replays(
                [subscriptions[channel] for channel, id_ in since.items() if id_ is not None]
            )
            if entry is not None:
                self._join(list(subscriptions.values()), entry)
        except BaseException:
            subscriptions.close()
            raise
        return subscriptions

    def _join(self, subscriptions: list[Subscription], entry: str) -> None:
        """Make a socket a member, and wait until it has got the lists of members."""
        joined = [(it, self._presence.join(it, entry)) for it in subscriptions if not it.is_over]
        deadline = monotonic() + TIMEOUT
        for subscription, result in joined:
            if subscription.is_live:
                result.wait(max(deadline - monotonic(), 0))
            if result.exception is not None:
                raise result.exception

    def _add(
        self, channel: str, ws: Connection, since: str | None, is_member: bool
    ) -> Subscription:
        """Add a socket to the subscribers of this process."""
        subscribers = self._channel_for(channel)
        subscription = Subscription(self._end, channel, ws, since)
        for old in subscribers.pop(ws):
            old.end()
            if is_member:
                self._presence.hand_over(old, subscription)
            else:
                self._presence.leave(old)
        subscribers.joining[ws] = subscription
        ws._close_at_end(subscription)
        return subscription

    def _begin(self, subscription: Subscription) -> None:
        """From now on, the socket gets messages, or they wait for the end of the replay."""
        ws = subscription.ws
        subscribers = self._channels.get(subscription.channel)
        if subscribers is None or subscribers.joining.get(ws) is not subscription:
            return  # it has unsubscribed meanwhile
        del subscribers.joining[ws]
        if subscription.recovered is None:
            subscribers.replaying[ws] = subscription
        else:
            subscription.go_live(subscribers)
            subscribers.sockets[ws] = subscription

    def _end(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription.channel, subscription.ws)

    def _position_of(self, channel: str) -> str | None:
        """Return where the backend stands; the messages before have been dispatched."""
        position = self._backend.position(channel)
        self._dispatch()
        return position

    def unsubscribe(self, channel: str, ws: Connection) -> None:
        """Stop sending the messages of a channel to a socket. Never blocks; idempotent.

        The end of the ``with`` block of :meth:`subscribe` calls this method.
        """
        subscribers = self._channels.get(channel)
        if subscribers is None:
            return
        for subscription in subscribers.pop(ws):
            subscription.end()
            self._presence.leave(subscription)
        self._remove_if_empty(channel, subscribers)

    def listen(
        self, channel: str, *, max_queued_messages: int = 1000, max_queued_bytes: int = 16 << 20
    ) -> Listener:
        """Iterate over the messages of a channel in this process; the loop blocks for each::

            with broadcast.listen("settings") as messages:
                for message in messages:
                    reload(message.data)

        The loop ends when the :class:`Listener` is closed, in any greenlet of this thread.

        :param max_queued_messages: the number of messages that may wait for a slow loop. Above it,
            the oldest are dropped; :attr:`Listener.lost` counts them.
        :param max_queued_bytes: bytes of memory that the waiting messages may take. The newest
            message is kept even if it is larger.
        :raises RuntimeError: as :meth:`subscribe`.
        :raises ValueError: as :meth:`subscribe`, or if a limit is not a positive integer.
        """
        self._check_subscriber(channel)
        limits = {"max_queued_messages": max_queued_messages, "max_queued_bytes": max_queued_bytes}
        for name, limit in limits.items():
            if not isinstance(limit, int) or limit < 1:
                raise ValueError(f"{name} must be a positive integer, not {limit!r}")
        listener = Listener(self._stop_listening, channel, max_queued_messages, max_queued_bytes)
        self._channel_for(channel).listeners.add(listener)
        try:
            self._backend.subscribe(channel)
        except BaseException:
            self._stop_listening(listener)
            raise
        return listener

    def _stop_listening(self, listener: Listener) -> None:
        subscribers = self._channels.get(listener.channel)
        if subscribers is not None:
            subscribers.listeners.discard(listener)
            self._remove_if_empty(listener.channel, subscribers)

    def _check_subscriber(self, channel: str) -> None:
        """Check the channel name, and that all subscribers belong to the same thread."""
        self._check(channel)
        hub = get_hub()
        if self._hub is None:
            self._hub = hub
            self._thread = _thread_ident()
        elif self._hub is not hub:
            raise RuntimeError("all subscribers of one Broadcast must belong to the same thread")

    def _check(self, channel: str) -> None:
        check_channel(channel)
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this Broadcast is closed")

    def _channel_for(self, channel: str) -> Channel:
        """Return the subscribers of a channel; create the entry if there is none."""
        subscribers = self._channels.get(channel)
        if subscribers is None:
            read_position = partial(self._position_of, channel)
            subscribers = self._channels[channel] = Channel(read_position)
        return subscribers

    def _remove_if_empty(self, channel: str, subscribers: Channel) -> None:
        if not subscribers and self._channels.get(channel) is subscribers:
            del self._channels[channel]
            self._backend.unsubscribe(channel)

    # ------------------------------------------------------------------ replay

    def _start_replays(self, subscriptions: list[Subscription]) -> None:
        """Send the stored messages now, or as soon as the backend is healthy."""
        if len(subscriptions) == 1:
            self._start_replay(subscriptions[0])
        elif subscriptions:
            replays = [spawn(self._try_replay, it) for it in subscriptions]
            try:
                joinall(replays, raise_error=True)
                for replay in replays:
                    if replay.value is not None:
                        raise replay.value
            finally:
                killall(replays, block=False)

    def _try_replay(self, subscription: Subscription) -> Refusal | ConnectionClosed | None:
        """Start a replay; return what it raises, which must not be logged by gevent."""
        try:
            self._start_replay(subscription)
        except (Refusal, ConnectionClosed) as problem:
            return problem
        return None

    def _start_replay(self, subscription: Subscription) -> None:
        try:
            self._replay(subscription)
        except Refusal:
            raise
        except BroadcastError:
            if not subscription.is_over:
                subscription.greenlet = spawn(self._retry_replay, subscription)

    def _replay(self, subscription: Subscription) -> None:
        """Send the stored messages; from then on, the socket gets new messages immediately."""
        channel, ws, since = subscription.channel, subscription.ws, subscription.position or ""
        messages, complete = self._backend.history(channel, since)
        self._dispatch()  # a message that another thread delivered may still be in the queue
        subscription.has_history = True
        subscription.recovered = complete
        if since and (complete or subscription.is_queued(since)):
            subscription.skip(lambda id_: not self._backend.is_after(id_, since))
        subscription.replay(messages, self._payload_of)
        subscribers = self._channels.get(channel)
        # Otherwise the socket has unsubscribed during the replay.
        if subscribers is not None and subscribers.replaying.get(ws) is subscription:
            del subscribers.replaying[ws]
            subscription.go_live(subscribers)
            subscribers.sockets[ws] = subscription
            self._presence.welcome(channel)

    def _retry_replay(self, subscription: Subscription) -> None:
        while True:
            self._backend.wait_until_healthy()
            try:
                self._replay(subscription)
            except Refusal as refusal:
                logger.warning(
                    "The history of %.200r cannot be read: %s", subscription.channel, refusal
                )
                self._handle_gaps([subscription])
                return
            except BroadcastError:
                sleep(_RETRY_DELAY)
            else:
                return

    # ----------------------------------------------- the interface for backends

    def count(self, channel: str) -> int:
        """Return the number of sockets that are subscribed in this process.

        Called by the backend, see :class:`~geventws.broadcast.Receiver`.
        """
        subscribers = self._channels.get(channel)
        return 0 if subscribers is None else len(subscribers.sockets) + len(subscribers.replaying)

    def deliver(self, message: Message) -> None:
        """Pass a message on to the subscribers in this process. Never blocks, never raises.

        Called by the backend, see :class:`~geventws.broadcast.Receiver`.
        """
        hub = self._hub
        if hub is None or message.channel not in self._channels:
            return
        for observe in observers:
            observe(message)
        if _thread_ident() != self._thread:
            self._incoming.put(message)
            hub.loop.run_callback_threadsafe(self._dispatch)
        elif self._is_dispatching or self._incoming:
            self._incoming.put(message)
            self._dispatch()
        else:
            self._dispatch(message)

    def miss(self, channel: str, count: int) -> None:
        """Tell the subscribers in this process that messages are lost to them. Never blocks.

        Called by the backend, see :class:`~geventws.broadcast.Receiver`.
        """
        subscribers = self._channels.get(channel)
        if subscribers is None:
            return
        for listener in subscribers.listeners:
            listener.lost += count
        sockets = [
            *subscribers.sockets.values(),
            *(it for it in subscribers.replaying.values() if it.has_history),
        ]
        _gaps.log(
            logging.WARNING,
            "This process has missed about %d messages of %.200r, which are not stored any more;"
            " affected sockets: %d",
            count,
            channel,
            len(sockets),
        )
        if sockets:
            self._handle_gaps(sockets)

    def change_members(self, channel: str, change: str) -> None:
        """Pass on a change of the members. Never blocks, never raises.

        Called by the backend, see :class:`~geventws.broadcast.Receiver`.
        """
        self._presence.receive(channel, change)

    def _handle_gaps(self, subscriptions: list[Subscription]) -> None:
        """Close sockets that cannot get all messages, or count them."""
        for subscription in subscriptions:
            subscription.ws._note_gap()
            if self._closes_slow:
                subscription.close()
        if self._closes_slow:
            spawn(_close_incomplete, [subscription.ws for subscription in subscriptions])

    def _dispatch(self, first: Message | None = None) -> None:
        """Pass on ``first`` and all incoming messages, in the thread of the subscribers."""
        if self._is_dispatching:
            return  # an envelope called publish(): the loop below dispatches its message, too
        self._is_dispatching = True
        try:
            if first is not None:
                self._dispatch_one(first)
            while self._incoming:
                self._dispatch_one(self._incoming.get())
        finally:
            self._is_dispatching = False

    def _dispatch_one(self, message: Message) -> None:
        subscribers = self._channels.get(message.channel)
        if subscribers is None:
            return
        for listener in subscribers.listeners:
            listener.enqueue(message)
        for ws, subscription in list(subscribers.replaying.items()):
            subscription.enqueue(message)
            if subscription.is_over_limit:
                subscription.clear_queue()
                self._handle_undelivered(message.channel, ws)
        before = subscribers.position
        if message.id is not None:
            subscribers.position = message.id
        if not subscribers.sockets:
            return
        self._deliver(
            message, self._payload_of, subscribers, subscribers.sockets, before, message.excluded
        )

    def send_event(self, event: PresenceEvent, sockets: Mapping[Connection, Subscription]) -> None:
        """Send an event to sockets of a channel. Never blocks, never raises.

        Called by :class:`~geventws.broadcast.presence.Presence`.
        """
        subscribers = self._channels.get(event.channel)
        if subscribers is None:
            return
        self._deliver(event, self._format_event, subscribers, sockets, subscribers.position)

    def _deliver(
        self,
        news: _News,
        encode: Callable[[_News], str | bytes],
        subscribers: Channel,
        sockets: Mapping[Connection, Subscription],
        before: str | None,
        excluded: str | None = None,
    ) -> None:
        """Send a message or an event to sockets of a channel, now or in turns."""
        try:
            data = encode(news)
            shared = SharedMessage(data)
        except Exception:  # noqa: BLE001 - raised by a function of the application; it is logged
            log_dropped(news.channel)
            return
        if subscribers.sending or is_large(len(sockets), len(data)):
            receivers = list(sockets.values())
            self._sender.send(
                news.channel, subscribers, receivers, shared, len(data), before, excluded
            )
            return
        chosen: Iterable[Connection] = sockets
        if excluded is not None:
            chosen = [ws for ws in sockets if not ws._has_id(excluded)]
        for ws in cast("list[Connection]", fan_out(chosen, shared)):
            self._handle_undelivered(news.channel, ws)

    def _payload_of(self, message: Message) -> str | bytes:
        """Return the message for the sockets."""
        if self._envelope is None:
            return message.data
        try:
            return self._envelope(message.data, message.id, message.channel)
        except Timeout as timeout:  # no Exception: it would end the greenlet that delivers messages
            raise RuntimeError("an envelope must not block") from timeout

    def _handle_undelivered(self, channel: str, ws: Connection) -> None:
        """Handle a socket that did not get a message: it is closed, or too slow."""
        if ws._is_ending:
            self.unsubscribe(channel, ws)
        elif self._closes_slow:
            self.unsubscribe(channel, ws)
            ws._drop_slow_consumer(
                f"did not read the messages of {channel!r:.200} fast enough; closed with 1013"
            )
            spawn(ws.close)  # waits for the peer's answer, at most close_timeout


def _check_history(history: int | Mapping[str, int]) -> None:
    """Check the sizes of histories.

    :raises ValueError: if one is not a number of messages, or a pattern is not a string.
    """
    sizes = history if isinstance(history, Mapping) else {"*": history}
    for pattern, size in sizes.items():
        if not isinstance(pattern, str):
            raise ValueError(f"a pattern of history must be a string, not {pattern!r}")
        if not isinstance(size, int) or not 0 <= size <= sys.maxsize:
            raise ValueError(
                f"history must be a number of messages from 0 to {sys.maxsize}, not {size!r}"
            )


def _connection_of(ws: object, action: str) -> Connection:
    """Return the connection of a WebSocket, or of a framework's object around one."""
    connection = getattr(ws, "__wrapped__", ws)
    if not isinstance(connection, Transport):
        raise TypeError(
            f'only a WebSocket, environ["wsgi.websocket"], can be {action}, not {ws!r:.100}'
        )
    return cast("Connection", connection)


def _check_since(since: object) -> str | None:
    if since is None or isinstance(since, str):
        return since
    hint = "; a mapping needs a list of channels" if isinstance(since, Mapping) else ""
    raise TypeError(f"since is the id of a message, a str, not {type(since).__name__}{hint}")


def _close_incomplete(sockets: list[Connection]) -> None:
    """Close sockets with 1013. Others run in between: there may be thousands."""
    for ws in sockets:
        ws._drop_incomplete()
        spawn(ws.close)  # waits for the peer's answer, at most close_timeout
        sleep(0)


def _with_channel(envelope: Callable[..., str | bytes] | None) -> Callable[..., str | bytes] | None:
    """Return an envelope that takes a message, its id and its channel."""
    if envelope is None:
        return None
    if not callable(envelope):
        raise TypeError(f"an envelope must be a function, not {envelope!r:.100}")
    try:
        signature = inspect.signature(envelope)
    except ValueError:  # a function in C
        return lambda message, id_, channel: envelope(message, id_)
    for arguments in (("message", "id"), ("message", "id", "channel")):
        with suppress(TypeError):
            signature.bind(*arguments)
            break
    else:
        raise TypeError(
            "an envelope takes a message and its id, and perhaps the channel, but the signature of"
            f" {envelope!r:.100} is {signature}"
        )
    if len(arguments) == 3:
        return envelope
    return lambda message, id_, channel: envelope(message, id_)


def _abandon_all() -> None:
    for broadcast in list(_all):
        broadcast._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
