"""The format of messages in PostgreSQL.

- :mod:`.bodies` describes the bodies that are stored.
- A notification has fields that are separated by spaces. ``m``, id, name and body are a message.
  ``r``, id, name and "channel:number" refer to a stored body that is too large for a notification.
  The id is ``-`` for a message that is not kept. Names and bodies are in base64, because a
  notification must be text in the encoding of the database.
- ``v``, a name and lines are a change of the members of a channel (:mod:`.members`).
- ``c``, a number and a name ask every process for its number of sockets in a channel.
- ``e`` and a number are a mark that a process sends to itself: everything that was published before
  has arrived.
- A process listens to a notification channel for each group of channels in which it has
  subscribers, and to :data:`CONTROL`. PostgreSQL passes each notification to the processes that
  listen to its channel, and searches a list of all channels of a process for it. So a group per
  channel would be slow with many channels, and one group for all would wake every process.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from .backend import Message, parse_id
from .bodies import decode_body

GROUPS = 256
#: The notification channel for questions to all processes.
CONTROL = "geventws"
#: The epoch of a channel, and the number of a message in it.
Id = tuple[int, int]
#: The channel and the number of a stored body.
Reference = tuple[int, int]


class Notification(NamedTuple):
    """A message that was published, or the reference to it."""

    channel: str
    id: Id | None
    #: Kind and data; ``None`` if they must be read.
    body: bytes | None
    reference: Reference | None


class Question(NamedTuple):
    """The question how many sockets a process has in a channel."""

    request: int
    channel: str


class MembersChange(NamedTuple):
    """A change of the members of a channel."""

    channel: str
    change: str


class Mark(NamedTuple):
    """Everything that was published before it has arrived."""

    number: int


def group_of(channel: str) -> str:
    """Return the name of the notification channel for a channel."""
    return f"{CONTROL}_{crc32(channel.encode()) % GROUPS:02x}"


def message_of(channel: str, id_: Id | None, body: bytes) -> Message | None:
    """Return a message; ``None`` if another program has written it."""
    decoded = decode_body(body[:1], body[1:])
    if decoded is None:
        return None
    data, excluded = decoded
    return Message(channel, data, None if id_ is None else text_of(id_), excluded)


def encode_question(question: Question) -> str:
    name = b2a_base64(question.channel.encode(), newline=False).decode()
    return f"c {question.request} {name}"


def encode_mark(mark: Mark) -> str:
    return f"e {mark.number}"


def decode(payload: bytes) -> Notification | Question | MembersChange | Mark | None:
    """Return the meaning of a notification; ``None`` if another program has sent it."""
    try:
        if payload.startswith(b"v "):
            _, name, change = payload.split(b" ", 2)
            return MembersChange(a2b_base64(name).decode(), change.decode("ascii"))
        kind, number, *fields = payload.split(b" ")
        if kind == b"e":
            return Mark(int(number))
        channel = a2b_base64(fields[0]).decode()
        if kind == b"c":
            return Question(int(number), channel)
        id_ = None if number == b"-" else parse_id(number.decode())
        if id_ is None and number != b"-":
            return None
        if kind == b"m":
            return Notification(channel, id_, a2b_base64(fields[1]), None)
        if kind == b"r":
            stored_channel, _, stored_number = fields[1].partition(b":")
            return Notification(channel, id_, None, (int(stored_channel), int(stored_number)))
    except (IndexError, ValueError):
        pass  # not in this format
    return None


def text_of(id_: Id) -> str:
    return "{}-{}".format(*id_)


def array_of_names(names: Iterable[str]) -> bytes:
    """Return channels, or other strings, as an array of ``bytea``."""
    return b"{%s}" % b",".join(b'"\\\\x%s"' % name.encode().hex().encode() for name in names)


def array_of_numbers(numbers: Iterable[int]) -> bytes:
    """Return an array of ``bigint``."""
    return b"{%s}" % b",".join(b"%d" % number for number in numbers)
