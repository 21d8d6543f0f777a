"""Restart the serving process when a file has changed."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

from .application import find_module
from .errors import UsageError
from .listeners import close_listeners, open_listeners
from .settings import Settings

#: Seconds in which the old process must close its WebSockets. Short, because a developer waits.
STOP_TIMEOUT = 1
#: Milliseconds between two looks at the changes.
_POLL = 100

#: Starts the serving process, with the descriptors of the listening sockets.
Start: TypeAlias = Callable[[list[int]], "subprocess.Popen[bytes]"]


def serve_and_reload(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM arrives; return the exit status.

    :raises UsageError: if watchfiles is not installed, or an address or a directory cannot be used.
    """
    find_module(settings.app)
    for directory in settings.reload_dir:
        if not os.path.isdir(directory):
            raise UsageError(f"--reload-dir: there is no directory {directory}")
    start = functools.partial(_start, settings)
    start_and_restart(settings.bind, start, settings.reload_dir or ["."])
    return 0


def start_and_restart(addresses: list[str], start: Start, folders: list[str]) -> None:
    """Start a process, and another one after each change of a Python file.

    Blocks until SIGINT or SIGTERM arrives. The sockets are opened once, in this process. A client
    that connects during a restart waits, and is not refused.

    :param folders: watched, with all folders below.
    :raises UsageError: if watchfiles is not installed, or an address cannot be used.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise UsageError("reloading needs watchfiles: pip install 'geventws[cli]'") from None
    listeners = open_listeners(addresses)
    numbers = [listener.fileno() for listener in listeners]
    signal.signal(signal.SIGTERM, _interrupt)
    child = None
    try:
        for changes in watch(
            *folders, watch_filter=PythonFilter(), rust_timeout=_POLL, yield_on_timeout=True
        ):
            if child is not None:
                if not changes:
                    continue
                names = sorted({os.path.relpath(path) for _, path in changes})
                print(f"Reloading: {', '.join(names)} changed", file=sys.stderr, flush=True)
                _stop(child)
            # The first time, the folders are watched by now: no later change is missed.
            child = start(numbers)
    except KeyboardInterrupt:
        pass  # Ctrl-C, or SIGTERM
    finally:
        if child is not None:
            _stop(child)
        close_listeners(listeners, addresses)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _start(settings: Settings, numbers: list[int]) -> subprocess.Popen[bytes]:
    child_settings = dataclasses.replace(settings, graceful_timeout=STOP_TIMEOUT)
    command = [
        sys.executable,
        *_warnings(),
        "-m",
        __package__.partition(".")[0],
        settings.app,
        *child_settings.arguments([f"fd://{number}" for number in numbers]),
        *child_settings.own_arguments(),
        "--workers",
        "1",
    ]
    return subprocess.Popen(command, pass_fds=numbers)  # noqa: S603 - the same program


def _warnings() -> list[str]:
    """Return the ``-W`` options of this process."""
    return [part for option in sys.warnoptions for part in ("-W", option)]


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
