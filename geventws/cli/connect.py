"""``geventws connect URL``: talk to a server by hand."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from time import monotonic
from typing import Any

from gevent import get_hub, sleep

from ..client.client import ClientWebSocket
from ..client.client import connect as open_websocket
from ..exceptions import ConnectionClosed, HandshakeError
from .errors import UsageError

_HISTORY = "~/.geventws_history"
#: How long, in seconds, to listen for the last answers after the end of a pipe.
_LINGER = 0.5
#: How many seconds the person's thread has to take notice of the end.
_NOTICE = 0.05
_HELP = "/ping [DATA], /close [CODE [REASON]], /help; every other line is sent as a text message"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the parser what this command takes."""
    add = parser.add_argument
    add("url", metavar="URL", help="ws://… or wss://…")
    add(
        "--header",
        "-H",
        metavar="NAME: VALUE",
        action="append",
        default=[],
        help="a header of the request; may be given several times",
    )
    add("--origin", help="the header Origin")
    add(
        "--subprotocol",
        metavar="NAME",
        action="append",
        default=[],
        help="a subprotocol to offer; may be given several times",
    )
    add("--json", action="store_true", help="print messages that are JSON on several lines")


def open_from(options: argparse.Namespace) -> ClientWebSocket:
    """The WebSocket that the arguments describe.

    :raises UsageError: when it cannot be opened, in one sentence.
    """
    headers = []
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise UsageError(f"{header!r} is not of the form NAME: VALUE")
        headers.append((name.strip(), value.strip()))
    try:
        return open_websocket(
            options.url, headers=headers, origin=options.origin, subprotocols=options.subprotocol
        )
    except ValueError as problem:
        raise UsageError(str(problem)) from problem
    except HandshakeError as problem:
        why = problem.status or problem.body.decode(errors="replace")
        raise UsageError(f"cannot open {options.url}: {why}") from problem
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise UsageError(f"cannot open {options.url}: {why}") from problem


def talk(options: argparse.Namespace) -> int:
    """Send what is typed and print what comes, until either side closes; the exit status.

    The WebSocket lives in a thread of its own, since ``input()`` blocks this one.

    :raises UsageError: when it cannot be opened.
    """
    return _Conversation(options).run()


class _Conversation:
    """The person in the main thread, the server in another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._ws: ClientWebSocket
        self._failure: UsageError | None = None
        self._opened = threading.Event()
        self._ended = threading.Event()
        self._leaving = False
        self._is_over = False
        self._prompt = "> " if sys.stdin.isatty() else ""

    def run(self) -> int:
        signal.signal(signal.SIGUSR1, self._on_end)
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        try:
            return self._converse()
        finally:
            # A hub that still runs when the interpreter ends can crash it.
            self._is_over = True
            listener.join(1)

    def _converse(self) -> int:
        try:
            self._opened.wait()
            if self._failure is not None:
                raise self._failure
            self._read_lines()
            self._leaving = True
        except (EOFError, KeyboardInterrupt):
            # Ctrl-D, Ctrl-C, or the server has closed.
            self._leaving = True
            if not self._opened.is_set():
                raise
        if not self._prompt:
            self._ended.wait(_LINGER)
        self._ws.close()
        self._ended.wait(1)
        code, reason = self._ws.close_code, self._ws.close_reason
        self._say(f"closed with {code} {reason}".rstrip())
        return 0 if code == 1000 else 1

    # ------------------------------------------------------- in the main thread

    def _read_lines(self) -> None:
        readline = _readline() if self._prompt else None
        try:
            while not self._ended.is_set():
                line = input(self._prompt)
                try:
                    self._obey(line)
                except ValueError as problem:
                    self._say(str(problem))
                except ConnectionClosed:
                    return
        finally:
            if readline is not None:
                readline.write_history_file(os.path.expanduser(_HISTORY))

    def _obey(self, line: str) -> None:
        if not line.startswith("/"):
            self._ws.send(line)
            return
        command, *rest = line.split(maxsplit=1)
        argument = "".join(rest)
        if command == "/ping":
            self._ping(argument)
        elif command == "/close":
            code, _, reason = argument.partition(" ")
            self._leaving = True
            self._ws.close(int(code or 1000), reason)
            raise EOFError
        else:
            self._say(_HELP)

    def _ping(self, data: str) -> None:
        before = self._ws.latency
        self._ws.ping(data or f"{monotonic()}")
        deadline = monotonic() + 5
        while self._ws.latency == before and monotonic() < deadline:
            if self._ended.wait(0.01):
                return
        latency = self._ws.latency
        self._say(
            "no pong"
            if latency is None or latency == before
            else f"pong after {latency * 1000:.1f} ms"
        )

    def _on_end(self, *_: object) -> None:
        """The server has closed: there is no use in more input."""
        if not self._leaving:
            self._leaving = True
            raise EOFError

    # --------------------------------------------------- in the other thread

    def _listen(self) -> None:
        try:
            self._receive()
        finally:
            while not self._is_over:
                sleep(_NOTICE)  # this hub still has the other thread's calls to answer
            get_hub().destroy()

    def _receive(self) -> None:
        try:
            self._ws = open_from(self._options)
        except UsageError as failure:
            self._failure = failure
            return
        finally:
            self._opened.set()
        for message in self._ws:
            self._say(f"< {self._shown(message)}")
        self._ended.set()
        # The main thread is inside of input(). A signal that comes just before that waits for a key
        # to be pressed, so one may not be enough.
        while not self._leaving:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            sleep(_NOTICE)

    def _shown(self, message: str | bytes) -> str:
        if isinstance(message, bytes):
            return f"{len(message)} bytes: {message[:64].hex(' ')}{'…' * (len(message) > 64)}"
        if self._options.json:
            try:
                return json.dumps(json.loads(message), indent=2, ensure_ascii=False)
            except ValueError:
                pass  # then as it is
        return message

    def _say(self, text: str) -> None:
        if not self._prompt:
            print(text, flush=True)
            return
        readline: Any = sys.modules.get("readline")
        typed = readline.get_line_buffer() if readline and not self._leaving else ""
        again = "" if self._leaving else f"{self._prompt}{typed}"
        print(f"\r\x1b[K{text}\n{again}", end="", flush=True)


def _readline() -> Any:
    """The module, with the history of earlier conversations; None where there is none."""
    try:
        import readline  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    try:
        readline.read_history_file(os.path.expanduser(_HISTORY))
    except OSError:
        pass  # the first time
    readline.set_history_length(1000)
    return readline
