"""``make costs``: instructions per message and per handshake, and memory per idle connection.

Compares both cores with ``costs.json``, and exits with 1 if a cost has changed by more than 3 %. A
lower cost fails, too: otherwise, the next change could spend what this one has saved. If the change
is intended, ``make costs ARGS=--write`` writes the new costs. The message of the commit says why.

callgrind counts the instructions in user space. They differ by up to 2 % between an idle machine
and a busy one, since timers run for longer: write them on an idle one. They depend on the versions
of Python, gevent and greenlet: with other versions than those in ``costs.json``, the differences
are shown, but do not fail.
"""

import json
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from tests.checks import costs_server
from tests.support.client import TEXT, close_frame, frame, request

FILE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03
CORES = {"compiled": {}, "python": {"GEVENTWS_PURE_PYTHON": "1"}}
CLIENTS = 50
ROUNDS = 20
IDLE = 4_000
#: Connections that are opened at once.
GROUP = 500
MESSAGE = frame(TEXT, "x" * 100)
#: The headers that Chromium sends.
HEADERS = [
    ("Origin", "http://test.example"),
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef"),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
]


class Server:
    """A :mod:`tests.checks.costs_server`, and its clients."""

    def __init__(self, core: str, *valgrind: str) -> None:
        self.process = subprocess.Popen(
            [*valgrind, sys.executable, "-m", costs_server.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0", **CORES[core]},
        )
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def tell(self, command: int, events: int = 0) -> int:
        self.process.stdin.write(bytes([command]) + events.to_bytes(3, "big"))
        self.process.stdin.flush()
        return int.from_bytes(self.process.stdout.read(8), "big")

    def open(self, path: str, count: int, *, is_late: bool = False) -> list[socket.socket]:
        """Open connections.

        :param is_late: whether their requests come after they have been accepted, as over a
            network; except for the last one, whose request shows that they have been.
        """
        clients = [socket.create_connection(("127.0.0.1", self.port), 60) for _ in range(count)]
        for group in (clients[-1:], clients[:-1]) if is_late else (clients,):
            for client in group:
                client.sendall(request(path, HEADERS))
            self.tell(costs_server.STEP, len(group))
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        return clients

    def echo(self, clients: list[socket.socket]) -> None:
        for client in clients:
            client.sendall(MESSAGE)
        self.tell(costs_server.STEP, len(clients))
        for client in clients:
            assert client.recv(4096)

    def close(self, clients: list[socket.socket]) -> None:
        for client in clients:
            client.sendall(close_frame(1000))
        self.tell(costs_server.STEP, len(clients))
        for client in clients:
            while client.recv(4096):
                pass
            client.close()


def count_instructions(core: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        valgrind = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            "--dump-before=getpriority",  # see MARK
            "--instr-atstart=no",  # to count the imports takes a minute
        ]
        counted = []
        with Server(core, *valgrind) as server:

            def count(action: Callable[[], None]) -> None:
                action()  # what is done only once
                server.tell(costs_server.MARK)
                for _ in range(ROUNDS):
                    action()
                server.tell(costs_server.MARK)
                # Each mark writes a file; the second one has what was counted since the first.
                dump = Path(folder, f"out.{2 * len(counted) + 2}").read_text()
                total = re.search(r"^(?:totals|summary): (\d+)", dump, re.MULTILINE)
                counted.append(int(total[1]) // (CLIENTS * ROUNDS))

            control = ["callgrind_control", "--instr=on", str(server.process.pid)]
            subprocess.run(control, check=True, capture_output=True)
            for is_late in (False, True):
                count(lambda late=is_late: server.close(server.open("/", CLIENTS, is_late=late)))
            for path in ("/", "/detached"):
                clients = server.open(path, CLIENTS)
                count(lambda clients=clients: server.echo(clients))
                server.close(clients)
    return dict(
        zip(
            (
                "instructions per handshake",
                "… of a late request",
                "instructions per message",
                "… with callbacks",
            ),
            counted,
            strict=True,
        )
    )


def measure_memory(core: str) -> dict[str, int]:
    memory = {}
    for name, path in (("bytes per connection", "/"), ("… when detached", "/detached")):
        with Server(core) as server:
            server.close(server.open(path, GROUP))
            before = server.tell(costs_server.MEMORY)
            clients = []
            for _ in range(IDLE // GROUP):
                clients += server.open(path, GROUP)
            server.echo(clients)
            memory[name] = (server.tell(costs_server.MEMORY) - before) // IDLE
            server.close(clients)
    return memory


def measure() -> dict[str, dict[str, int]]:
    with ThreadPoolExecutor(2) as pool:
        instructions = pool.map(count_instructions, CORES)
        memory = pool.map(measure_memory, CORES)
        return {
            core: counts | sizes
            for core, counts, sizes in zip(CORES, instructions, memory, strict=True)
        }


def changes(costs: dict[str, dict[str, int]], stored: dict[str, dict[str, int]]) -> bool:
    """Print the costs; return whether one of them has changed."""
    has_changed = False
    for core, figures in costs.items():
        for name, cost in figures.items():
            change = cost / stored[core][name] - 1
            has_changed |= abs(change) > TOLERANCE
            print(f"{core:10}{name:28}{cost:10,}{change:+9.1%}")
    return has_changed


def main(writes: bool) -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    costs = measure()
    versions = {"machine": platform.machine(), "python": platform.python_version()}
    versions |= {name: version(name) for name in ("gevent", "greenlet")}
    if writes:
        text = json.dumps({"versions": versions, "costs": costs}, indent=2, ensure_ascii=False)
        FILE.write_text(text + "\n", "utf-8")
    stored = json.loads(FILE.read_text("utf-8"))
    has_changed = changes(costs, stored["costs"])
    if has_changed and versions == stored["versions"]:
        print("Once more: something else may have kept the machine busy.")
        has_changed = changes(measure(), stored["costs"])
    if has_changed and versions == stored["versions"]:
        print(f"A cost has changed by more than {TOLERANCE:.0%}, see {Path(__file__).name}.")
        return 1
    if versions != stored["versions"]:
        print(f"Not compared: {FILE.name} is for {stored['versions']}, this is {versions}.")
    return 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
