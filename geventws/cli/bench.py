"""``geventws bench URL``: how fast any server answers."""

from __future__ import annotations

import argparse
import sys
from time import monotonic, perf_counter
from typing import Any

import gevent
from gevent import sleep
from gevent.lock import Semaphore
from gevent.pool import Group

from ..client.client import ClientWebSocket
from ..exceptions import ConnectionClosed
from .connect import open_from
from .errors import UsageError

#: How many handshakes are under way at once.
_OPENING = 64
_WIDTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the parser what this command takes beside those of ``connect``."""
    add = parser.add_argument
    add(
        "--connections",
        "-c",
        metavar="N",
        type=int,
        default=100,
        help="how many are open at once (default: %(default)s)",
    )
    add(
        "--size",
        metavar="BYTES",
        type=int,
        default=32,
        help="of each message (default: %(default)s)",
    )
    add("--duration", metavar="SECONDS", type=float, default=10.0, help="(default: %(default)s)")
    add(
        "--rate",
        metavar="N",
        type=float,
        help="messages a second in total, on a fixed schedule"
        " (default: each connection sends when it has its answer)",
    )


def bench(options: argparse.Namespace) -> int:
    """Send a message on each connection and wait for the next one to come, over and over.

    :raises UsageError: when the first connection cannot be opened.
    """
    if options.connections < 1 or options.duration <= 0 or options.size < 0:
        raise UsageError("--connections, --duration and --size must be positive")
    return _Bench(options).run()


class _Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._payload = "x" * options.size
        self._sockets: list[ClientWebSocket] = []
        self._latencies: list[float] = []
        self._failures: dict[str, int] = {}

    def run(self) -> int:
        started = perf_counter()
        self._sockets.append(open_from(self._options))
        self._open_others()
        opening = perf_counter() - started
        seconds = self._measure()
        self._bar(1.0, "")
        self._report(opening, seconds)
        group = Group()
        for ws in self._sockets:
            group.spawn(ws.close)
        group.join(5)
        return 1 if self._failures else 0

    def _open_others(self) -> None:
        gate = Semaphore(_OPENING)

        def open_one() -> None:
            with gate:
                try:
                    self._sockets.append(open_from(self._options))
                except UsageError as problem:
                    self._fail(str(problem))
                self._bar(len(self._sockets) / self._options.connections, "opening")

        gevent.joinall([gevent.spawn(open_one) for _ in range(self._options.connections - 1)])

    def _measure(self) -> float:
        started = monotonic()
        end = started + self._options.duration
        views = [
            gevent.spawn(self._converse, ws, number, started, end)
            for number, ws in enumerate(self._sockets)
        ]
        while (now := monotonic()) < end and not all(view.dead for view in views):
            part = (now - started) / self._options.duration
            self._bar(part, f"{len(self._latencies):,} messages")
            sleep(min(0.2, end - now))
        seconds = monotonic() - started
        gevent.joinall(views, timeout=1)
        gevent.killall(views)
        return seconds

    def _converse(self, ws: ClientWebSocket, number: int, started: float, end: float) -> None:
        rate = self._options.rate
        interval = len(self._sockets) / rate if rate else 0.0
        due = started + interval * number / len(self._sockets)
        try:
            while True:
                if interval:
                    sleep(max(0.0, due - monotonic()))
                if monotonic() >= end:
                    return
                # On a schedule, a server that is late also makes those wait that come behind.
                before = perf_counter() - max(0.0, monotonic() - due) * bool(interval)
                due += interval
                ws.send(self._payload)
                if ws.receive() is None:
                    raise ConnectionClosed(ws.close_code or 1006, ws.close_reason)
                self._latencies.append(perf_counter() - before)
        except ConnectionClosed as problem:
            self._fail(f"closed with {problem.code} {problem.reason}".rstrip())

    def _fail(self, why: str) -> None:
        self._failures[why] = self._failures.get(why, 0) + 1

    def _bar(self, part: float, text: str) -> None:
        if sys.stderr.isatty():
            full = int(min(part, 1.0) * _WIDTH)
            end = "" if text else "\n"
            print(
                f"\r\x1b[K[{'#' * full}{'.' * (_WIDTH - full)}] {text}",
                end=end,
                file=sys.stderr,
                flush=True,
            )

    def _report(self, opening: float, seconds: float) -> None:
        count = len(self._sockets)
        print(f"connections   {count:,} in {opening:.2f} s, {count / opening:,.0f} a second")
        times = sorted(self._latencies)
        rate = len(times) / seconds
        print(f"messages      {len(times):,} in {seconds:.2f} s, {rate:,.0f} a second")
        if times:
            marks = " ".join(
                f"{name} {_at(times, part) * 1000:.2f}"
                for name, part in (("50%", 0.5), ("90%", 0.9), ("99%", 0.99), ("max", 1.0))
            )
            print(f"latency, ms   {marks}")
        for why, number in self._failures.items():
            print(f"failed        {number:,}: {why}")


def _at(times: list[Any], part: float) -> float:
    return float(times[min(len(times) - 1, int(len(times) * part))])
