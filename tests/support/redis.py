"""Redis servers for the tests: their own, on free ports, in temporary directories."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
import redis
from gevent import socket as gevent_socket
from gevent.server import StreamServer

from tests.support.tools import need


class RedisServer:
    """One ``redis-server``, which can be killed, stopped for a while, and started again."""

    def __init__(self, program: str, *arguments: str, port: int = 0) -> None:
        self.program = program
        self.arguments = arguments
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="redis"))
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.folder.joinpath("log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.program,
                    "--port",
                    str(self.port),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--dir",
                    str(self.folder),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while b"Ready to accept connections" not in self._new_log():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(self.folder.joinpath("log").read_text())
            gevent.sleep(0.01)

    def _new_log(self) -> bytes:
        log = self.folder.joinpath("log").read_bytes()
        return log[log.rfind(b"oO0OoO0OoO0Oo") :]

    def client(self, **options) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, **options)

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder)


class Gateway(StreamServer):
    """A way to a Redis server, on which something may happen at a chosen moment."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(("127.0.0.1", 0), self.connect)
        self.redis = server
        self.is_open = True
        self.moments: dict[bytes, Callable[[], object]] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_port}"

    def before(self, what: bytes, act: Callable[[], object]) -> None:
        """Do something, once, before bytes are passed on that have ``what`` in them."""
        self.moments[what] = act

    def connect(self, near: gevent_socket.socket, _: object) -> None:
        if not self.is_open:
            return
        with contextlib.suppress(OSError):
            far = gevent_socket.create_connection(("127.0.0.1", self.redis.port))
            with far:
                back = gevent.spawn(self.pass_on, far, near)
                self.pass_on(near, far)
                back.join()

    def pass_on(self, source: gevent_socket.socket, target: gevent_socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for what in [what for what in self.moments if what in data]:
                    self.moments.pop(what)()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Gateway":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """``start_redis(*arguments)``: a server of the test's own."""
    program = need("redis-server", "apt-get install redis-server")
    servers = []

    def start(*arguments: str, port: int = 0) -> RedisServer:
        server = RedisServer(program, *arguments, port=port)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that leave it running."""
    server = RedisServer(need("redis-server", "apt-get install redis-server"))
    server.start()
    yield server
    server.remove()
