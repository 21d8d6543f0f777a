"""What gevent-websocket needed to run on Python 2 as well."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

PY2 = False
PY3 = True
text_type = str
string_types = (str,)
range_type = range


def iteritems(mapping: Mapping[Any, Any]) -> Iterator[Any]:
    """The items of a mapping."""
    items: ItemsView[Any, Any] = mapping.items()
    return iter(items)
