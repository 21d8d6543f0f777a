"""Child processes that outlive neither the block that started them nor a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def running(
    command: Sequence[str | Path], seconds: float, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run ``command`` until the block ends or ``seconds`` have passed.

    The command runs in a new session, which SIGKILL ends: no compiler outlives its pip. Nothing
    here has data to save.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options
    ) as process:
        limit = threading.Timer(seconds, _kill, [process])
        try:
            limit.start()
            yield process
        finally:
            limit.cancel()
            _kill(process)
            process.wait()


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
