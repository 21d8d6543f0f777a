"""``make soak``: 5,000 connections of every kind, under our server and under gunicorn.

Well-behaved clients send numbered messages of all sizes and get each of them back exactly once and
in order; beside them are idle ones, slow ones, ones that leave without a word, and hostile ones.
Half of them are detached from their views. In the end all leave; then the descriptors, the
greenlets and the memory of the server's processes must be back where they were after a first, short
round of the same. Exits with 1 if anything is amiss.
"""

import argparse
import gc
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import gevent
import greenlet
import psutil
from gevent import socket

import geventws
from tests.checks.memory import used
from tests.support.client import BINARY, CLOSE, PING, RawClient, close_frame, frame, request

ROOT = Path(__file__).parents[2]
CONNECTIONS = 5_000
SERVERS = {
    "geventws": "-m geventws tests.checks.soak:application --bind 127.0.0.1:0",
    "gunicorn": "-m gunicorn -k geventws.Worker -w 2 -b 127.0.0.1:0 --worker-connections 8000"
    " --graceful-timeout 20 tests.checks.soak:application",
}
#: How much more memory a process may have than after the first round, in KiB.
TOLERATED_KIB = 8 << 10
NO_MASK = b"\0\0\0\0"
PATHS = ["/blocking", "/detached"]


# ------------------------------------------------------------------ in the server


def application(environ, start_response):
    """Echoes; without a WebSocket it tells how the process is."""
    ws = environ.get("wsgi.websocket")
    if ws is not None and environ["PATH_INFO"] == "/detached":
        ws.detach(geventws.WebSocket.send)
        return []
    if ws is not None:
        for message in ws:
            ws.send(message)
        return []
    memory = used()
    greenlets = sum(isinstance(each, greenlet.greenlet) for each in gc.get_objects())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {greenlets} {memory >> 10}".encode()]


class Server:
    """One of the servers, in separate processes."""

    def __init__(self, arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments.split()], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self.output = []
        self.address = None
        reader = gevent.get_hub().threadpool.spawn(self.read)
        while self.address is None and not reader.ready():
            gevent.sleep(0.05)

    def read(self) -> None:
        """In another thread: gather the log, and find the port in it."""
        for line in self.process.stderr:
            if "http://127.0.0.1:" in line:
                port = line.rpartition("http://127.0.0.1:")[2].split()[0].rstrip(")")
                self.address = ("127.0.0.1", int(port))
            elif len(self.output) < 1000:
                self.output.append(line)

    def census(self) -> dict:
        """Return greenlets, descriptors and KiB of memory by process, without this request."""
        found = {}
        for _ in range(50):
            with RawClient(self.address) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                pid, greenlets, kib = map(int, client.read_response()[1].split())
            now = greenlets, psutil.Process(pid).num_fds(), kib
            found[pid] = tuple(map(min, now, found.get(pid, now)))
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


# ------------------------------------------------------------------ the clients


