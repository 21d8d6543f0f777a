"""External programs that tests run: missing ones fail on CI and are skipped elsewhere."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

LOCKS = Path(__file__).parents[2] / "build" / "locks"
#: How long an installation may take, in seconds; the time limit of a test includes its fixtures.
INSTALL_SECONDS = 50
#: Nothing that a test waits for takes so long.
SECONDS = 15


def need(program: str, install: str) -> str:
    """The path of ``program``; without it the test is skipped, or fails on CI."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        missing(f"{program} is not installed: {install}")
    assert path is not None
    return path


def missing(reason: str) -> None:
    """Skip the test for want of a tool; on CI, where all tools must be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Keep the other processes of pytest-xdist out: all of them install into the same folders.

    The kernel unlocks the file when a process ends, however it ends.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in another process, which offers nothing to wait on."""
    with gevent.Timeout(SECONDS, AssertionError("it did not happen")):
        while not condition():
            gevent.sleep(0.02)
