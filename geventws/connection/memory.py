"""The memory of a process that is a server: allocators, and Python's garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

from ..protocol.reader import CORE

_libc = ctypes.CDLL(None) if os.name == "posix" else None
_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None) if sys.platform == "linux" else None
#: Parameters of mallopt(3), and their values in bytes.
_SETTINGS = {-1: 16 << 20, -3: 32 << 20}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
#: Environment variables by which a user chooses such settings.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
#: CPython 3.13 has another name for it.
_clear_caches = getattr(
    sys, "_clear_internal_caches", getattr(sys, "_clear_type_cache", lambda: None)
)


def keep_memory_for_messages() -> None:
    """Let glibc keep 16 MiB of free memory for the next large messages.

    By default, glibc returns the memory of a message of 256 KiB, and the kernel clears it for the
    next one: a seventh of the time per message. The setting is for the whole process, which must
    belong to the server. It has no effect if the user has chosen one by an environment variable.
    """
    if _mallopt is not None and os.environ.keys().isdisjoint(_VARIABLES):
        for parameter, value in _SETTINGS.items():
            _mallopt(parameter, value)


def keep_memory_for_greenlets() -> None:
    """Keep up to 1 MiB for the Python frames of the next greenlets, which CPython would return.

    The setting is for the whole process. Only the compiled core has it.
    """
    if CORE == "compiled":
        from ._malloc import keep_memory  # noqa: PLC0415 - only the compiled core has it

        keep_memory()


def exempt_application_from_collection() -> None:
    """Let the garbage collector pass over all objects that exist now.

    Modules and applications live as long as the process. A full collection stops all views, for
    0.3 ms per 1,000 objects.
    """
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Return free memory to the operating system. Takes half a millisecond for 1,000 connections.

    Two causes keep free memory in the process. gevent looks up ``stop`` on every watcher that ends
    in its own callback, by a new string each time; CPython's cache of attribute look-ups keeps
    hundreds of these strings, and each may occupy an arena of 1 MiB. The saved stacks of greenlets
    leave gaps that glibc keeps, 3 KiB a connection.
    """
    _clear_caches()
    if _malloc_trim is not None:
        _malloc_trim(0)