class Soak:
    """Connections of every kind, and their results."""

    def __init__(self, address, count: int, seconds: float) -> None:
        self.address = address
        self.count = count
        self.end = time.monotonic() + seconds
        self.results = Counter()
        self.faults = []

    def run(self) -> None:
        kinds = [self.echo] * 4 + [self.idle] * 3 + [self.slow, self.abrupt, self.hostile]
        clients = []
        for i in range(self.count):
            clients.append(gevent.spawn(self.live, kinds[i % len(kinds)], random.Random(i)))
            if i % 20 == 0:
                gevent.sleep(0.005)
        gevent.joinall(clients)

    def live(self, kind, chance) -> None:
        """One place among the connections, taken again and again until the time is over."""
        while True:
            try:
                client = RawClient(self.address)
                client.sock.settimeout(60)
                with client:
                    kind(client, chance)
                self.results[kind.__name__] += 1
            except Exception as problem:  # noqa: BLE001 - whatever it is, it is reported
                self.faults.append(f"{kind.__name__}: {problem!r}")
            if time.monotonic() >= self.end or kind in (self.echo, self.idle, self.slow):
                return
            gevent.sleep(chance.uniform(0.5, 2))

    def pause(self, chance, least: float, most: float) -> None:
        left = self.end - time.monotonic()
        gevent.sleep(max(0.0, min(left, chance.uniform(least, most))))

    def next_frame(self, client) -> tuple:
        """Answer Pings, and return the next other frame."""
        while True:
            first, payload = client.read_frame()
            if first != PING:
                return first, payload
            client.send(frame(0x8A, payload))

    def leave(self, client) -> None:
        """Close in good order; a Ping may be on its way."""
        client.send(close_frame(1000))
        while (answer := client.read_frame())[0] == PING:
            pass
        assert answer == (CLOSE, struct.pack("!H", 1000)), answer
        assert client.read_to_end() == b""

    def echo(self, client, chance) -> None:
        """Every message comes back once and in order."""
        client.open(chance.choice(PATHS))
        number = 0
        while time.monotonic() < self.end:
            batch = []
            for _ in range(chance.choice([1, 1, 1, 5])):
                size = chance.choice([0, 10, 100, 1000, 20_000])
                batch.append(struct.pack("!Q", number) + bytes(size))
                number += 1
            client.send(b"".join(frame(BINARY, data, NO_MASK) for data in batch))
            for data in batch:
                assert self.next_frame(client) == (BINARY, data), "not the echo"
            self.results["messages"] += len(batch)
            self.pause(chance, 0.5, 3)
        self.leave(client)

    def idle(self, client, chance) -> None:
        """Answers pings and says nothing itself."""
        client.open(chance.choice(PATHS))
        client.sock.settimeout(1)
        while time.monotonic() < self.end:
            try:
                first, payload = client.read_frame()
            except TimeoutError:
                continue
            assert first == PING
            client.sock.settimeout(10)
            client.send(frame(0x8A, payload))
            client.sock.settimeout(1)
        client.sock.settimeout(60)
        self.leave(client)

    def slow(self, client, chance) -> None:
        """Sends its messages in pieces, and reads them late."""
        client.open(chance.choice(PATHS))
        data = chance.randbytes(3000)
        while time.monotonic() < self.end:
            message = frame(BINARY, data, NO_MASK)
            for i in range(0, len(message), 700):
                client.send(message[i : i + 700])
                self.pause(chance, 0.05, 0.5)
            self.pause(chance, 0, 1)
            assert self.next_frame(client) == (BINARY, data), "not the echo"
            self.results["messages"] += 1
        self.leave(client)

    def abrupt(self, client, chance) -> None:
        """Is gone without a word, now and then in the middle of something."""
        client.open(chance.choice(PATHS))
        data = frame(BINARY, bytes(chance.choice([10, 5000, 500_000])), NO_MASK)
        client.send(data[: chance.randrange(len(data))] if chance.random() < 0.5 else data)
        self.pause(chance, 0, 1)
        if chance.random() < 0.5:
            client.vanish()

    def hostile(self, client, chance) -> None:
        """Does one of the forbidden things, and is told so with the right code."""
        kind = chance.randrange(8)
        if kind == 0:
            client.send(request(without="Sec-WebSocket-Key"))
            assert client.read_head() == "400"
        elif kind == 1:
            client.send(request(headers=[("Origin", "http://evil.example")]))
            assert client.read_head() == "403"
        elif kind == 2:
            client.send(b"\0\xff" * 500 + b"\r\n\r\n")
            client.sock.shutdown(socket.SHUT_WR)
            try:
                client.read_to_end()
            except ConnectionResetError:
                pass
        elif kind == 3:
            client.send(request()[:-10])  # slow-loris
            self.pause(chance, 1, 5)
        else:
            code, data = chance.choice(
                [
                    (1002, frame(0x83)),
                    (1002, frame(0xC1, "x")),
                    (1002, frame(BINARY, "x", None)),
                    (1007, frame(0x81, b"\xff")),
                    (1009, b"\x82\xff" + b"\0\0\0\1\0\0\0\0" + NO_MASK),
                    (1002, close_frame(999)),
                ]
            )
            client.open(chance.choice(PATHS))
            client.send(data + os.urandom(1000))
            first, payload = self.next_frame(client)
            assert (first, payload[:2]) == (CLOSE, struct.pack("!H", code)), (first, payload, code)


def soak(name: str, connections: int, seconds: float) -> list[str]:
    """The faults that were found with one server."""
    server = Server(SERVERS[name])
    try:
        warm_up = Soak(server.address, connections, min(10.0, seconds / 4))
        warm_up.run()
        gevent.sleep(1)
        before = server.census()
        main = Soak(server.address, connections, seconds)
        main.run()
        gevent.sleep(2)
        after = server.census()
    finally:
        status = server.stop()
    faults = warm_up.faults + main.faults
    print(
        f"{name}: {connections:,} connections at once, {seconds:.0f} seconds:",
        ", ".join(f"{count:,} {kind}" for kind, count in sorted(main.results.items())),
    )
    for pid, (greenlets, descriptors, kib) in before.items():
        now = after.get(pid, (0, 0, 0))
        print(
            f"  process {pid}: greenlets {greenlets} before, {now[0]} after;"
            f" descriptors {descriptors}, {now[1]}; memory {kib:,} KiB, {now[2]:,} KiB"
        )
        if pid not in after:
            faults.append(f"the process {pid} is gone")
        elif now[0] > greenlets + 2 or now[1] > descriptors or now[2] > kib + TOLERATED_KIB:
            faults.append(f"the process {pid} has grown")
    if status:
        faults.append(f"the server's exit status is {status}")
    faults += [line.rstrip() for line in server.output if "Traceback" in line or "Error" in line]
    for fault, count in Counter(faults).most_common(20):
        print(f"  {count} times: {fault}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checks.soak")
    parser.add_argument("--seconds", type=float, default=120, help="for all servers together")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    options = parser.parse_args()
    wanted = 3 * options.connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    faults = []
    for name in SERVERS:
        # A third of the time is for beginning and end.
        faults += soak(name, options.connections, options.seconds / len(SERVERS) * 2 / 3)
    print(f"{len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
