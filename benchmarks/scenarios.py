"""What the servers have to do, and what it costs them."""
# ruff: noqa: S603

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers import Peer, Server

#: What the load generator has measured, by name.
Sample = dict[str, float]

LOAD_SECONDS = 180  # far beyond what the load generator allows itself
RATE_SECONDS = 2.0  # the 99.9th percentile needs 10,000 messages


@dataclass(frozen=True)
class Scenario:
    """One column of the table."""

    name: str
    title: str
    subtitle: str
    mode: str
    numbers: tuple[int, ...]

    @property
    def is_memory(self) -> bool:
        return self.mode == "idle"

    @property
    def is_relative(self) -> bool:
        """Whether the cost is compared with that of the reference."""
        return self.mode in {"echo", "broadcast", "handshake"}

    @property
    def has_schedule(self) -> bool:
        """Whether the server is not busy, so that its latencies can be compared."""
        return self.mode == "rate"

    def suits(self, peer: Peer) -> bool:
        """Whether the server can do it."""
        return peer.compresses or self.mode != "deflate"

    def cost(self, sample: Sample) -> float:
        """The server's CPU time in µs for one message; KiB for one idle connection."""
        return sample["kib" if self.is_memory else "server_us"]

    def command(self, program: Path, server: Server, seconds: float) -> list[str]:
        duration = [] if self.is_memory else [seconds]
        if self.has_schedule:
            duration = [max(seconds, RATE_SECONDS)]
        numbers = [server.port, *self.numbers, *duration, *server.processes()]
        return [str(program), self.mode, *map(str, numbers)]


#: Memory first: it is a matter of fresh processes.
SCENARIOS = [
    Scenario("memory", "Idle connection", "KiB of memory", "idle", (1000,)),
    Scenario("echo-1", "1 connection", "32 B", "echo", (1, 32, 1)),
    Scenario("echo-100", "100 connections", "32 B", "echo", (100, 32, 1)),
    Scenario("echo-1000", "1,000 connections", "32 B", "echo", (1000, 32, 1)),
    Scenario("echo-100-1k", "100 connections", "1 KiB", "echo", (100, 1 << 10, 1)),
    Scenario("echo-100-16k", "100 connections", "16 KiB", "echo", (100, 16 << 10, 1)),
    Scenario("echo-10-256k", "10 connections", "256 KiB", "echo", (10, 256 << 10, 1)),
    Scenario("echo-10-1m", "10 connections", "1 MiB", "echo", (10, 1 << 20, 1)),
    Scenario("pipe-100", "100 connections", "32 B, 16 in flight", "echo", (100, 32, 16)),
    Scenario("broadcast-1000", "Broadcast", "to 1,000 connections", "broadcast", (1000, 128, 1)),
    Scenario("deflate-100-1k", "Compressed JSON", "1 KiB", "deflate", (100, 1 << 10, 1)),
    Scenario("rate-100", "100 connections", "5,000 messages per second", "rate", (100, 32, 5000)),
    Scenario("handshake", "Handshake", "connect, upgrade, close", "handshake", (32,)),
]


class MeasureError(Exception):
    """A server did not do what it had to."""


def measure(scenario: Scenario, server: Server, program: Path, seconds: float) -> Sample:
    """Let the load generator at a server."""
    command = scenario.command(program, server, seconds)
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=LOAD_SECONDS
    )
    if done.returncode:
        problem = done.stderr.strip() or f"the load generator ended with {done.returncode}"
        raise MeasureError(f"{server.peer.name}, {scenario.name}: {problem}")
    sample: Sample = json.loads(done.stdout)
    if not scenario.cost(sample):
        raise MeasureError(f"{server.peer.name}, {scenario.name}: the machine is too busy")
    return sample
