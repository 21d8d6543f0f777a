"""Run the Autobahn|Testsuite against geventws and judge what it reports."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from subprocess import PIPE
from typing import Any

from processes import running
from suite import CannotRunError, install

CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*,12.*,13.*"
ACCEPTED = {"OK", "INFORMATIONAL"}
STRICT_GROUPS = {"3", "4", "6", "7"}  # in the others, NON-STRICT behaviour is accepted too
CASE_SECONDS = 500  # the suite itself allows up to 480 s, in group 12
CLOSING_SECONDS = 5  # for the server to drop TCP after a closing handshake that it began
RUN_SECONDS = 3600

HERE = Path(__file__).resolve().parent
LAB = HERE / "lab"


@dataclass(frozen=True)
class Result:
    """How a case went, in the suite's words."""

    case: str
    behavior: str = "NO RESULT"
    close: str = "NO RESULT"
    details: str = "it was not run, or not to its end: see suite.log"

    @property
    def passed(self) -> bool:
        strict = self.case.split(".")[0] in STRICT_GROUPS
        accepted = ACCEPTED if strict else ACCEPTED | {"NON-STRICT"}
        return self.behavior in accepted and self.close in ACCEPTED

    def __str__(self) -> str:
        return f"{self.case:8} {self.behavior}, close {self.close}"


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        python27 = install(LAB)
        results = [
            result
            for side in options.side
            for core in options.core
            for number in range(1, options.repeat + 1)
            for result in run(python27, options, side, core, number)
        ]
    except CannotRunError as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 2
    failed = {result.case for result in results if not result.passed}
    passed = {result.case for result in results} - failed
    print(f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="With several runs, a case has passed if it passed in all of them.",
    )
    parser.add_argument(
        "--cases", nargs="+", default=[CASES], help="patterns such as 6.* or 9.1.6 (%(default)s)"
    )
    parser.add_argument(
        "--side",
        nargs="+",
        choices=["server", "client"],
        default=["server", "client"],
        help="which side geventws is on, one run for each (default: both)",
    )
    parser.add_argument(
        "--core",
        nargs="+",
        choices=["python", "compiled"],
        default=[None],
        help="which core of geventws, one run for each (default: the one that is imported)",
    )
    parser.add_argument(
        "--messages", type=int, help="in each case of groups 12 and 13, instead of 1000"
    )
    parser.add_argument("--repeat", type=int, default=1, help="how many runs (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print each case as it finishes")
    return parser.parse_args()


def run(
    python27: Path, options: argparse.Namespace, side: str, wanted_core: str | None, number: int
) -> list[Result]:
    """Run the chosen cases once, print what came of them, and return it."""
    outdir = LAB / "reports" / f"{side}-{wanted_core or 'default'}-{number}"
    shutil.rmtree(outdir, ignore_errors=True)
    outdir.mkdir(parents=True)
    begun = time.monotonic()
    spec = {
        "outdir": str(outdir),
        "cases": [case for cases in options.cases for case in cases.split(",")],
        "messages": options.messages,
        "case_seconds": CASE_SECONDS,
        "closing_seconds": CLOSING_SECONDS,
    }
    fuzz = fuzz_server if side == "server" else fuzz_client
    core, results = fuzz(python27, spec, wanted_core, options.verbose)
    if not results:
        raise CannotRunError(f"no case matches {' '.join(spec['cases'])}")
    seconds = time.monotonic() - begun
    print(f"{side}, {core} core: {len(results)} cases in {seconds:.0f} s, see {outdir}/index.html")
    print_summary(results)
    if (outdir / "geventws.log").stat().st_size:
        print(f"  geventws has something to say: {outdir}/geventws.log")
    return results


def fuzz_server(
    python27: Path, spec: dict[str, Any], wanted_core: str | None, verbose: bool
) -> tuple[str, list[Result]]:
    """Let the suite's client loose on our server; returns which core that ran, and what came."""
    with geventws(spec, wanted_core, "echo_server.py") as lines:
        port, core = next(lines).split()
        check_core(core, wanted_core)
        spec["servers"] = [{"agent": f"geventws {core}", "url": f"ws://127.0.0.1:{port}"}]
        with suite(python27, spec, "fuzzing_client.py") as reports:
            return core, collect(json.loads(next(reports)), reports, verbose)


