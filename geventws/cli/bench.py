"""``geventws bench URL``: measure the throughput and the latency of a server."""

from __future__ import annotations

import argparse
import json
import sys
from time import monotonic, perf_counter

import gevent
from gevent import sleep
from gevent.lock import Semaphore
from gevent.pool import Group

from ..client.client import ClientWebSocket
from ..exceptions import ConnectionClosed
from .connect import add_opening_arguments, open_from
from .errors import UsageError

#: The maximum number of concurrent opening handshakes.
_MAX_HANDSHAKES = 64
#: The width of the progress bar in characters.
_WIDTH = 30
#: The quantiles of the latency in the result.
_PARTS = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_opening_arguments(parser)
    add = parser.add_argument
    add(
        "--connections",
        "-c",
        metavar="N",
        type=int,
        default=100,
        help="the number of concurrent connections (default: %(default)s)",
    )
    add(
        "--size",
        metavar="BYTES",
        type=int,
        default=32,
        help="the size of each message (default: %(default)s)",
    )
    add(
        "--duration",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="the duration of the measurement (default: %(default)s)",
    )
    add(
        "--rate",
        metavar="N",
        type=float,
        help="the total number of messages per second, sent on a fixed schedule"
        " (default: each connection sends the next message when it has the answer)",
    )
    add("--json", action="store_true", help="print the result as JSON")


def bench(options: argparse.Namespace) -> int:
    """Send messages on each connection, and wait for the answer to each; return the exit status.

    :raises UsageError: if the first connection cannot be opened.
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
        semaphore = Semaphore(_MAX_HANDSHAKES)

        def open_one() -> None:
            with semaphore:
                try:
                    self._sockets.append(open_from(self._options))
                except UsageError as problem:
                    self._count_failure(str(problem))
                self._bar(len(self._sockets) / self._options.connections, "opening")

        gevent.joinall([gevent.spawn(open_one) for _ in range(self._options.connections - 1)])

    def _measure(self) -> float:
        started = monotonic()
        end = started + self._options.duration
        views = [
            gevent.spawn(self._exchange, ws, number, started, end)
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

    def _exchange(self, ws: ClientWebSocket, number: int, started: float, end: float) -> None:
        rate = self._options.rate
        interval = len(self._sockets) / rate if rate else 0.0
        due = started + interval * number / len(self._sockets)
        try:
            while True:
                if interval:
                    sleep(max(0.0, due - monotonic()))
                if monotonic() >= end:
                    return
                # On a schedule, the time starts when the message was due. A slow answer also
                # delays the next messages.
                before = perf_counter() - max(0.0, monotonic() - due) * bool(interval)
                due += interval
                ws.send(self._payload)
                if ws.receive() is None:
                    raise ConnectionClosed(ws.close_code or 1006, ws.close_reason)
                self._latencies.append(perf_counter() - before)
        except ConnectionClosed as problem:
            self._count_failure(f"closed with {problem.code} {problem.reason}".rstrip())

    def _count_failure(self, reason: str) -> None:
        self._failures[reason] = self._failures.get(reason, 0) + 1

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
        times = sorted(self._latencies)
        latency = {name: _quantile(times, part) * 1000 for name, part in _PARTS.items() if times}
        result = {
            "connections": len(self._sockets),
            "opening_seconds": opening,
            "messages": len(times),
            "seconds": seconds,
            "messages_per_second": len(times) / seconds,
            "latency_ms": latency,
            "failed": self._failures,
        }
        if self._options.json:
            print(json.dumps(result, indent=2))
            return
        count = len(self._sockets)
        print(f"connections   {count:,} in {opening:.2f} s, {count / opening:,.0f} per second")
        rate = len(times) / seconds
        print(f"messages      {len(times):,} in {seconds:.2f} s, {rate:,.0f} per second")
        if latency:
            print("latency, ms  ", *(f"{name} {value:.2f}" for name, value in latency.items()))
        for reason, number in self._failures.items():
            print(f"failed        {number:,}: {reason}")


def _quantile(times: list[float], part: float) -> float:
    return times[min(len(times) - 1, int(len(times) * part))]
