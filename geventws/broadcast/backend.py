"""The interface of a broadcast backend.

Another backend (NATS, Kafka) is a subclass of :class:`Backend`, which :mod:`.registry` finds by the
scheme of the URL. ``geventws.testing.broadcast`` has the tests that it must pass.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import translate
from sys import getsizeof
from time import monotonic
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from gevent import spawn
from gevent.event import Event
from gevent.monkey import is_module_patched

from ..connection.logs import Throttle
from ..exceptions import BroadcastError
from ..protocol.frames import encode_text
from .members import State, Update

logger = logging.getLogger("geventws.broadcast")
#: Seconds between two pings, and seconds that ``healthy`` waits for an answer.
PING_INTERVAL = 1.0
#: Limits the lines about dropped messages: clients may decide how many messages there are.
_dropped = Throttle(target=logger)


def require_patched_sockets(service: str) -> None:
    """Check that a connection for subscriptions would not block the whole process.

    :raises RuntimeError: if ``gevent.monkey.patch_all()`` was not called.
    """
    if not is_module_patched("socket"):
        raise RuntimeError(
            f"a subscription through {service} would block the whole process: call"
            " gevent.monkey.patch_all() at the beginning of the program, as gunicorn's gevent"
            " workers and python -m geventws do"
        )


def log_dropped(channel: str) -> None:
    """Log that a message was dropped, with the exception that is being handled."""
    _dropped.log(
        logging.ERROR, "A message of %.200r cannot be sent and was dropped", channel, exc_info=True
    )


class Message(NamedTuple):
    """A published message. The channel and the data can be encoded in UTF-8."""

    channel: str
    data: str | bytes
    #: The position of the message in the history, printable ASCII; ``None`` if it is not stored.
    #: A client resumes after this id.
    id: str | None
    #: The ``id`` of the WebSocket that does not get the message, 16 hexadecimal digits.
    excluded: str | None = None


#: Bytes of memory that a message takes in addition to its data: tuple, id and queue entry.
_OVERHEAD = 150


def size_of(message: Message) -> int:
    """Return the memory that a message takes, in bytes. An empty message takes memory, too."""
    excluded = 0 if message.excluded is None else getsizeof(message.excluded)
    return getsizeof(message.data) + excluded + _OVERHEAD


class History(NamedTuple):
    """Stored messages of a channel."""

    messages: list[Message]
    #: Whether no message is missing between the requested id and the first one in ``messages``.
    complete: bool


class Refusal(BroadcastError):
    """The backend works, and refuses an operation: the fault lies in one channel or one message.

    Another attempt would probably fail, too.
    """


class Receiver(Protocol):
    """The subscribers of this process, as a backend sees them."""

    def deliver(self, message: Message) -> None:
        """Pass a message on to the subscribers of this process. Never blocks, never raises.

        May be called in any thread. Messages arrive in the order of the calls.
        """

    def miss(self, channel: str, count: int) -> None:
        """Tell the subscribers of this process that messages are lost to them. Never blocks.

        Called between two calls of :meth:`deliver`, in the thread of the subscribers.

        :param count: the number of messages, as far as it is known; at least 1.
        """

    def count(self, channel: str) -> int:
        """Return the number of sockets of this process that are subscribed to a channel."""

    def change_members(self, channel: str, change: str) -> None:
        """Pass on a change of the members, see :mod:`.members`. Never blocks, never raises.

        Called in the thread of the subscribers.
        """


class Backend(ABC):
    """Transport for the messages of one :class:`~geventws.Broadcast`.

    The contract of a backend:

    - Messages of one publisher in one channel arrive in their order.
    - Messages of a channel with a history arrive in the order of their ids, in every process, each
      of them once. If messages cannot be delivered any more, :meth:`Receiver.miss` is called in
      their place.
    - Whatever happens in one channel, the other channels are not affected.
    - An operation that is not possible at the moment raises :exc:`~geventws.BroadcastError` after
      a bounded wait; :exc:`Refusal` if the reason is the channel or the message.
    - After the connection is lost, the backend reconnects, restores its subscriptions, and delivers
      the messages that were stored meanwhile.
    - What other programs have stored or published under the same names is passed over.
    - Changes of the members of a channel have consecutive versions. They may be lost, and arrive
      before or after the messages of that time.

    The constructor does not connect: it may be called before the process is forked. A subclass that
    has one calls ``super().__init__()``.

    A backend with a history also overrides :meth:`position`; :meth:`is_after`, unless its ids have
    the form "number-number" and are compared number by number; and, if it has connections,
    :meth:`is_watched`, :meth:`ping` and :meth:`abandon`. It calls :meth:`note_up` and
    :meth:`note_down`. A backend with presence overrides :attr:`has_members`,
    :meth:`update_members` and :meth:`members`; one for a single process, :attr:`is_local`.

    :param url: the URL that was passed to ``Broadcast``.
    :param receiver: the destination of incoming messages.
    :param history: the number of messages that are stored for each channel; 0 stores none. Or a
        mapping of patterns (:mod:`fnmatch`) to numbers; the first match counts.
    :param history_ttl: seconds after the latest message of a channel until its history expires.
    """

    def __init__(
        self, url: str, receiver: Receiver, history: int | Mapping[str, int], history_ttl: float
    ) -> None:
        self.receiver = receiver
        #: The number of stored messages of a channel, and the largest if it depends on the channel.
        self.history_size = max(history.values()) if isinstance(history, Mapping) else history
        self._sizes = (
            [(re.compile(translate(pattern)), size) for pattern, size in history.items()]
            if isinstance(history, Mapping)
            else None
        )
        self.history_ttl = history_ttl
        parts = urlsplit(url)
        #: The name of this backend in the log: the URL without the password.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._is_up = Event()
        self._is_up.set()
        self._down_since = 0.0
        #: The time of the latest ping, by ``monotonic()``.
        self._pinged_at = -PING_INTERVAL

    def history_size_of(self, channel: str) -> int:
        """Return the number of messages that are stored for a channel."""
        if self._sizes is None:
            return self.history_size
        return next((size for pattern, size in self._sizes if pattern.match(channel)), 0)

    # ------------------------------------------------------------- operations

    @abstractmethod
    def publish(
        self, channel: str, data: str | bytes, keep: bool, excluded: str | None = None
    ) -> str | None:
        """Send a message to all processes, including this one.

        Return the message's id, or ``None`` if the message is not stored. It is stored if there
        is a history and ``keep`` is true.

        May be called in any thread, and in a process without subscriptions.

        :param excluded: passed on, and stored, as :attr:`Message.excluded`.
        :raises BroadcastError: if the backend does not answer.
        """

    @abstractmethod
    def subscribe(self, channel: str) -> None:
        """Deliver the messages of a channel until :meth:`unsubscribe` is called. Idempotent.

        Blocks until the subscription is active, for a bounded time. If the connection is broken,
        this method returns nevertheless, and the subscription becomes active after reconnecting.

        If the greenlet is killed meanwhile, the subscription lasts until :meth:`unsubscribe`.
        """

    def subscribe_all(self, channels: Sequence[str]) -> None:
        """Call :meth:`subscribe` for many channels; a backend may do it in one round trip."""
        for channel in channels:
            self.subscribe(channel)

    @abstractmethod
    def unsubscribe(self, channel: str) -> None:
        """Stop delivering the messages of a channel. Never blocks, never raises.

        The receiver ignores messages that come nevertheless.
        """

    @abstractmethod
    def history(self, channel: str, since: str | None) -> History:
        """Return the stored messages of a channel: all, or the messages after the id ``since``.

        ``since`` may be any string of a client. ``complete`` is true if it is the id of a message,
        or a :meth:`position`, and all later messages are returned; also for an empty string, which
        requests all stored messages. For another id, the stored messages with a greater id are
        returned; all stored messages, if it cannot be compared with theirs or is greater than all.

        If ``since`` is given and this process is subscribed to the channel, the returned messages
        and all earlier ones have been passed to :meth:`Receiver.deliver` before this returns, and
        none of them is passed to it later.

        :raises BroadcastError: if the backend does not answer.
        """

    def position(self, channel: str) -> str | None:
        """Return the id after which messages are delivered to a new subscriber of this process.

        It may be passed to :meth:`history`. ``None`` while the subscription is interrupted, and
        without a history.
        """
        return None

    def is_after(self, id_: str, since: str) -> bool:
        """Return whether a message is newer than another one of its channel, by their ids."""
        one, other = parse_id(id_), parse_id(since)
        return one is None or other is None or one > other

    @abstractmethod
    def subscribers(self, channel: str) -> int:
        """Return the number of sockets that are subscribed to a channel, in all processes.

        :raises BroadcastError: if the backend or one of the processes does not answer.
        """

    #: Whether messages reach the subscribers of this process only.
    is_local = False

    #: Whether the backend stores the members of channels.
    has_members = False

    def update_members(self, channel: str, update: Update) -> State | None:
        """Change the entries of this process in a channel, in one step.

        - If ``update.base`` is neither 0 nor the number of the process's latest stored update,
          change nothing and return ``None``; also if it is 0, and the stored number is not less
          than ``update.number``. The backend has then lost something, or this call is late.
        - If it is 0, remove the entries of the process that are not in ``update.changes``.
          Otherwise, remove the entries of all processes whose lease is over.
        - Remove and add the entries in ``update.changes``. An existing entry stays as it is.
        - Store the number, and renew the lease. If no process has a lease, forget everything: the
          next version is a new epoch, which differs by more than a million.
        - If entries have changed, the version grows by 1, and the change is passed to
          :meth:`Receiver.change_members` in each process that is subscribed to the channel.

        :raises BroadcastError: if the backend does not answer.
        """
        raise NotImplementedError

    def members(self, channel: str) -> Mapping[str, str]:
        """Return the entries of a channel, as in :attr:`.members.State.entries`.

        :raises BroadcastError: if the backend does not answer.
        """
        raise NotImplementedError

    def abandon(self) -> None:  # noqa: B027 - a backend without connections has nothing to do
        """Forget all subscriptions and connections, in a process that was forked from another one.

        Never blocks. The connections belong to the parent: the child must neither read from them
        nor end them.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources. No other method is called after this one."""

    # ------------------------------------------------------------------ health

    @property
    def is_up(self) -> bool:
        """Whether the latest operations succeeded. Does not ask the backend."""
        return self._is_up.is_set()

    @property
    def healthy(self) -> bool:
        """Whether the backend works.

        If :meth:`is_watched` is false, this calls :meth:`ping`, at most once per second, and waits
        for at most a second.
        """
        now = monotonic()
        if now - self._pinged_at >= PING_INTERVAL and not self.is_watched():
            self._pinged_at = now
            if is_module_patched("socket"):
                pinging = spawn(self._ping)
                pinging.join(PING_INTERVAL)
                if not pinging.ready():
                    self.note_down(TimeoutError(f"no answer within {PING_INTERVAL:g} seconds"))
            else:
                self._ping()  # it blocks the thread, as every operation does
        return self.is_up

    def _ping(self) -> None:
        try:
            self.ping()
        except BroadcastError:
            pass  # ping() has called note_down()

    def wait_until_healthy(self) -> None:
        """Block until :attr:`healthy` is true."""
        while not self.healthy:
            self._is_up.wait(PING_INTERVAL)

    def is_watched(self) -> bool:
        """Whether the backend itself notices soon if it fails, and if it works again.

        For example because it reads from a connection for subscriptions.
        """
        return True

    def ping(self) -> None:  # noqa: B027 - not called by default
        """Find out whether the backend works, and call :meth:`note_up` or :meth:`note_down`.

        Called only if :meth:`is_watched` is false.

        :raises BroadcastError: if it does not work.
        """

    def note_up(self) -> None:
        """Mark the backend as healthy. Only a change is logged.

        Called by the backend itself, when an operation has succeeded, and all subscriptions are
        restored.
        """
        if not self._is_up.is_set():
            self._is_up.set()
            logger.warning(
                "The broadcast at %s works again, after %.1f seconds",
                self.name,
                monotonic() - self._down_since,
            )

    def note_down(self, problem: BaseException) -> None:
        """Mark the backend as unhealthy. Only a change is logged.

        Called by the backend itself, when an operation has failed. A :exc:`Refusal` is no failure.
        """
        if self._is_up.is_set():
            self._is_up.clear()
            self._down_since = monotonic()
            logger.error("The broadcast at %s does not work: %s", self.name, problem)


#: The maximum length of a channel name, in bytes of UTF-8. Names are keys in this process and in
#: the backend, and views often take them from clients.
MAX_CHANNEL = 1024


def check_channel(channel: str) -> None:
    """Check the name of a channel.

    :raises ValueError: if it is not a string, empty, too long, or cannot be encoded in UTF-8.
    """
    if not isinstance(channel, str) or not channel:
        raise ValueError(f"the name of a channel must be a non-empty string, not {channel!r:.100}")
    size = len(channel)
    if size <= MAX_CHANNEL and not channel.isascii():
        size = len(encode_text(channel, "the name of a channel"))
    if size > MAX_CHANNEL:
        raise ValueError(f"the name of a channel must have at most {MAX_CHANNEL:,} bytes of UTF-8")


#: Redis's limit for each of the two numbers of an id.
_MAX_NUMBER = 1 << 64
#: The length of an id with two numbers of 64 bits.
_MAX_ID_LENGTH = 41


def parse_id(text: str) -> tuple[int, int] | None:
    """Return the two numbers of an id, or ``None`` for an invalid id.

    Both built-in backends use ids of the form "milliseconds-number".
    """
    milliseconds, _, number = text.partition("-")
    if not (text.isascii() and milliseconds.isdecimal() and number.isdecimal()):
        return None
    if len(text) > _MAX_ID_LENGTH:
        return None
    parsed = int(milliseconds), int(number)
    return parsed if max(parsed) < _MAX_NUMBER else None
