"""The format of messages in Redis.

- The Redis channel of a channel is ``geventws:`` and its name. Its history is a stream with the
  same key, so that a cluster stores it on the same node.
- A published message is the first byte of its body (:mod:`.bodies`), its id, a space, and the rest
  of the body.
- A stream entry has two fields: ``m`` is the body; ``p`` is the time in the id of the message
  before it. Entries without these fields belong to other programs.
- An id has the form "milliseconds-number". The number is 2\\ :sup:`32` times the *epoch*, plus the
  number of the message in its epoch, from 1 on. An epoch is a random number that is chosen when
  Redis knows no message of the channel: for the first one, and if Redis has lost its data. The
  number before a message's is therefore known, and a message of another epoch is never mistaken
  for it.
- Another key stores the id of the latest message. It outlives the stream: who has got the latest
  message has missed nothing. It begins with ``geventws:`` and the character DEL, which is doubled
  at the beginning of a channel's name.
- The entries of a channel's members (:mod:`.members`) are in a hash: the version and the text of
  each, by id. Another hash has the number of the latest update of each process, with the time until
  which its lease lasts, and the version. Both expire with the last lease.
- A change of the members is published as one byte and its lines.
- A process that counts subscribers publishes one byte and the key of a list. Every subscribed
  process pushes its number to that list.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from random import getrandbits
from typing import NamedTuple

from .backend import Message, parse_id
from .bodies import decode_body

PREFIX = "geventws:"
#: The prefix of the keys of lists for numbers of subscribers.
REPLY_PREFIX = f"{PREFIX}reply:"
#: The character after the prefix in the keys of latest ids.
_MARK = "\x7f"
#: Milliseconds after the end of a history until Redis forgets the latest id of the channel.
LATEST_TTL = 24 * 60 * 60 * 1000
#: The kind of a message that asks for the number of subscribers; no kind of a body.
COUNT = b"\x03"
#: The kind of a change of the members; no kind of a body.
CHANGE = b"\x06"
#: The beginning of a message that asks for the number of subscribers.
COUNT_REQUEST = COUNT + REPLY_PREFIX.encode()

#: The number of slots of a cluster. The slot of a key is its CRC modulo this.
_SLOTS = 16384
_EPOCH_SHIFT = 32
#: Lua counts exactly up to 2**53.
_EPOCH_BITS = 20
_is_id = re.compile(rb"\d{1,20}-\d{1,20}").fullmatch


class Entry(NamedTuple):
    """An entry of a stream: a message, and the id of the message before it."""

    message: Message
    id: str
    previous: str


def key_of(channel: str) -> str:
    """Return the key of a channel's stream, which is also the name of its Redis channel."""
    return f"{PREFIX}{_MARK}{channel}" if channel.startswith(_MARK) else PREFIX + channel


@lru_cache(maxsize=1024)
def channel_of(key: bytes) -> str:
    """Return the channel of a key."""
    channel = key.decode()[len(PREFIX) :]
    return channel[1:] if channel.startswith(_MARK) else channel


@lru_cache(maxsize=1024)
def latest_key_of(channel: str) -> str:
    """Return the key of the id of the latest message."""
    return _key_beside(channel, "")


def member_keys_of(channel: str) -> tuple[str, str]:
    """Return the keys of the entries of the members, and of the processes that have entries."""
    return _key_beside(channel, "e"), _key_beside(channel, "p")


def _key_beside(channel: str, kind: str) -> str:
    """Return a key of this kind that a cluster stores beside the stream."""
    key = key_of(channel)
    tag = _hash_tag(key)
    if tag != key:
        return f"{PREFIX}{_MARK}{kind}{{{tag}}}{channel}"
    if "}" not in key:
        return f"{PREFIX}{_MARK}{kind}{{{key}}}"
    # The key has a brace and no hash tag. Four characters lead to any slot.
    slot = crc_hqx(key.encode(), 0)
    beginning = f"{PREFIX}{_MARK}{kind}:{channel}:"
    # A CRC is linear: the rest is the CRC of the four characters by themselves.
    rest = slot ^ crc_hqx(bytes(4), crc_hqx(beginning.encode(), 0))
    return beginning + _endings()[rest % _SLOTS]


def _hash_tag(key: str) -> str:
    """Return the part of a key that decides about its slot in a cluster."""
    _, opening, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    return tag if opening and closing and tag else key


@lru_cache(maxsize=1)
def _endings() -> dict[int, str]:
    """Return four characters for each slot of a cluster."""
    endings = map("".join, product("@ABCDEFGHIJKLMNO", repeat=4))
    return {crc_hqx(ending.encode(), 0) % _SLOTS: ending for ending in endings}


def new_epoch() -> int:
    """Return the number before the first message of a new epoch."""
    return getrandbits(_EPOCH_BITS) + 1 << _EPOCH_SHIFT


def epoch_of(id_: str) -> int:
    """Return the epoch of an id; 0 for an id of another program."""
    return order_of(id_)[1] >> _EPOCH_SHIFT


def number_of(id_: str) -> int:
    """Return the number of a message in its epoch."""
    return order_of(id_)[1] & (1 << _EPOCH_SHIFT) - 1


def order_of(id_: str) -> tuple[int, int]:
    """Return the two numbers of an id, for comparisons; zeros for an invalid id."""
    return parse_id(id_) or (0, 0)


def decode_published(channel: str, data: bytes) -> Message | None:
    """Return a message that was published; ``None`` if another program has published it."""
    kind = data[:1]
    id_, space, payload = data[1:].partition(b" ")
    return _decode(channel, kind, payload, id_) if space and (not id_ or _is_id(id_)) else None


def decode_entry(channel: str, id_: bytes, fields: Mapping[bytes, bytes]) -> Entry | None:
    """Return an entry of a stream; ``None`` if another program has stored it."""
    body, time = fields.get(b"m", b""), fields.get(b"p", b"")
    message = _decode(channel, body[:1], body[1:], id_)
    if message is None or message.id is None or not time.isdigit():
        return None
    return Entry(message, message.id, f"{time.decode()}-{order_of(message.id)[1] - 1}")


def _decode(channel: str, kind: bytes, payload: bytes, id_: bytes) -> Message | None:
    decoded = decode_body(kind, payload)
    if decoded is None:
        return None
    data, excluded = decoded
    try:
        return Message(channel, data, id_.decode() or None, excluded)
    except UnicodeDecodeError:
        return None