def fuzz_client(
    python27: Path, spec: dict[str, Any], wanted_core: str | None, verbose: bool
) -> tuple[str, list[Result]]:
    """Let the suite's server loose on our client; returns which core that ran, and what came."""
    spec["url"] = "ws://127.0.0.1:9001"  # it wants one, and listens where it is told to
    with suite(python27, spec, "fuzzing_server.py") as reports:
        chosen = json.loads(next(reports))
        arguments = str(chosen["port"]), str(len(chosen["cases"]))
        with geventws(spec, wanted_core, "echo_client.py", *arguments) as lines:
            core = next(lines).strip()
            check_core(core, wanted_core)
            return core, collect(chosen["cases"], reports, verbose)


@contextmanager
def geventws(
    spec: dict[str, Any], wanted_core: str | None, script: str, *arguments: str
) -> Iterator[Iterator[str]]:
    """Run one of the scripts that use geventws; the block reads what it prints."""
    environ = dict(os.environ)
    if wanted_core:
        environ["GEVENTWS_PURE_PYTHON"] = "1" if wanted_core == "python" else ""
    log = Path(spec["outdir"], "geventws.log")
    with reading(log, sys.executable, HERE / script, *arguments, env=environ) as lines:
        yield lines


def check_core(core: str, wanted: str | None) -> None:
    if wanted not in (None, core):
        raise CannotRunError(f"geventws has no {wanted} core here, only the {core} one")


@contextmanager
def suite(python27: Path, spec: dict[str, Any], script: str) -> Iterator[Iterator[str]]:
    """Run one of the scripts that use the suite; the block reads its JSON lines."""
    log = Path(spec["outdir"], "suite.log")
    with reading(log, python27, "-EWignore", HERE / script, json.dumps(spec)) as lines:
        yield lines


def collect(chosen: list[str], reports: Iterator[str], verbose: bool) -> list[Result]:
    """The results to the last; a case that the suite says nothing about has one too."""
    results = {}
    for line in reports:
        result = read_report(json.loads(line))
        results[result.case] = result
        if verbose:
            print(result, flush=True)
    return [results.get(case) or Result(case) for case in chosen]


@contextmanager
def reading(log: Path, *command: str | Path, **options: Any) -> Iterator[Iterator[str]]:
    """Run a command that prints at least one line; the block reads the lines as they come."""
    with (
        log.open("w") as stderr,
        running(command, RUN_SECONDS, stdout=PIPE, stderr=stderr, **options) as process,
    ):
        lines = iter(process.stdout or ())
        first = next(lines, None)
        if first is None:
            raise CannotRunError(f"{log.read_text(errors='replace')}\nsee {log}")
        yield chain([first], lines)


def read_report(report: dict[str, Any]) -> Result:
    details = "; ".join(dict.fromkeys(explain(report)))
    return Result(report["id"], report["behavior"], report["behaviorClose"], details)


def explain(report: dict[str, Any]) -> Iterator[str]:
    if report["behavior"] not in ACCEPTED:
        yield report["result"]
        if report["result"].startswith("Actual events"):
            yield f"expected {report['expected']}, received {report['received']}"
    if report["behaviorClose"] not in ACCEPTED:
        yield report["resultClose"]
        yield f"received close code {report['remoteCloseCode']}, {report['remoteCloseReason']!r}"
        if report["wasNotCleanReason"]:
            yield report["wasNotCleanReason"]


def print_summary(results: list[Result]) -> None:
    for name, outcomes in (
        ("behavior", Counter(result.behavior for result in results)),
        ("behaviorClose", Counter(result.close for result in results)),
    ):
        print(f"  {name}:", ", ".join(f"{number} {how}" for how, number in outcomes.most_common()))
    for result in results:
        if not result.passed:
            print(f"  {result}\n           {result.details}")


if __name__ == "__main__":
    sys.exit(main())
