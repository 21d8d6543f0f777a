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
from gevent.queue import Queue
from gevent.server import StreamServer
from redis.crc import key_slot

from tests.support.tools import need, wait_until


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
        #: Seconds that data is on its way, in each direction.
        self.latency = 0.0
        #: The open connections, each with both of its ends.
        self.pairs: list[tuple[gevent_socket.socket, gevent_socket.socket]] = []
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
            for end in (near, far):  # as clients and servers do, for the sake of latency
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = near, far
            self.pairs.append(pair)
            with far:
                back = gevent.spawn(self.pass_on, far, near)
                self.pass_on(near, far)
                back.join()
            self.pairs.remove(pair)

    def pass_on(self, source: gevent_socket.socket, target: gevent_socket.socket) -> None:
        on_its_way = Queue()
        writer = gevent.spawn(self.write, on_its_way, target)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for what in [what for what in self.moments if what in data]:
                    self.moments.pop(what)()
                on_its_way.put((time.monotonic() + self.latency, data))
        on_its_way.put((0, b""))
        writer.join()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def write(self, on_its_way: Queue, target: gevent_socket.socket) -> None:
        with contextlib.suppress(OSError):
            for due, data in iter(on_its_way.get, (0, b"")):
                gevent.sleep(max(due - time.monotonic(), 0))
                target.sendall(data)

    def cut(self) -> None:
        """End all connections at once."""
        for pair in self.pairs:
            for end in pair:
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


def start_sentinel(start_redis, port, master_port, *lines):
    port = port or free_port()
    server = start_redis()
    server.kill()
    settings = server.folder / "sentinel.conf"
    monitor = f"sentinel monitor chat 127.0.0.1 {master_port} 1"
    settings.write_text("\n".join([f"port {port}", "bind 127.0.0.1", monitor, *lines, ""]))
    server.process = subprocess.Popen(
        [server.program, str(settings), "--sentinel"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers():
        with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port) as client:
            try:
                return client.ping()
            except redis.AuthenticationError:
                return True

    wait_until(answers)
    return port


SLOTS = (0, 8191), (8192, 16383)


def start_node(start_redis, bus, port=0):
    return start_redis("--cluster-enabled", "yes", "--cluster-port", str(bus), port=port)


class Cluster:
    """Two nodes, each with half of the slots."""

    def __init__(self, start_redis):
        buses = [free_port() for _ in SLOTS]
        self.nodes = nodes = [start_node(start_redis, bus) for bus in buses]
        self.clients = [node.client() for node in nodes]
        for client, slots in zip(self.clients, SLOTS, strict=True):
            client.execute_command("CLUSTER ADDSLOTSRANGE", *slots)
        self.clients[0].execute_command("CLUSTER MEET", "127.0.0.1", nodes[1].port, buses[1])
        self.ids = [client.execute_command("CLUSTER MYID").decode() for client in self.clients]
        wait_until(self.is_complete)

    def is_complete(self):
        infos = [client.execute_command("CLUSTER INFO") for client in self.clients]
        return all(
            info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == "16384"
            for info in infos
        )

    @property
    def url(self):
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{addresses}"

    def channels_of(self, node, count):
        """The names of channels that a node has."""
        first, last = SLOTS[node]
        names = (f"room-{number}" for number in range(1000))
        return [name for name in names if first <= key_slot(self.key(name)) <= last][:count]

    def move(self, channel, to):
        """Give a channel's slot, in which nothing is kept, to another node."""
        slot = key_slot(self.key(channel))
        for client in (self.clients[to], self.clients[1 - to]):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", self.ids[to])

    def key(self, channel):
        return f"geventws:{channel}".encode()

    def close(self):
        for client in self.clients:
            client.close()


@pytest.fixture
def cluster(start_redis):
    cluster = Cluster(start_redis)
    yield cluster
    cluster.close()
