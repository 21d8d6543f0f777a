"""The application's side: publish, subscribe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import get_hub, sleep, spawn
from gevent.monkey import get_original

from ..connection.threads import call_in_hub
from ..connection.transport import fan_out
from ..exceptions import BroadcastError
from ..protocol.frames import encode_text
from ..protocol.state import State
from .backend import Backend, Message, backend_for, check_channel, log_spoiled
from .subscribers import Channel, Listener, SharedQueue, Subscription, stop

if TYPE_CHECKING:
    from ..connection.connection import Connection


_thread_ident = get_original("_thread", "get_ident")
#: How long to wait, in seconds, before the history is asked for again.
_RETRY = 0.5
#: How much other threads may publish, in bytes, before they wait for the thread of the sockets.
_MAX_INCOMING = 4 << 20


class Broadcast:
    """Sends messages to all who subscribed to a channel, in every process::

        broadcast = Broadcast("memory://")

        def chat(environ, start_response):
            ws = environ["wsgi.websocket"]
            with broadcast.subscribe("room", ws):
                for message in ws:
                    broadcast.publish("room", message)
            return []

    Creating one connects to nothing, so it may happen before workers are forked. Messages of one
    publisher arrive in their order. A frame is made once for all sockets and written without
    waiting for any of them.

    :param url: ``memory://`` for one process (``memory://?max_history_size=…`` limits the memory
        of all its histories together, by default to 64 MiB),
        ``redis://[user:password@]host[:port]`` for any number, also ``rediss://`` (TLS),
        ``unix://``, ``redis+sentinel://host,host/service``,
        ``redis+cluster://host,host``, or what an entry point adds; see
        :mod:`geventws.broadcast.base`.
    :param history: how many messages of each channel are kept, with ids; 0 for none.
    :param history_ttl: for how many seconds after its latest message a channel's history is kept.
    :param envelope: called with each message and its id; returns what the sockets get instead.
        This is how clients learn the id that they come back with: see :meth:`subscribe`. It runs
        once a process for each message, and must not block.
    :param when_slow: what becomes of a socket that is sent more than it reads, when its
        ``max_send_buffer`` is full: ``"close"`` closes it with 1013 (try again later), ``"skip"``
        lets it miss messages.
    :raises ValueError: for a URL that no backend knows, or an option that makes no sense.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        history: int = 0,
        history_ttl: float = 3600.0,
        envelope: Callable[[Any, str | None], str | bytes] | None = None,
        when_slow: str = "close",
    ) -> None:
        if not isinstance(history, int) or history < 0:
            raise ValueError(f"history must be a number of messages, not {history!r}")
        if history_ttl <= 0:
            raise ValueError(f"history_ttl must be a positive number of seconds: {history_ttl!r}")
        if when_slow not in {"close", "skip"}:
            raise ValueError(f"when_slow must be 'close' or 'skip', not {when_slow!r}")
        self._envelope = envelope
        self._closes_slow = when_slow == "close"
        self._channels: dict[str, Channel] = {}
        #: The hub that all sockets belong to, and its thread.
        self._hub: Any = None
        self._thread: int | None = None
        #: What came in and is still to be passed on.
        self._incoming = SharedQueue()
        self._passing_on = False
        self._backend: Backend = backend_for(url)(url, self, history, history_ttl)

    # ----------------------------------------------------------- for everybody

    def publish(
        self, channel: str, message: str | bytes | bytearray | memoryview, *, keep: bool = True
    ) -> str | None:
        """Send ``str`` as text or bytes as binary to all subscribers; returns the message's id.

        From any greenlet or thread, and from any process, also one without a server. Does not
        wait for subscribers; with Redis it waits for its answer, at most ``socket_timeout``
        seconds (5, unless the URL says otherwise). The id is ``None`` if no history is kept. With
        ``memory://``, another thread waits for that of the subscribers if it is ahead of it by
        more than 4 MiB.

        :param channel: at most 1,024 bytes in UTF-8.
        :param keep: whether the message goes into the channel's history, if there is one; False
            for what soon means nothing, such as "Ann is typing".
        :raises BroadcastError: when the backend does not answer. The message may have been sent
            all the same: whoever publishes again risks to send it twice.
        :raises ValueError: for a channel that cannot have this name, or a ``str`` with a lone
            surrogate, which UTF-8 cannot encode.
        :raises TimeoutError: in another thread, when something blocks that of the subscribers for
            30 seconds; the message has been published.
        """
        check_channel(channel)
        if isinstance(message, (bytearray, memoryview)):
            message = bytes(message)
        if not isinstance(message, (str, bytes)):
            raise TypeError(f"a message is str or bytes-like, not {type(message).__name__}")
        if isinstance(message, str) and not message.isascii():
            encode_text(message, "the message")
        id_ = self._backend.publish(channel, message, keep)
        if self._incoming.size > _MAX_INCOMING and _thread_ident() != self._thread:
            call_in_hub(self._hub, self._pass_on)
        return id_

    def history(self, channel: str) -> list[Message]:
        """The messages that are kept, the oldest first: each with ``id`` and ``data``.

        To tell a newcomer what was said, and then go on without a gap, subscribe with the last
        one's id as ``since``.

        :raises BroadcastError: when the backend does not answer.
        """
        check_channel(channel)
        return self._backend.history(channel, None).messages

    def subscribers(self, channel: str) -> int:
        """How many sockets are subscribed to a channel, in all processes.

        :raises BroadcastError: when the backend does not answer.
        """
        check_channel(channel)
        return self._backend.subscribers(channel)

    @property
    def healthy(self) -> bool:
        """Whether the backend works, as far as is known; for a health check."""
        return self._backend.healthy

    def close(self) -> None:
        """Unsubscribe everybody and let go of the backend; the sockets stay open."""
        for place in self._channels.values():
            for listener in place.listeners:
                listener.end()
            for subscription in place.joining.values():
                stop(subscription.greenlet)
        self._channels.clear()
        self._backend.close()

    # -------------------------------------------------------------- for sockets

    def subscribe(self, channel: str, ws: Connection, since: str | None = None) -> Subscription:
        """Send the channel's messages to a socket, until the ``with`` block is left::

            with broadcast.subscribe("room", ws):
                for message in ws:
                    ...

        A socket may subscribe to any number of channels. Sends the ``101`` if that is still due.
        Blocks until the subscription has taken effect, for a bounded time; if the backend cannot
        be reached it takes effect later, by itself, and this returns all the same.

        :param since: the id of the last message that the client has got (see ``envelope``). It is
            sent first what is kept of the messages after that one, then those that come: without
            a gap, none twice. :attr:`Subscription.recovered` tells whether all of it was kept.
            May be any string that a client makes up: an unknown id gives all that is kept, and
            so does ``""``, for a client that is new.
        :raises ConnectionClosed: when the client has gone before the ``101``.
        :raises RuntimeError: with a backend that waits for a network, in a program that has not
            called ``gevent.monkey.patch_all()``; or in a second thread.
        :raises ValueError: for a channel that cannot have this name: more than 1,024 bytes in
            UTF-8, or a lone surrogate.
        """
        self._enter(channel)
        if since is not None and not isinstance(since, str):
            raise TypeError(f"since is the id of a message, a str, not {type(since).__name__}")
        if ws._endpoint.state is State.PENDING:
            ws._open()
        self.unsubscribe(channel, ws)
        place = self._place(channel)
        subscription = Subscription(self.unsubscribe, channel, ws)
        if since is None:
            place.live.add(ws)
        else:
            place.joining[ws] = subscription
        try:
            self._backend.subscribe(channel)
            if since is not None:
                self._catch_up_soon(subscription, since)
        except BaseException:
            self.unsubscribe(channel, ws)
            raise
        return subscription

    def unsubscribe(self, channel: str, ws: Connection) -> None:
        """Send the channel's messages to a socket no more; never blocks.

        What the end of :meth:`subscribe`'s ``with`` block does.
        """
        place = self._channels.get(channel)
        if place is None:
            return
        place.live.discard(ws)
        subscription = place.joining.pop(ws, None)
        if subscription is not None:
            stop(subscription.greenlet)
        self._vacate(channel, place)

    def listen(
        self, channel: str, *, max_queued_messages: int = 1000, max_queued_bytes: int = 16 << 20
    ) -> Listener:
        """The channel's messages for the process itself, in a loop that waits for each::

            with broadcast.listen("settings") as messages:
                for message in messages:
                    reload(message.data)

        Ends when it is closed, in whichever greenlet.

        :param max_queued_messages: how many messages wait for a slow loop; then the oldest are
            dropped. ``lost`` counts them.
        :param max_queued_bytes: how many bytes of memory those take that wait; the latest message
            is kept whatever its size.
        :raises RuntimeError: as :meth:`subscribe`.
        :raises ValueError: as :meth:`subscribe`, or for a limit that is none.
        """
        self._enter(channel)
        if max_queued_messages < 1 or max_queued_bytes < 1:
            raise ValueError("max_queued_messages and max_queued_bytes are positive integers")
        listener = Listener(self._stop_listening, channel, max_queued_messages, max_queued_bytes)
        self._place(channel).listeners.add(listener)
        try:
            self._backend.subscribe(channel)
        except BaseException:
            self._stop_listening(listener)
            raise
        return listener

    def _stop_listening(self, listener: Listener) -> None:
        place = self._channels.get(listener.channel)
        if place is not None:
            place.listeners.discard(listener)
            self._vacate(listener.channel, place)

    def _enter(self, channel: str) -> None:
        check_channel(channel)
        hub = get_hub()
        if self._hub is None:
            self._hub = hub
            self._thread = _thread_ident()
        elif self._hub is not hub:
            raise RuntimeError("all subscribers of one Broadcast belong to the same thread")

    def _place(self, channel: str) -> Channel:
        place = self._channels.get(channel)
        if place is None:
            place = self._channels[channel] = Channel()
        return place

    def _vacate(self, channel: str, place: Channel) -> None:
        if not place and self._channels.get(channel) is place:
            del self._channels[channel]
            self._backend.unsubscribe(channel)

    # ------------------------------------------------------------- catching up

    def _catch_up_soon(self, subscription: Subscription, since: str) -> None:
        """Replay what was missed now, or when the backend is back."""
        try:
            self._catch_up(subscription, since)
        except BroadcastError:
            subscription.recovered = None
            subscription.greenlet = spawn(self._catch_up_later, subscription, since)

    def _catch_up(self, subscription: Subscription, since: str) -> None:
        """Replay what was missed, and let the socket join the others."""
        channel, ws = subscription.channel, subscription.ws
        messages, subscription.recovered = self._backend.history(channel, since)
        self._pass_on()  # what another thread has delivered may not have been yet
        subscription.replay(messages, since, self._write)
        place = self._channels.get(channel)
        if place is not None and place.joining.get(ws) is subscription:  # else it has left
            del place.joining[ws]
            place.live.add(ws)

    def _catch_up_later(self, subscription: Subscription, since: str) -> None:
        while True:
            self._backend.wait_until_healthy()
            try:
                self._catch_up(subscription, since)
            except BroadcastError:
                sleep(_RETRY)
            else:
                return

    # ------------------------------------------------------ what the backend does

    def count(self, channel: str) -> int:
        """How many sockets are subscribed in this process."""
        place = self._channels.get(channel)
        return 0 if place is None else len(place.live) + len(place.joining)

    def deliver(self, message: Message) -> None:
        """Called by the backend for every message; see :class:`~geventws.broadcast.base.Local`."""
        if message.channel not in self._channels:
            return
        if _thread_ident() != self._thread:
            self._incoming.put(message)
            self._hub.loop.run_callback_threadsafe(self._pass_on)
        elif self._passing_on or self._incoming:
            self._incoming.put(message)
            self._pass_on()
        else:
            self._pass_on(message)

    def _pass_on(self, first: Message | None = None) -> None:
        if self._passing_on:
            return  # called from an envelope: the loop below gets there
        self._passing_on = True
        try:
            if first is not None:
                self._pass_on_one(first)
            while self._incoming:
                self._pass_on_one(self._incoming.take())
        finally:
            self._passing_on = False

    def _pass_on_one(self, message: Message) -> None:
        place = self._channels.get(message.channel)
        if place is None:
            return
        for listener in place.listeners:
            listener.hear(message)
        for ws, subscription in list(place.joining.items()):
            subscription.hear(message)
            if subscription.is_overdue:
                subscription.forget_waiting()
                self._left_out(message.channel, ws)
        if not place.live:
            return
        try:
            data = self._write(message)
            left_out: list[Any] = fan_out(place.live, data)
        except Exception:  # noqa: BLE001 - the application's, in its envelope; it is logged
            log_spoiled(message.channel)
            return
        for ws in left_out:
            self._left_out(message.channel, ws)

    def _write(self, message: Message) -> str | bytes:
        """What the sockets get."""
        if self._envelope is None:
            return message.data
        return self._envelope(message.data, message.id)

    def _left_out(self, channel: str, ws: Any) -> None:
        """A socket has not got a message: it has ended, or does not keep up."""
        if ws._is_ending:
            self.unsubscribe(channel, ws)
        elif self._closes_slow:
            self.unsubscribe(channel, ws)
            ws._drop_slow_consumer(
                f"did not keep up with the messages of {channel!r:.200}; closed with 1013"
            )
            spawn(ws.close)  # waits for the peer's answer, and not for ever
