"""Memory that many connections have used, and that is not given back by itself when they go."""

from __future__ import annotations

import ctypes
import os
import sys

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
#: CPython's own name for it changed with 3.13.
_clear_caches = getattr(
    sys, "_clear_internal_caches", getattr(sys, "_clear_type_cache", lambda: None)
)


def release_memory() -> None:
    """Give the system back what is free.

    gevent looks up ``stop`` on every watcher that ends in its own callback, by a new string each
    time. CPython's cache of such look-ups keeps hundreds of these, and each may be the last thing
    in an arena of 1 MiB. And what greenlets save of their stacks leaves holes that glibc would
    keep, 3 KiB a connection. Takes about half a millisecond for 1,000 of them.
    """
    _clear_caches()
    if _malloc_trim is not None:
        _malloc_trim(0)
