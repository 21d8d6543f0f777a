"""The interface of a broadcast backend, and the registry that maps URL schemes to backends.

Another backend (NATS, Kafka, PostgreSQL) is a subclass of :class:`Backend`. Its package declares an
entry point in the group ``geventws.broadcast``; the name of the entry point is the URL scheme::

    [project.entry-points."geventws.broadcast"]
    nats = "my_package:NatsBackend"

Then ``Broadcast("nats://…")`` uses it.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import entry_points
from sys import getsizeof
from time import monotonic
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from gevent.event import Event

from ..connection.logs import Throttle
from ..protocol.frames import encode_text

logger = logging.getLogger("geventws.broadcast")
#: Limits the lines about dropped messages: clients may decide how many messages there are.
_dropped = Throttle(target=logger)


def log_dropped(channel: str) -> None:
    """Log that a message was dropped, with the exception that is being handled."""
    _dropped.log(
        logging.ERROR, "A message of %.200r cannot be sent and was dropped", channel, exc_info=True
    )


ENTRY_POINTS = "geventws.broadcast"
_REDIS = "geventws.broadcast.redis:RedisBackend"
#: The built-in backends. They are imported on first use, because their dependencies are optional.
_BUILT_IN = {
    "memory": "geventws.broadcast.memory:MemoryBackend",
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}


class Message(NamedTuple):
    """A published message. The channel and the data can be encoded in UTF-8."""

    channel: str
    data: str | bytes
    #: The position of the message in the history, printable ASCII; ``None`` if it is not stored.
    #: A client resumes after this id.
    id: str | None


#: Bytes of memory that a message takes in addition to its data: tuple, id and queue entry.
_OVERHEAD = 150


def size_of(message: Message) -> int:
    """Return the memory that a message takes, in bytes. An empty message takes memory, too."""
    return getsizeof(message.data) + _OVERHEAD


class History(NamedTuple):
    """Stored messages of a channel."""

    messages: list[Message]
    #: Whether no message is missing between the requested id and the first one in ``messages``.
    complete: bool


class Receiver(Protocol):
    """The subscribers of this process, as a backend sees them."""

    def deliver(self, message: Message) -> None:
        """Pass a message on to the subscribers of this process. Never blocks, never raises.

        May be called in any thread. Messages arrive in the order of the calls.
        """

    def count(self, channel: str) -> int:
        """Return the number of sockets of this process that are subscribed to a channel."""


class Backend(ABC):
    """Transport for the messages of one :class:`~geventws.Broadcast`.

    The contract of a backend:

    - Messages of one publisher arrive in their order.
    - Messages of a channel with a history arrive in the order of their ids, in every process.
    - An operation that is not possible at the moment raises :exc:`~geventws.BroadcastError` after
      a bounded wait.
    - After the connection is lost, the backend reconnects and restores its subscriptions.

    :param url: the URL that was passed to ``Broadcast``.
    :param receiver: the destination of incoming messages.
    :param history: the number of messages that are stored for each channel; 0 stores none.
    :param history_ttl: seconds after the latest message of a channel until its history expires.
    """

    def __init__(self, url: str, receiver: Receiver, history: int, history_ttl: float) -> None:
        self.receiver = receiver
        self.history_size = history
        self.history_ttl = history_ttl
        parts = urlsplit(url)
        #: The name of this backend in the log: the URL without the password.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._is_up = Event()
        self._is_up.set()
        self._down_since = 0.0

    # ------------------------------------------------------------- operations

    @abstractmethod
    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        """Send a message to all processes, including this one.

        Return the message's id, or ``None`` if the message is not stored. It is stored if there
        is a history and ``keep`` is true.

        May be called in any thread, and in a process without subscriptions.

        :raises BroadcastError: if the backend does not answer.
        """

    @abstractmethod
    def subscribe(self, channel: str) -> None:
        """Deliver the messages of a channel until :meth:`unsubscribe` is called. Idempotent.

        Blocks until the subscription is active, for a bounded time. If the connection is broken,
        this method returns nevertheless, and the subscription becomes active after reconnecting.
        """

    @abstractmethod
    def unsubscribe(self, channel: str) -> None:
        """Stop delivering the messages of a channel. Never blocks, never raises."""

    @abstractmethod
    def history(self, channel: str, since: str | None) -> History:
        """Return the stored messages of a channel: all, or the messages after the id ``since``.

        ``since`` may be any string of a client. For the id of a message that is not stored, return
        the stored messages with a greater id. For an invalid id, return all stored messages. In
        both cases, ``complete`` is false.

        If ``since`` is given and this process is subscribed to the channel, the returned messages
        and all earlier ones have been passed to :meth:`Receiver.deliver` before this returns.

        :raises BroadcastError: if the backend does not answer.
        """

    @abstractmethod
    def subscribers(self, channel: str) -> int:
        """Return the number of sockets that are subscribed to a channel, in all processes.

        :raises BroadcastError: if the backend does not answer.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources. No other method is called after this one."""

    # ------------------------------------------------------------------ health

    @property
    def healthy(self) -> bool:
        """Whether the latest operations succeeded."""
        return self._is_up.is_set()

    def wait_until_healthy(self) -> None:
        """Block until :attr:`healthy` is true."""
        self._is_up.wait()

    def note_up(self) -> None:
        """Mark the backend as healthy. Only a change is logged."""
        if not self._is_up.is_set():
            self._is_up.set()
            logger.warning(
                "The broadcast at %s works again, after %.1f seconds",
                self.name,
                monotonic() - self._down_since,
            )

    def note_down(self, problem: BaseException) -> None:
        """Mark the backend as unhealthy. Only a change is logged."""
        if self._is_up.is_set():
            self._is_up.clear()
            self._down_since = monotonic()
            logger.error("The broadcast at %s does not work: %s", self.name, problem)


def backend_for(url: str) -> Callable[..., Backend]:
    """Return the backend class for the scheme of a URL.

    :raises ValueError: if there is no backend for the scheme.
    """
    scheme = urlsplit(url).scheme
    if scheme in _BUILT_IN:
        return _load(_BUILT_IN[scheme])
    for entry_point in entry_points(group=ENTRY_POINTS, name=scheme):
        backend: Callable[..., Backend] = entry_point.load()
        return backend
    raise ValueError(
        f"there is no broadcast backend for {f'{scheme}://' if scheme else 'an empty scheme'}; the"
        f" built-in ones are {', '.join(f'{known}://' for known in _BUILT_IN)}, and packages may"
        f" add others with an entry point of the group {ENTRY_POINTS}"
    )


def _load(path: str) -> Callable[..., Backend]:
    module, _, name = path.partition(":")
    backend: Callable[..., Backend] = getattr(importlib.import_module(module), name)
    return backend


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
