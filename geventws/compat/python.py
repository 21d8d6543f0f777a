"""``geventwebsocket._compat``: names that gevent-websocket used for Python 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

PY2 = False
PY3 = True
text_type = str
string_types = (str,)
range_type = range


def iteritems(mapping: Mapping[Key, Value]) -> Iterator[tuple[Key, Value]]:
    """Return an iterator over the items of a mapping."""
    return iter(mapping.items())
