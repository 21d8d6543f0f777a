"""How a broadcast grows: gunicorn's workers share a Redis, one program publishes, all hear it.

Prints a table: deliveries a second, and the CPU time of a delivery. ``make fanout`` runs it.
"""
# ruff: noqa: S603, T201

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import lab
import psutil

from geventws import Broadcast

PATH = "/room"
SIZE = 128  # bytes of payload
FRAME = 4 + SIZE  # with its header, RFC 6455 section 5.2
IN_FLIGHT = 4  # messages; the next one is published when all subscribers have got the first
WARM_UP = 0.5
REQUEST = (
    f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


class Sample(NamedTuple):
    """The measurements of a few seconds."""

    deliveries: float  # a second
    worker_us: float  # CPU time of all workers for a delivery
    redis_us: float  # CPU time of Redis for a message


def main() -> None:
    options = parse_arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{lab.cpu_model()}, {os.cpu_count()} cores\n")
    print("| workers | subscribers | deliveries/s | µs a delivery | µs a message in Redis |")
    print("|---:|---:|---:|---:|---:|")
    for workers in options.workers:
        for subscribers in options.subscribers:
            samples = [
                measure(workers, subscribers, options.seconds) for _ in range(options.rounds)
            ]
            middle = Sample(*(median(figures) for figures in zip(*samples, strict=True)))
            print(
                f"| {workers} | {subscribers:,} | {middle.deliveries:,.0f}"
                f" | {middle.worker_us:.2f} | {middle.redis_us:.0f} |",
                flush=True,
            )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--subscribers", nargs="+", type=int, default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    return parser.parse_args()


def measure(workers: int, subscribers: int, seconds: float) -> Sample:
    """Start everything afresh, and let one program publish for a while."""
    with ExitStack() as stack:
        port, redis = stack.enter_context(running_redis())
        url = f"redis://127.0.0.1:{port}"
        address, gunicorn = stack.enter_context(running_workers(workers, url))
        audience = stack.enter_context(closing(Audience(address, subscribers)))
        broadcast = stack.enter_context(closing(Broadcast(url)))
        while broadcast.subscribers(PATH) < subscribers:
            time.sleep(0.05)
        return publish(broadcast, audience, gunicorn.children(), redis, seconds)


def publish(
    broadcast: Broadcast,
    audience: Audience,
    workers: Sequence[psutil.Process],
    redis: psutil.Process,
    seconds: float,
) -> Sample:
    message = bytes(SIZE)
    published = 0

    def publish_for(seconds: float) -> None:
        nonlocal published
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            broadcast.publish(PATH, message)
            published += 1
            audience.hear(published - IN_FLIGHT)

    publish_for(WARM_UP)
    audience.hear(published)
    heard, first = audience.heard, published
    worker_cpu, redis_cpu, begun = cpu(workers), cpu([redis]), time.monotonic()
    publish_for(seconds)
    audience.hear(published)
    took = time.monotonic() - begun
    deliveries = (audience.heard - heard) / FRAME
    return Sample(
        deliveries / took,
        (cpu(workers) - worker_cpu) / deliveries * 1e6,
        (cpu([redis]) - redis_cpu) / (published - first) * 1e6,
    )


def cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU time, from the scheduler's own account."""
    paths = [Path(f"/proc/{process.pid}/schedstat") for process in processes]
    return sum(int(path.read_text().split()[0]) for path in paths) / 1e9


class Audience:
    """Sockets that are subscribed, and read whatever comes."""

    def __init__(self, address: tuple[str, int], size: int) -> None:
        self.size = size
        self.heard = 0
        self._epoll = select.epoll()
        self._sockets = [self._subscribe(address) for _ in range(size)]
        self._by_number = {sock.fileno(): sock for sock in self._sockets}

    def _subscribe(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(address, timeout=30)
        sock.sendall(REQUEST)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        if b" 101 " not in head:
            raise SystemExit(head.decode())
        sock.setblocking(False)
        self._epoll.register(sock, select.EPOLLIN)
        return sock

    def hear(self, messages: int) -> None:
        """Read until so many messages have reached everybody."""
        wanted = messages * FRAME * self.size
        while self.heard < wanted:
            events = self._epoll.poll(30)
            if not events:
                raise SystemExit("nothing comes in any more")
            for number, _ in events:
                self.heard += len(self._by_number[number].recv(1 << 16))

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._epoll.close()


@contextmanager
def running_redis() -> Iterator[tuple[int, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def running_workers(count: int, url: str) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "geventws.Worker",
        "-w",
        str(count),
        "-b",
        f"127.0.0.1:{port}",
        "--worker-connections",
        "100000",
        "--backlog",
        "4096",
        "--log-level",
        "error",
        "--graceful-timeout",
        "1",
        "--chdir",
        str(lab.HERE / "servers"),
        "broadcast_geventws:app",
    ]
    process = subprocess.Popen(command, env=os.environ | {"BROADCAST_URL": url})
    try:
        wait_for(port)
        gunicorn = psutil.Process(process.pid)
        while len(gunicorn.children()) < count:
            time.sleep(0.05)
        time.sleep(1)  # the workers import the application
        yield ("127.0.0.1", port), gunicorn
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    main()
