"""The members of a channel: their limits, their format in a backend, and :class:`Roster`.

An *entry* is one subscription with a member. Its id is "process:number"; its text is JSON in one
line of ASCII, the array ``[key, member]``. Entries with the same key are one member.

Each change of a channel's entries has a version, which is one more than the version before it. A
backend sends it to all processes as lines: the version, then ``+id text`` for each new entry and
``-id`` for each removed one. A version without lines says that the change was too large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

#: The maximum length of a key and of a member, in bytes of JSON in ASCII.
MAX_KEY, MAX_MEMBER = 256, 4096
#: The maximum depth of a member. Every process must be able to decode it, and the module json needs
#: a part of the stack for each level.
MAX_DEPTH = 100
_TOO_DEEP = f"the member of a subscription must be nested at most {MAX_DEPTH} levels deep"
#: The maximum number of entries of a process in one channel.
MAX_ENTRIES = 10_000
#: The versions of two epochs, before and after the backend has lost a channel, differ by more.
_EPOCH = 1_000_000


class Update(NamedTuple):
    """What a process tells the backend about its entries in a channel."""

    #: 16 hexadecimal digits.
    process: str
    #: The number of the process's update before this one; 0 if ``changes`` are all its entries.
    base: int
    #: The number of this update, greater than those before it.
    number: int
    #: The texts of new entries, and ``None`` for removed ones, by their numbers.
    changes: Mapping[int, str | None]
    #: Whether the process has entries after this update.
    has_entries: bool
    #: Seconds after which the backend forgets the process, unless there is another update.
    lease: float
    #: The latest version that the process knows; ``None`` if it needs no entries.
    known: int | None


class State(NamedTuple):
    """What the backend answers to an :class:`Update`."""

    version: int
    #: ``version text`` of all entries, by id; ``None`` if the process knew the version before.
    entries: Mapping[str, str] | None


class Difference(NamedTuple):
    """The texts of members, by key, that have joined, changed or left."""

    joined: dict[str, str]
    changed: dict[str, str]
    left: dict[str, str]


class PresenceEvent:
    """News about the members of a channel; see :meth:`geventws.Broadcast.subscribe`."""

    __slots__ = ("_texts", "channel", "kind")

    def __init__(self, channel: str, kind: str, texts: Iterable[str]) -> None:
        self.channel = channel
        #: ``"members"``: these are all members. ``"joined"``, ``"changed"`` or ``"left"``: these
        #: members did so since the event before.
        self.kind = kind
        self._texts = list(texts)

    # Any: the application decides what a member is.
    @property
    def members(self) -> dict[str, Any]:
        """The members by key, in the order of their arrival."""
        return dict(map(json.loads, self._texts))

    def to_json(self) -> str:
        """Return the event as JSON. ``members`` is an array of arrays of key and member."""
        return f'{{"type": "{self.kind}", "members": [{", ".join(self._texts)}]}}'


def encode_member(key: str, member: object) -> str:
    """Return the text of an entry.

    :raises TypeError: if the key is no ``str``, or JSON does not have the type of the member.
    :raises ValueError: if one of them is too long, or the member is nested too deeply, or has a
        number that is not finite.
    """
    if not isinstance(key, str):
        raise TypeError(f"the key of a member is a str, not {type(key).__name__}")
    texts = []
    for name, value, limit in (("key", key, MAX_KEY), ("member", member, MAX_MEMBER)):
        try:
            texts.append(json.dumps(value, allow_nan=False))
        except RecursionError:
            raise ValueError(_TOO_DEEP) from None
        if len(texts[-1]) > limit:
            raise ValueError(
                f"the {name} of a subscription must have at most {limit:,} bytes of JSON, not"
                f" {len(texts[-1]):,}"
            )
    if _depth(texts[-1]) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    return f"[{', '.join(texts)}]"


def _depth(text: str) -> int:
    """Return how deeply arrays and objects are nested in JSON."""
    brackets = re.sub(r'"(?:\\.|[^"\\])*"|[^][{}]', "", text)
    return max(accumulate(1 if it in "[{" else -1 for it in brackets), default=0)


def decode_change(payload: str) -> tuple[int, list[str]]:
    """Return the version and the lines of a change.

    :raises ValueError: if another program has written it.
    """
    version, *lines = payload.split("\n")
    return int(version), lines


def encode_change(version: int, lines: Sequence[str]) -> str:
    return "\n".join([str(version), *lines])


class Roster:
    """The entries of a channel, as far as this process knows them, and the members.

    The latest entry of a key decides what its member is.
    """

    __slots__ = ("_before", "_entries", "_ids", "version")

    def __init__(self) -> None:
        #: ``None`` if changes are missing.
        self.version: int | None = None
        #: The keys and the texts by id.
        self._entries: dict[str, tuple[str, str]] = {}
        #: The ids by key, both in the order of their arrival.
        self._ids: dict[str, list[str]] = {}
        #: The texts of members before their first change since :meth:`take_difference`, by key.
        self._before: dict[str, str | None] = {}

    def __contains__(self, id_: str) -> bool:
        return id_ in self._entries

    def texts(self) -> Iterator[str]:
        """Return the texts of the members, in the order of their arrival."""
        return (self._entries[ids[-1]][1] for ids in self._ids.values())

    def has_reached(self, version: int) -> bool:
        """Whether a change is known already, or belongs to an earlier epoch."""
        return self.version is not None and -_EPOCH < version - self.version <= 0

    def is_ahead(self, version: int) -> bool:
        """Whether a change will follow the known ones."""
        return self.version is None or 0 < version - self.version < _EPOCH

    def apply(self, version: int, lines: Iterable[str]) -> None:
        """Apply the change after the latest known one."""
        self.version = version
        for line in lines:
            id_, _, text = line[1:].partition(" ")
            if line[0] == "+":
                self._add(id_, text)
            else:
                self._remove(id_)

    def load(self, version: int, entries: Mapping[str, str]) -> None:
        """Replace all entries."""
        self.version = version
        for id_ in list(self._entries):
            self._remove(id_)
        # Of one process, older entries have smaller numbers.
        added = sorted(
            (int(since), int(id_.partition(":")[2]), id_, text)
            for id_, entry in entries.items()
            for since, _, text in [entry.partition(" ")]
        )
        for _, _, id_, text in added:
            self._add(id_, text)

    def take_difference(self) -> Difference:
        """Return the difference since the last call."""
        before, self._before = self._before, {}
        difference = Difference({}, {}, {})
        for key, text in before.items():
            now = self._text_of(key)
            if text is None and now is not None:
                difference.joined[key] = now
            elif text is not None and now is None:
                difference.left[key] = text
            elif text is not None and now is not None and text != now:
                difference.changed[key] = now
        return difference

    def _text_of(self, key: str) -> str | None:
        ids = self._ids.get(key)
        return self._entries[ids[-1]][1] if ids else None

    def _add(self, id_: str, text: str) -> None:
        key: str = json.loads(text)[0]
        self._before.setdefault(key, self._text_of(key))
        self._entries[id_] = key, text
        self._ids.setdefault(key, []).append(id_)

    def _remove(self, id_: str) -> None:
        if id_ not in self._entries:
            return
        key = self._entries[id_][0]
        self._before.setdefault(key, self._text_of(key))
        del self._entries[id_]
        ids = self._ids[key]
        ids.remove(id_)
        if not ids:
            del self._ids[key]


def members_of(entries: Mapping[str, str]) -> dict[str, Any]:
    """Return the members of all entries, by key."""
    roster = Roster()
    roster.load(0, entries)
    return dict(map(json.loads, roster.texts()))
