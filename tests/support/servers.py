"""Servers for the tests: in the test's own process, or in processes of their own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import AsyncResult

import geventws
from geventws import WebSocketServer
from geventws.broadcast import backend
from geventws.connection import logs
from tests.support.client import RawClient

ROOT = Path(__file__).parents[2]
#: For tests of what the compiled core does on Linux only, such as the epoll set.
compiled_on_linux = pytest.mark.skipif(
    geventws.__core__ != "compiled" or sys.platform != "linux",
    reason="only the compiled core does this, on Linux",
)
SECONDS = 10  # what is waited for inside of a test's process takes less
#: The output of a server that accepts connections.
READY = r"(?:http|https)://127\.0\.0\.1:(\d+)|unix:(\S+)"
#: Every way in, and the command line that takes it.
WAYS = {
    "server": "-m tests.support.serve server",
    "handler": "-m tests.support.serve handler",
    "middleware": "-m tests.support.serve middleware",
    "cli": "-m geventws tests.support.apps:site --bind 127.0.0.1:0",
    "gunicorn-worker": "-m gunicorn -k geventws.Worker tests.support.apps:site",
    "gunicorn-gevent": "-m gunicorn -k gevent tests.support.serve:application",
    "gunicorn-pywsgi": "-m gunicorn -k gevent_pywsgi tests.support.serve:application",
}


class Process:
    """A server in a separate process. Its output is written to a file."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        cwd: Path = ROOT,
        ready: str = READY,
        **environment: str,
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-W", "ignore:Monkey", *arguments],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )
        try:
            found = self.wait_for(ready)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        if ready is READY:
            self.address = found[2] or ("127.0.0.1", int(found[1]))

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 15) -> re.Match:
        """Wait until the output has something; another process offers nothing to wait on."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.output)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"{pattern!r} did not come:\n{self.output}")
            gevent.sleep(0.02)
        return found

    def client(self, **options) -> RawClient:
        return RawClient(self.address, **options)

    def stop(self, signum: int = signal.SIGTERM, seconds: float = 15) -> int:
        """Signal it, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"it did not stop:\n{self.output}")
            gevent.sleep(0.02)
        return self.process.returncode


def arguments_of(way: str) -> list[str]:
    """The command line of a way in, with an access log."""
    arguments = WAYS[way].split()
    if way.startswith("gunicorn"):
        arguments += ["-b", "127.0.0.1:0", "--access-logfile", "-", "--graceful-timeout", "5"]
    return arguments


@contextlib.contextmanager
def serving(arguments: list[str], log: Path, **options) -> Iterator[Process]:
    """A :class:`Process` that is stopped in the end."""
    process = Process(arguments, log, **options)
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session", params=WAYS)
def way_in(request, tmp_path_factory) -> Iterator[Process]:
    """The tests' site, served every way in turn."""
    log = tmp_path_factory.mktemp(request.param) / "log"
    with serving(arguments_of(request.param), log) as process:
        process.way = request.param
        yield process


@pytest.fixture
def serve() -> Iterator[Callable[..., "LocalServer"]]:
    """``serve(app, **options)``: a server in the test's own process, stopped after the test."""
    servers = []

    def start(app, **options) -> LocalServer:
        server = LocalServer(("127.0.0.1", 0), app, **{"log": None, **options})
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop(1)


@pytest.fixture
def run(serve):
    """``run(view, **options)`` serves a view; returns a connected client and the view's result."""
    clients = []

    def start(view, path="/", headers=(), **options):
        result = AsyncResult()

        def app(environ, start_response):
            try:
                result.set(view(environ["wsgi.websocket"]))
            except BaseException as problem:
                result.set_exception(problem)
                raise
            return []

        client = serve(app, **options).client()
        clients.append(client)
        return client.open(path, headers), result

    yield start
    for client in clients:
        client.sock.close()


def wait_until(condition, what="it"):
    """Let the others run until something is true that has no event."""
    with gevent.Timeout(SECONDS, AssertionError(f"{what} did not happen")):
        while not condition():
            gevent.sleep(0.005)


@pytest.fixture(autouse=True)
def unthrottled() -> None:
    """Reset the limits of log lines, so that a test does not affect the next test."""
    logs.peers.reset()
    backend._dropped.reset()


class Counted:
    """An application that counts its calls that have not returned."""

    def __init__(self, application) -> None:
        self.application = application
        self.running = 0

    def __getattr__(self, name):
        return getattr(self.application, name)

    def __call__(self, environ, start_response):
        self.running += 1
        try:
            return self.application(environ, start_response)
        finally:
            self.running -= 1


class LocalServer(WebSocketServer):
    """A server with a client for it."""

    def __init__(self, listener, application, **options) -> None:
        super().__init__(listener, Counted(application), **options)

    def is_idle(self) -> bool:
        """Whether no view is running, and no connection waits for its end."""
        return not self.application.running and all(ws._is_detached for ws in self.websockets)

    def client(self, **options) -> RawClient:
        return RawClient(("127.0.0.1", self.server_port), **options)
