"""The backends by the scheme of their URLs.

A package adds a backend with an entry point in the group ``geventws.broadcast``; the name of the
entry point is the URL scheme::

    [project.entry-points."geventws.broadcast"]
    nats = "my_package:NatsBackend"

Then ``Broadcast("nats://…")`` uses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from .backend import Backend

ENTRY_POINTS = "geventws.broadcast"
_REDIS = "geventws.broadcast.redis:RedisBackend"
_POSTGRESQL = "geventws.broadcast.postgresql:PostgreSQLBackend"
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
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
}


# Any: a client of redis-py, which is optional.
def backend_for(url: str | Any) -> Callable[..., Backend]:
    """Return the backend class for the scheme of a URL, or for a client of redis-py.

    :raises ValueError: if there is no backend for the scheme.
    """
    if not isinstance(url, str):
        return _load(_REDIS)
    scheme = urlsplit(url).scheme
    if scheme in _BUILT_IN:
        return _load(_BUILT_IN[scheme])
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow, and rarely needed

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
