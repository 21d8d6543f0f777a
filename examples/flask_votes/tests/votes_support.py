"""The program as a person starts it, and clients for it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.sync.client import ClientConnection, connect

EXAMPLE = Path(__file__).parent.parent
PATIENCE = 10 * float(os.environ.get("TEST_TIME_FACTOR", "1"))  # seconds, for anything

# Also what a page must survive as a text: markup, quotes, an ampersand.
STORY = """
title: <i>Fish & "chips"</i>

[start] Two <b>doors</b>
A red one & a blue one.

* Take <u>the red</u> door -> red
* Take the blue door -> blue

[red] The red room
It is warm here.

* Back -> start

[blue] The blue room
It is the end.
"""


class Show:
    """The running program; it can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.story = folder / "story.txt"
        self.story.write_text(STORY)
        self.votes = folder / "votes.sqlite3"
        self._stderr = folder / "stderr.txt"
        self._port = "0"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._stderr.open("a") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "dev", "votes.py"],
                cwd=EXAMPLE,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.url, self.presenter_url = self._read_line(), self._read_line()
        if self._port == "0":
            self._port = str(urlsplit(self.url).port)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "BIND": "127.0.0.1",
            "PORT": self._port,
            "STORY": str(self.story),
            "VOTES": str(self.votes),
        }

    def _read_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
            watchdog.join()
        assert line, f"The program did not say its addresses: {self.errors()}"
        return line.split()[-1]

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, wait for the end, return the exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            status = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return status

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def errors(self) -> str:
        return self._stderr.read_text()

    def forget_errors(self, expected: str) -> None:
        """Take what is on stderr as right, if it says what is ``expected``."""
        assert expected in self.errors()
        self._stderr.write_text("")

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.presenter_url).query)["token"][0]

    def websocket_url(self, path: str) -> str:
        return self.url.replace("http:", "ws:") + path

    def audience(self, name: str) -> AbstractContextManager[ClientConnection]:
        """A connection of the browser ``name``."""
        return self.connect("live", f"votes_voter={name:x<22}")

    def presenter(self) -> AbstractContextManager[ClientConnection]:
        return self.connect("presenter/live", f"votes_presenter={self.token}")

    def connect(
        self, path: str, cookie: str, **options: Any
    ) -> AbstractContextManager[ClientConnection]:
        return connect(self.websocket_url(path), additional_headers={"Cookie": cookie}, **options)


Condition = Callable[[dict[str, Any]], bool]


def receive(ws: ClientConnection, condition: Condition = lambda _: True) -> dict[str, Any]:
    """The next message for which ``condition`` holds; states before it may be skipped."""
    deadline = time.monotonic() + PATIENCE
    while True:
        message: dict[str, Any] = json.loads(ws.recv(timeout=deadline - time.monotonic()))
        if condition(message):
            return message


def votes(*counts: int) -> Condition:
    return lambda state: [option["votes"] for option in state["options"]] == list(counts)


def heading(text: str) -> Condition:
    return lambda state: state["heading"] == text


def send(ws: ClientConnection, **command: object) -> None:
    ws.send(json.dumps(command))
