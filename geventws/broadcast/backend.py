"""What carries messages from process to process: six verbs, chosen by the scheme of a URL.

A backend of your own (NATS, Kafka, PostgreSQL) is a subclass of :class:`Backend`, announced by an
entry point of the group ``geventws.broadcast`` that is named like its URLs' scheme::

    [project.entry-points."geventws.broadcast"]
    nats = "my_package:NatsBackend"

``Broadcast("nats://…")`` then finds it.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import entry_points
from sys import getsizeof
from time import monotonic
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from gevent.event import Event

from ..connection.logs import Throttle
from ..protocol.frames import encode_text

logger = logging.getLogger("geventws.broadcast")
#: For messages that an envelope spoils: clients may choose how many there are.
_spoiled = Throttle(target=logger)


def log_spoiled(channel: str) -> None:
    """Log, with the exception that is handled, that a message has been dropped."""
    _spoiled.log(
        logging.ERROR, "A message of %.200r cannot be sent and was dropped", channel, exc_info=True
    )


ENTRY_POINTS = "geventws.broadcast"
_REDIS = "geventws.broadcast.redis:RedisBackend"
#: Those that come along; imported on first use, since what they need is optional.
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
    """What was published. The channel and the data can be encoded in UTF-8."""

    channel: str
    data: str | bytes
    #: By which a client resumes, printable ASCII; ``None`` where no history is kept.
    id: str | None


#: What a message costs in bytes beside its data: the tuple, the id, its place in a queue.
_OVERHEAD = 150


def size_of(message: Message) -> int:
    """How much memory a message takes, in bytes: an empty one takes some, too."""
    return getsizeof(message.data) + _OVERHEAD


class History(NamedTuple):
    """What a channel remembers."""

    messages: list[Message]
    #: Whether it is certain that no message between the one asked for and the first is missing.
    complete: bool


class Local(Protocol):
    """The process's own side of a channel, as a backend sees it."""

    def deliver(self, message: Message) -> None:
        """Pass a message on to those who listen here; never blocks, never raises.

        May be called in any thread; messages arrive in the order of the calls.
        """

    def count(self, channel: str) -> int:
        """How many sockets are subscribed here."""


class Backend(ABC):
    """Carries the messages of one :class:`~geventws.Broadcast`.

    What a backend promises: messages of one publisher arrive in their order, and those of a
    channel with history in the order of their ids, everywhere the same. What it cannot do for the
    moment raises :exc:`~geventws.BroadcastError` after a bounded wait; a broken connection comes
    back by itself, with its subscriptions.

    :param url: as given to ``Broadcast``.
    :param local: where messages go that come in.
    :param history: how many messages of a channel are kept; 0 for none.
    :param history_ttl: for how many seconds after its latest message a channel's history is kept.
    """

    def __init__(self, url: str, local: Local, history: int, history_ttl: float) -> None:
        self.local = local
        self.history_size = history
        self.history_ttl = history_ttl
        parts = urlsplit(url)
        #: How the log calls it: without the password.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._is_up = Event()
        self._is_up.set()
        self._down_since = 0.0

    # -------------------------------------------------------------- the verbs

    @abstractmethod
    def publish(self, channel: str, data: str | bytes, keep: bool) -> str | None:
        """Send a message to all processes, this one included; returns its id, if it has one.

        It has one if it goes into the history: if there is one, and ``keep`` says so.

        May be called in any thread, and in a process that subscribes to nothing.
        """

    @abstractmethod
    def subscribe(self, channel: str) -> None:
        """Deliver the channel's messages from now on, until :meth:`unsubscribe`.

        Blocks until that is certain, for a bounded time. If the connection is broken, returns all
        the same: the subscription takes effect when it is back. Twice is as good as once.
        """

    @abstractmethod
    def unsubscribe(self, channel: str) -> None:
        """The last who listened here has gone. Neither blocks nor raises."""

    @abstractmethod
    def history(self, channel: str, since: str | None) -> History:
        """What is kept of a channel, or what came after the message with the id ``since``.

        ``since`` may come from a client and be anything: an unknown id gives what is kept behind
        it, or all, and is not ``complete``.

        With ``since``, and if the process is subscribed to the channel, all of it and of what was
        published before has been passed to :meth:`Local.deliver` when this returns.
        """

    @abstractmethod
    def subscribers(self, channel: str) -> int:
        """How many sockets are subscribed in all processes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; nothing is called after this."""

    # ------------------------------------------------------------------ health

    @property
    def healthy(self) -> bool:
        """Whether it works, as far as is known."""
        return self._is_up.is_set()

    def wait_until_healthy(self) -> None:
        """Block until it works."""
        self._is_up.wait()

    def note_up(self) -> None:
        """It works; the log hears of it once."""
        if not self._is_up.is_set():
            self._is_up.set()
            logger.warning(
                "The broadcast at %s works again, after %.1f seconds",
                self.name,
                monotonic() - self._down_since,
            )

    def note_down(self, problem: BaseException) -> None:
        """It does not work; the log hears of it once."""
        if self._is_up.is_set():
            self._is_up.clear()
            self._down_since = monotonic()
            logger.error("The broadcast at %s does not work: %s", self.name, problem)


def backend_for(url: str) -> Callable[..., Backend]:
    """The class that the scheme of a URL names.

    :raises ValueError: when there is none.
    """
    scheme = urlsplit(url).scheme
    if scheme in _BUILT_IN:
        return _load(_BUILT_IN[scheme])
    for found in entry_points(group=ENTRY_POINTS, name=scheme):
        backend: Callable[..., Backend] = found.load()
        return backend
    raise ValueError(
        f"there is no broadcast for {scheme or 'an empty scheme'}://, only for"
        f" {', '.join(f'{known}://' for known in _BUILT_IN)} and for what packages add"
    )


def _load(path: str) -> Callable[..., Backend]:
    module, _, name = path.partition(":")
    found: Any = getattr(importlib.import_module(module), name)
    backend: Callable[..., Backend] = found
    return backend


#: The longest name of a channel, in bytes of UTF-8. Names are keys here and in the backend, and
#: views often take them from clients.
MAX_CHANNEL = 1024


def check_channel(channel: str) -> None:
    """See that a channel can have this name.

    :raises ValueError: if not.
    """
    if not isinstance(channel, str) or not channel:
        raise ValueError(f"a channel is named by a string that is not empty, not {channel!r:.100}")
    size = len(channel)
    if size <= MAX_CHANNEL and not channel.isascii():
        size = len(encode_text(channel, "a channel's name"))
    if size > MAX_CHANNEL:
        raise ValueError(f"the name of a channel has at most {MAX_CHANNEL:,} bytes of UTF-8")


#: Redis's own limit for each half of an id.
_LARGEST = 1 << 64


def parse_id(text: str) -> tuple[int, int] | None:
    """An id of the form that memory and Redis share, "milliseconds-number", as numbers."""
    milliseconds, _, number = text.partition("-")
    if not (text.isascii() and milliseconds.isdecimal() and number.isdecimal()):
        return None
    if len(text) > 41:  # two numbers of 64 bits
        return None
    parsed = int(milliseconds), int(number)
    return parsed if max(parsed) < _LARGEST else None
