"""The format of messages in Redis.

- The Redis channel of a channel is ``geventws:`` and its name. Its history is a stream with the
  same key, so that a cluster stores it on the same node.
- A published message is one byte for its kind, its id, a space, and the data.
- A stream entry has one field, ``m``: one byte for the kind, and the data.
- A process that counts subscribers publishes one byte and the key of a list. Every subscribed
  process pushes its number to that list.
"""

from __future__ import annotations

from collections.abc import Mapping

from .backend import Message, parse_id

PREFIX = "geventws:"
#: The prefix of the keys of lists for numbers of subscribers.
REPLY_PREFIX = f"{PREFIX}reply:"
#: The kinds of published messages.
TEXT, BINARY, COUNT = b"\x01", b"\x02", b"\x03"


def key_of(channel: str) -> str:
    """Return the key of a channel's stream, which is also the name of its Redis channel."""
    return PREFIX + channel


def channel_of(key: bytes) -> str:
    """Return the channel of a key."""
    return key.decode()[len(PREFIX) :]


def encode_body(data: str | bytes) -> bytes:
    """Return the kind and the data of a message."""
    return TEXT + data.encode() if isinstance(data, str) else BINARY + data


def decode_published(channel: str, data: bytes) -> Message | None:
    """Return a message that was published; ``None`` if another program has published it."""
    kind = data[:1]
    id_, _, payload = data[1:].partition(b" ")
    return _decode(channel, kind, payload, id_)


def decode_entry(channel: str, id_: bytes, fields: Mapping[bytes, bytes]) -> Message | None:
    """Return a message of the history; ``None`` if another program has stored the entry."""
    body = fields.get(b"m", b"")
    return _decode(channel, body[:1], body[1:], id_)


def _decode(channel: str, kind: bytes, payload: bytes, id_: bytes) -> Message | None:
    if kind not in {TEXT, BINARY}:
        return None
    try:
        data = payload.decode() if kind == TEXT else payload
        return Message(channel, data, id_.decode() or None)
    except UnicodeDecodeError:
        return None


def order_of(id_: str) -> tuple[int, int]:
    """Return the two numbers of an id, for comparisons; zeros for an invalid id."""
    return parse_id(id_) or (0, 0)
