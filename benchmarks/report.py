"""From samples to figures, and from figures to a page of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from statistics import median

from lab import Machine
from peers import Peer
from scenarios import Sample, Scenario

#: The parts of the messages that were answered within a latency, and the name of that latency.
LATENCIES = {0.5: "p50_us", 0.99: "p99_us", 0.999: "p999_us"}


TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Figure:
    """The median of the rounds, and their range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Figure | None:
        return cls(median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return f"**{short(self.median)}**<br>{short(self.least)} to {short(self.most)}"


def short(value: float) -> str:
    """Three digits of a number are all that is worth reading."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


@dataclass(frozen=True)
class Results:
    """All that was measured: for each scenario and server a sample a round, None for a failure."""

    machine: Machine
    peers: list[Peer]
    scenarios: list[Scenario]
    reference: Peer
    rounds: int
    seconds: float
    samples: Mapping[tuple[str, str], list[Sample | None]]

    def costs(self, scenario: Scenario, peer: Peer) -> Figure | None:
        samples = self.samples[scenario.name, peer.name]
        return Figure.of([scenario.cost(sample) for sample in samples if sample])

    def speeds(self, scenario: Scenario, peer: Peer) -> Figure | None:
        """How many times as fast as the reference of the same round."""
        own = self.samples[scenario.name, peer.name]
        reference = self.samples[scenario.name, self.reference.name]
        return Figure.of(
            [
                scenario.cost(other) / scenario.cost(sample)
                for sample, other in zip(own, reference, strict=True)
                if sample and other
            ]
        )

    def latencies(self, scenario: Scenario, peer: Peer, key: str) -> Figure | None:
        samples = self.samples[scenario.name, peer.name]
        return Figure.of([sample[key] for sample in samples if sample])

    def rates(self, scenario: Scenario, peer: Peer) -> Figure | None:
        samples = self.samples[scenario.name, peer.name]
        return Figure.of([sample["per_second"] for sample in samples if sample])


def write_page(results: Results) -> str:
    """The tables, in Markdown."""
    relative = [scenario for scenario in results.scenarios if scenario.is_relative]
    compressed = [scenario for scenario in results.scenarios if scenario.mode == "deflate"]
    sections = [
        "# How fast, in figures",
        "Written by `run.py`; [README.md](README.md) says how to read it."
        " Medians of the rounds, and below them the least and the most.",
        _write_machine(results),
        "![The first table as a chart](results.svg)",
    ]
    if relative:
        sections += [
            f"## Speed: {results.reference.name} is 1, more is faster",
            _write_table(results, relative, results.speeds),
        ]
    if relative or compressed:
        sections += [
            "## Server CPU time, in µs for a message or a handshake",
            _write_table(results, relative + compressed, results.costs),
            "## Messages or handshakes per second, as the clients saw them",
            _write_table(results, relative + compressed, results.rates),
        ]
    for scenario in results.scenarios:
        if scenario.has_schedule:
            sections += [
                f"## Latency with {scenario.title} and {scenario.subtitle}, in µs",
                _write_latencies(results, scenario),
            ]
    memory = [scenario for scenario in results.scenarios if scenario.is_memory]
    if memory:
        sections += [
            "## Memory of an idle connection, in KiB",
            _write_table(results, memory, results.costs),
        ]
    return "\n\n".join(sections) + "\n"


def write_summary(results: Results) -> str:
    """What docs/benchmarks.md begins with, in Markdown. Needs a run of everything."""
    scenarios = {scenario.name: scenario for scenario in results.scenarios}
    own, *_ = results.peers

    def cost(name: str, peer: Peer) -> float:
        figure = results.costs(scenarios[name], peer)
        return figure.median if figure else nan

    def rate(name: str) -> str:
        figure = results.rates(scenarios[name], own)
        return f"{float(f'{figure.median:.2g}'):,.0f}" if figure else "?"

    def times(name: str, peer: Peer) -> str:
        ratio = cost(name, peer) / cost(name, own)
        return f"{ratio:.0f}{TIMES}" if ratio >= 10 else f"{ratio:.1f}{TIMES}"

    others = sorted(results.peers[1:], key=lambda peer: -cost("echo-100", peer))
    costs = ", ".join(
        f"{peer.title} {short(cost('echo-100', peer))}" for peer in [own, *reversed(others)]
    )
    units = {"echo-100": "µs", "echo-100-16k": "µs", "memory": "KiB"}
    figures = [f"{short(cost(name, own))} {unit}" for name, unit in units.items()]
    rows = [
        ["Server", "message", "of 16 KiB", "idle"],
        ["---"] + ["---:"] * len(units),
        [f"**{own.title}**", *figures],
    ]
    for peer in others:
        memory = f"{short(cost('memory', peer))} KiB"
        rows.append([peer.title, times("echo-100", peer), times("echo-100-16k", peer), memory])
    pipes = [cost("pipe-100", peer) for peer in others if peer.package != own.package]
    return "\n".join(
        [
            "![CPU time of the server for one message of 32 bytes, in µs:"
            f" {costs}](../benchmarks/costs.svg)",
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            "- The figures are for 100 connections. With 16 small messages in flight on each"
            f" connection, {own.name} takes {short(cost('pipe-100', own))} µs for a message, and"
            f" the other libraries take {short(min(pipes))} to {short(max(pipes))} µs.",
            f"- One core answers {rate('echo-100')} small messages, or opens {rate('handshake')}"
            " WebSockets, in a second.",
        ]
    )


def _write_machine(results: Results) -> str:
    machine = results.machine
    lines = [
        f"- {machine.cpu}, {machine.cores} cores, {machine.kernel}",
        f"- {machine.python}; "
        + ", ".join(
            f"{name} {machine.versions[name]}" for name in ("gevent", "gunicorn", "uvloop")
        ),
        f"- {machine.day}, rounds: {results.rounds}, each measure {results.seconds:g} s",
    ]
    lines += [f"- {peer.label(machine.versions)}: {peer.how}" for peer in results.peers]
    return "\n".join(lines)


def _write_table(
    results: Results,
    scenarios: list[Scenario],
    figure_of: Callable[[Scenario, Peer], Figure | None],
) -> str:
    rows = [[f"{scenario.title}<br>{scenario.subtitle}" for scenario in scenarios]]
    for peer in results.peers:
        rows.append([_cell(figure_of(each, peer), each, peer) for each in scenarios])
    return _join(results, rows)


def _write_latencies(results: Results, scenario: Scenario) -> str:
    rows = [[f"{100 * part:g} %" for part in LATENCIES]]
    for peer in results.peers:
        figures = [results.latencies(scenario, peer, key) for key in LATENCIES.values()]
        rows.append([_cell(figure, scenario, peer) for figure in figures])
    return _join(results, rows)


def _cell(figure: Figure | None, scenario: Scenario, peer: Peer) -> str:
    if figure is None:
        return "failed" if scenario.suits(peer) else "-"
    return str(figure)


def _join(results: Results, cells: list[list[str]]) -> str:
    """A table of the servers, from its heads and its rows."""
    heads, *rest = cells
    rows = [["Server", *heads], ["---"] + ["---:"] * len(heads)]
    rows += [[peer.name, *row] for peer, row in zip(results.peers, rest, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
