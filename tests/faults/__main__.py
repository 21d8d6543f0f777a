"""``make faults``: ``Broadcast`` on Redis while something fails.

Each fault is one trial: gunicorn with three workers, real Redis servers, clients that come and go,
and publishers inside and outside the workers. The command prints one row of a table for each
fault. All numbers from "duplicates" on, except "gaps told", must be 0; otherwise the exit status
is 1. :mod:`.ledger` defines them.
"""

import argparse
import shutil
import signal
import sys
import traceback

from tests.faults.faults import FAULTS
from tests.faults.trial import COLUMNS, Size, Trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("names", nargs="*", metavar="fault", help="by default, all")
    parser.add_argument("--list", action="store_true", help="list the faults, and exit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--traffic", type=float, default=1.5, help="seconds before and after")
    parser.add_argument("--rounds", type=int, default=3, help="how often a fault is injected")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--details", type=int, default=3, help="findings of each kind to print")
    options = parser.parse_args()
    # A background shell makes Python ignore Ctrl-C. Both signals end the servers of the trial, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.name:22} {fault.description}")
        return 0
    if unknown := set(options.names) - FAULTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; see --list")
    if shutil.which("redis-server") is None:
        parser.error("redis-server is not installed: apt-get install redis-server")
    size = Size(
        workers=options.workers,
        clients=options.clients,
        rounds=options.rounds,
        traffic=options.traffic,
    )
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'|'.join(['---', *['---:'] * (len(COLUMNS) - 2), '---'])}|", flush=True)
    failed, details = [], []
    for name in options.names or FAULTS:
        try:
            result = Trial(FAULTS[name], seed=options.seed, size=size).run()
        except Exception:  # noqa: BLE001 - the other faults follow
            failed.append(name)
            details.append(f"{name}: the trial itself failed\n{traceback.format_exc()}")
            print(f"| {name} | **the trial itself failed** |", flush=True)
            continue
        print(result.row(), flush=True)
        if not result.is_good:
            failed.append(name)
            details += result.details(options.details)
    print()
    for detail in details:
        print(detail)
    print(f"{len(failed)} faults with findings: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
