"""Lines that a user types, or that a pipe contains, while other lines are printed."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

_HISTORY = "~/.geventws_history"
#: The maximum number of lines that are read ahead of their use.
_MAX_AHEAD = 100


class Lines(Protocol):
    """Input in the main thread, and output of any thread."""

    def read(self) -> str:
        """Block until the next line.

        :raises EOFError: at the end of the input, and after :meth:`stop`.
        """

    def stop(self) -> None:
        """End the input. Never blocks, and may be called in any thread."""

    def print(self, text: str) -> None:
        """Print a line. May be called in any thread."""


def open_lines() -> Lines:
    """Return a prompt with history; without a terminal or prompt_toolkit, plain lines."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainLines()
    try:
        from prompt_toolkit.utils import is_dumb_terminal  # noqa: PLC0415 - an optional dependency
    except ImportError:
        print("A prompt with history needs prompt_toolkit: pip install 'geventws[cli]'")
        return PlainLines()
    return PlainLines() if is_dumb_terminal() else PromptLines()


class PlainLines:
    """Lines of standard input, which a thread reads: no signal can interrupt it on Windows."""

    def __init__(self) -> None:
        self._lines: Queue[str | None] = Queue(_MAX_AHEAD)
        self._is_stopped = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        # Not sys.stdin: at its exit, the interpreter would wait for the lock of this thread.
        with open(
            sys.stdin.fileno(), encoding=sys.stdin.encoding, errors="replace", closefd=False
        ) as file:
            for line in file:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def read(self) -> str:
        line = None if self._is_stopped else self._lines.get()
        if line is None:
            raise EOFError
        return line

    def stop(self) -> None:
        self._is_stopped = True
        with contextlib.suppress(Full):  # then read() does not wait
            self._lines.put_nowait(None)

    def print(self, text: str) -> None:
        print(printable_lines(text) if sys.stdout.isatty() else text, flush=True)


class PromptLines:
    """Lines that are typed at the prompt of prompt_toolkit. It runs asyncio in the main thread."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - an optional dependency

        self._session: PromptSession[str] = PromptSession(history=_history())
        self._is_stopped = False
        #: Lines that are printed above the prompt.
        self._output: deque[str] = deque()

    def read(self) -> str:
        try:
            return self._session.prompt("> ", pre_run=self._exit_if_stopped)
        finally:
            self._flush()

    def stop(self) -> None:
        self._is_stopped = True
        self._call_in_loop(self._exit_if_stopped)

    def print(self, text: str) -> None:
        self._output.append(printable_lines(text))
        if not self._call_in_loop(self._print_above):
            self._flush()

    def _call_in_loop(self, function: Any) -> bool:
        """Call a function in the loop of the prompt; return whether there is a prompt."""
        loop = self._session.app.loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            return False  # the loop was closed just now
        return True

    def _exit_if_stopped(self) -> None:
        app = self._session.app
        if self._is_stopped and app.future is not None and not app.future.done():
            app.exit(exception=EOFError())

    def _print_above(self) -> None:
        from prompt_toolkit.application import run_in_terminal  # noqa: PLC0415

        if self._output:
            run_in_terminal(self._flush)

    def _flush(self) -> None:
        with contextlib.suppress(IndexError):  # another thread has printed the last line
            while self._output:
                print(self._output.popleft(), flush=True)


def printable_lines(text: str) -> str:
    """Return the text for a terminal: without control characters of the peer."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)


def _history() -> History:
    """Return the stored history. Only the user may read the file: messages may be secrets."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415

    path = os.path.expanduser(_HISTORY)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
