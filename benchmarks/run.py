"""Compare geventws with other WebSocket servers: CPU time for a message, round by round."""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import chart
import lab
from lab import BUILD, HERE, CannotRunError
from peers import PEERS, Peer, Server, running
from report import Results, short, write_page, write_summary
from scenarios import SCENARIOS, MeasureError, Sample, Scenario, measure

REFERENCE = "picows"

#: By scenario and server, a sample a round.
Samples = dict[tuple[str, str], list[Sample | None]]


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run(options)
    except CannotRunError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 2
    is_whole = results.peers == PEERS and results.scenarios == SCENARIOS
    write(results, HERE if is_whole else BUILD)
    if is_whole:
        write_beginning(results, lab.ROOT / "docs" / "benchmarks.md")
    return int(any(None in samples for samples in results.samples.values()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Only a run of everything writes results.md and its charts beside this program, and"
        " the figures in docs/benchmarks.md; a part goes into its folder build. build/rounds.json"
        " has every sample of the last run.",
    )
    peers = [peer.name for peer in PEERS]
    scenarios = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--servers",
        nargs="+",
        choices=peers,
        default=peers,
        metavar="SERVER",
        help=f"some of {', '.join(peers)}; {REFERENCE} is always measured, for comparison",
    )
    parser.add_argument(
        "--scenarios",
        nargs="+",
        choices=scenarios,
        default=scenarios,
        metavar="SCENARIO",
        help=f"some of {', '.join(scenarios)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measure (%(default)s)")
    options = parser.parse_args()
    if options.rounds < 1 or not 0.05 <= options.seconds <= 60:
        parser.error("at least 1 round, and 0.05 to 60 seconds")
    return options


def run(options: argparse.Namespace) -> Results:
    """Measure what was chosen."""
    if sys.platform != "linux":
        raise CannotRunError("the benchmark needs Linux: its load generator uses epoll")
    python, program = lab.install(), lab.compile_load()
    machine = lab.describe(python)
    print(machine, flush=True)
    raise_descriptor_limit()
    peers = [peer for peer in PEERS if peer.name in {*options.servers, REFERENCE}]
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenarios]
    samples: Samples = defaultdict(list)
    begun = time.monotonic()
    for i in range(options.rounds):
        print(f"round {i + 1} of {options.rounds}", flush=True)
        run_round(peers, scenarios, samples, python, program, options.seconds)
    print(f"{time.monotonic() - begun:.0f} s")
    reference = next(peer for peer in peers if peer.name == REFERENCE)
    return Results(machine, peers, scenarios, reference, options.rounds, options.seconds, samples)


def run_round(
    peers: Sequence[Peer],
    scenarios: Sequence[Scenario],
    samples: Samples,
    python: Path,
    program: Path,
    seconds: float,
) -> None:
    """Start every server afresh, then let one after the other do the same, so that what else the
    machine does in these seconds meets all of them."""
    server_core, load_core = lab.choose_cores()
    with ExitStack() as stack:
        servers = [stack.enter_context(running(peer, python, server_core)) for peer in peers]
        for scenario in scenarios:
            print(f"  {scenario.name + ':':14}", end="", flush=True)
            for server in filter(lambda server: scenario.suits(server.peer), servers):
                with lab.on_core(load_core):
                    sample = try_to_measure(scenario, server, program, seconds)
                samples[scenario.name, server.peer.name].append(sample)
                figure = short(scenario.cost(sample)) if sample else "failed"
                print(f" {server.peer.name} {figure}", end="", flush=True)
            print(" KiB" if scenario.is_memory else " µs", flush=True)


def try_to_measure(
    scenario: Scenario, server: Server, program: Path, seconds: float
) -> Sample | None:
    """A server that fails has a word about it in the table and does not keep the others from it."""
    try:
        return measure(scenario, server, program, seconds)
    except MeasureError as problem:
        print(f"\n{problem}", file=sys.stderr, flush=True)
        return None


def raise_descriptor_limit() -> None:
    """For the servers too: a thousand connections are more than a common limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write(results: Results, folder: Path) -> None:
    rounds = {" ".join(names): samples for names, samples in results.samples.items()}
    (BUILD / "rounds.json").write_text(json.dumps(rounds, indent=1))
    (folder / "results.md").write_text(write_page(results))
    (folder / "results.svg").write_text(chart.draw(results))
    for scenario in results.scenarios:
        if scenario.name == "echo-100":
            (folder / "costs.svg").write_text(chart.draw_costs(results, scenario))
    print(f"see {folder}/results.md and {folder}/results.svg")


def write_beginning(results: Results, page: Path) -> None:
    """Replace the figures at the beginning of a page, between two comments."""
    before, begin, rest = page.read_text().partition("<!-- make bench writes this -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    page.write_text(f"{before}{begin}{write_summary(results)}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
