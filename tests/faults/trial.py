"""One trial: traffic through workers and Redis, a fault in the middle of it, and the verdict."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import gevent
import psutil
import redis

from geventws import Broadcast, BroadcastError
from tests.faults.clients import Client, Publisher
from tests.faults.deployments import Deployment
from tests.faults.faults import Fault
from tests.faults.gateway import Gateway
from tests.faults.ledger import Ledger, Publication, Verdict
from tests.support.redis import RedisServer
from tests.support.servers import ROOT, Process
from tests.support.tools import wait_until

#: Seconds after the end of the fault until every client must have the final message.
LIMIT = 15.0
#: Seconds that a fault may take, with everything that it waits for.
FAULT_LIMIT = 60.0
COLUMNS = (
    "fault",
    "published",
    "refused",
    "received",
    "duplicates",
    "disorder",
    "gaps",
    "gaps told",
    "needless",
    "strays",
    "deaf",
    "seconds",
    "notes",
)


@dataclass(frozen=True)
class Size:
    """How large a trial is."""

    workers: int = 3
    clients: int = 24
    #: Publishers in the workers, and the same number in processes of their own.
    publishers: int = 2
    #: The mean pause of a publisher, in seconds.
    pause: float = 0.04
    #: How often a fault is injected, unless the fault has a number of its own.
    rounds: int = 3
    #: Seconds of traffic before the fault, and after it.
    traffic: float = 1.5


@dataclass
class Result:
    """The row of a fault."""

    fault: Fault
    verdict: Verdict
    seconds: float
    notes: list[str] = field(default_factory=list)
    #: Faults of the trial itself, such as a traceback in a log.
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        allowed = {"gap"} if self.fault.loses_unseen else set()
        kinds = {finding.kind for finding in self.verdict.findings}
        return kinds <= allowed and not self.problems

    def row(self) -> str:
        verdict = self.verdict
        cells = [
            self.fault.name,
            verdict.published,
            verdict.refused,
            verdict.received,
            *(verdict.count(kind) for kind in ("duplicate", "disorder", "gap")),
            verdict.told,
            *(verdict.count(kind) for kind in ("needless", "stray", "deaf")),
            f"{self.seconds:.0f}",
            ", ".join([*(f"**{problem}**" for problem in self.problems), *self.notes]),
        ]
        return f"| {' | '.join(map(str, cells))} |"

    def details(self, most: int = 5) -> Iterator[str]:
        """Yield a few findings of each kind."""
        counts: Counter[str] = Counter()
        for kind, client, detail, _ in self.verdict.findings:
            counts[kind] += 1
            if counts[kind] <= most:
                yield f"{self.fault.name}: {kind}, {client}: {detail}"


class Trial:
    """The servers, the clients and the record of one fault."""

    deployment: Deployment
    gateway: Gateway
    process: Process

    def __init__(self, fault: Fault, *, seed: int = 0, size: Size | None = None) -> None:
        self.fault = fault
        self.size = size or Size()
        self.seed = f"{seed} {fault.name}"
        self.chance = random.Random(self.seed)
        self.ledger = Ledger(ids_rise=fault.ids_rise, is_lossless=fault.is_lossless)
        self.folder = Path(tempfile.mkdtemp(prefix="faults"))
        self._notes: list[str] = []
        self._sums: Counter[str] = Counter()
        self._problems: list[str] = []

    # ----------------------------------------------------- for the faults

    @property
    def redis(self) -> RedisServer:
        return self.deployment.server

    @property
    def channels(self) -> list[str]:
        return self.deployment.channels

    def admin(self) -> redis.Redis:
        """Return a client for commands outside geventws. Redis must answer: the client blocks."""
        return self.redis.client(socket_timeout=5)

    def worker_pids(self) -> list[int]:
        return sorted(child.pid for child in psutil.Process(self.process.process.pid).children())

    def rounds(self, number: int | None = None) -> range:
        return range(self.size.rounds if number is None else min(number, self.size.rounds))

    def pause(self, seconds: float) -> None:
        """Let the traffic go on for about some seconds, at most for these."""
        gevent.sleep(seconds * self.chance.uniform(0.8, 1))

    def note(self, text: str) -> None:
        self._notes.append(text)

    def note_sum(self, text: str, number: int) -> None:
        self._sums[text] += number

    # ---------------------------------------------------------------- a trial

    def run(self) -> Result:
        started = time.monotonic()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._start_servers(stack)
            clients = self._start_clients(stack)
            stop_publishers = self._start_publishers(stack)
            wait_until(lambda: self._has_begun(clients))
            gevent.sleep(self.size.traffic)
            with gevent.Timeout(FAULT_LIMIT, AssertionError("the fault takes too long")):
                self.fault.inject(self)
            deadline = time.monotonic() + LIMIT
            if self.fault.uses_gateway:
                self.note(f"{self.gateway.affected} connections affected")
                if not self.gateway.affected:
                    self._problems.append("the fault had no effect")
            gevent.sleep(self.size.traffic)
            for client in clients:
                client.stay()
            stop_publishers()
            self._finish(clients, deadline)
            stored = gevent.get_hub().threadpool.apply(self._stored)
        verdict = self.ledger.check()
        self._compare_with_history(verdict, stored)
        notes = [*self._notes, *(f"{number} {text}" for text, number in self._sums.items())]
        return Result(self.fault, verdict, time.monotonic() - started, notes, self._problems)

    def _start_servers(self, stack: ExitStack) -> None:
        fault = self.fault
        self.deployment = fault.deployment(*fault.redis)
        stack.callback(self.deployment.remove)
        self.deployment.start()
        port = None
        if fault.uses_gateway:
            self.gateway = Gateway(self.redis.port)
            self.gateway.start()
            stack.callback(self.gateway.close_all)
            port = self.gateway.server_port
        arguments = ["-m", "gunicorn", "-k", "geventws.Worker", "tests.faults.app:app"]
        arguments += ["-w", str(self.size.workers), "-b", "127.0.0.1:0", "--graceful-timeout", "2"]
        self.process = Process(
            [*arguments, *fault.gunicorn],
            self.folder / "log",
            BROADCAST_URL=self.deployment.url(port),
            HISTORY=str(fault.history),
        )
        stack.callback(self._stop_workers)

    def _stop_workers(self) -> None:
        try:
            self.process.stop()
        except AssertionError:
            self._problems.append("gunicorn did not stop")
        self._read_log(self.process.output)

    def _start_clients(self, stack: ExitStack) -> list[Client]:
        clients = [
            Client(
                f"client {number}",
                self.channels[number % len(self.channels)],
                self.process.address,
                self.ledger,
                random.Random(f"{self.seed} client {number}"),
                is_restless=number % 2 == 0,
                wants_history=number % 4 < 2,
            )
            for number in range(self.size.clients)
        ]
        odd = self.fault.odd_channel
        others = [
            Client(
                f"odd client {number}",
                odd,
                self.process.address,
                self.ledger,
                random.Random(f"{self.seed} odd {number}"),
                is_restless=number % 2 == 0,
                wants_history=True,
            )
            for number in range(6 if odd else 0)
        ]
        for client in (*clients, *others):
            greenlet = gevent.spawn_later(client.chance.uniform(0, 1), client.run)
            stack.callback(self._end, client.name, greenlet)
        return clients

    def _has_begun(self, clients: list[Client]) -> bool:
        """Whether each client has subscribed once, and each process has published."""
        are_subscribed = all(
            any(session.recovered is not None for session in self.ledger.sessions[client.name])
            for client in clients
            if client.name in self.ledger.sessions
        )
        logs = [self.folder / f"out{number}" for number in self._numbers()]
        return (
            are_subscribed
            and len(self.ledger.sessions) >= len(clients)
            and all(log.stat().st_size for log in logs)
        )

    def _end(self, name: str, greenlet: gevent.Greenlet) -> None:
        """Kill a greenlet of a client, which must not have ended."""
        if greenlet.ready() and not greenlet.successful():
            self._problems.append(f"{name} failed: {greenlet.exception!r}")
        greenlet.kill()

    # ------------------------------------------------------------- publishers

    def _start_publishers(self, stack: ExitStack):
        """Start all publishers, and return a function that stops them and records the results."""
        inside = [self._publisher(f"in{number}", self.channels) for number in self._numbers()]
        outside = [self._process(f"out{number}", stack) for number in self._numbers()]
        if self.fault.odd_channel:
            inside.append(self._publisher("odd", [self.fault.odd_channel]))
        greenlets = [gevent.spawn(publisher.run) for publisher in inside]
        for publisher, greenlet in zip(inside, greenlets, strict=True):
            stack.callback(self._end, publisher.name, greenlet)

        def stop() -> None:
            for publisher in inside:
                publisher.stopped.set()
            for process, _ in outside:
                process.send_signal(signal.SIGTERM)
            for process, log in outside:
                self._record_process(process, log)
            gevent.joinall(greenlets, timeout=LIMIT)

        return stop

    def _numbers(self) -> range:
        return range(self.size.publishers)

    def _publisher(self, name: str, channels: list[str]) -> Publisher:
        chance = random.Random(f"{self.seed} {name}")
        address, pause = self.process.address, self.size.pause
        return Publisher(name, channels, address, self.ledger, chance, pause)

    def _process(self, name: str, stack: ExitStack) -> tuple[subprocess.Popen, Path]:
        log = self.folder / name
        command = [sys.executable, "-m", "tests.faults.publisher", self.deployment.url(), name]
        options = {
            "--history": self.fault.history,
            "--seed": f"{self.seed} {name}",
            "--pause": self.size.pause,
        }
        for option, value in options.items():
            command += [option, str(value)]
        with log.open("wb") as out, log.with_suffix(".errors").open("wb") as errors:
            process = subprocess.Popen(
                [*command, *self.channels],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process, log

    def _record_process(self, process: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            gevent.sleep(0.02)
        if process.returncode:
            errors = log.with_suffix(".errors").read_text().strip()
            self._problems.append(f"a publisher failed: {errors.rpartition(chr(10))[2]}")
        for line in log.read_text().splitlines():
            channel, number, text, id_ = json.loads(line)
            self.ledger.add_publication(Publication(channel, log.name, number, text, id_))

    # ---------------------------------------------------------------- the end

    def _finish(self, clients: list[Client], deadline: float) -> None:
        """Publish a final message to each channel, and wait until every client has received it."""
        pool = gevent.get_hub().threadpool
        pool.apply(self._publish_final, (deadline,))
        while time.monotonic() < deadline:
            if all(client.has_received(self.ledger.final[client.channel]) for client in clients):
                break
            gevent.sleep(0.02)

    def _publish_final(self, deadline: float) -> None:
        with closing(self._broadcast()) as broadcast:
            for channel in self.channels:
                for attempt in range(1000):
                    text = f"final:{channel}:{attempt}"
                    publication = Publication(channel, "final", attempt, text, None)
                    self.ledger.add_publication(publication)
                    self.ledger.final[channel] = text
                    try:
                        publication.id = broadcast.publish(channel, text)
                        break
                    except BroadcastError as problem:
                        if time.monotonic() > deadline:
                            self._problems.append(f"Redis does not work after the end: {problem}")
                            break
                        time.sleep(0.2)

    def _broadcast(self) -> Broadcast:
        return Broadcast(self.deployment.url(), history=self.fault.history)

    def _compare_with_history(self, verdict: Verdict, stored: set[str]) -> None:
        """Note how many of the missing messages Redis does not have at the end."""
        missing = {finding.text for finding in verdict.findings if finding.kind == "gap"}
        if missing:
            lost = len(missing - stored)
            self.note(f"{len(missing)} messages missing, {lost} of them not in Redis at the end")

    def _stored(self) -> set[str]:
        with closing(self._broadcast()) as broadcast:
            try:
                messages = [broadcast.history(channel) for channel in self.channels]
            except BroadcastError:
                return set()  # the final messages have failed, too
        return {str(message.data) for kept in messages for message in kept}

    def _read_log(self, log: str) -> None:
        downs, ups = log.count("does not work"), log.count("works again")
        if downs or ups:
            self.note(f"{downs} times down, {ups} times up again")
        if tracebacks := log.count("Traceback (most recent call last)"):
            self._problems.append(f"{tracebacks} tracebacks in the log of the workers")
