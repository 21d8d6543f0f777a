"""``make fuzz``: random input, guided by coverage, for the parsers and for the handshake.

Needs atheris. What fails is written to ``build/fuzz/`` and makes the exit status 1. Input that
reaches new code is kept in ``build/fuzz/corpus/``, which the next run begins with.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "build" / "fuzz"
#: The targets, and how their time compares.
SHARES = {"parser": 3, "served": 2, "environ": 1, "response": 1}


def parser_target(data: bytes) -> None:
    """The first bytes say how the rest comes in."""
    from geventws.protocol.permessage_deflate import Agreement
    from tests.fuzz.twins import check

    if len(data) < 8:
        return
    flags, limit, close_at, *steps = data[:8]
    stream = data[8:]
    cuts, at = [], 0
    while at < len(stream) and len(cuts) < 64:
        at += 1 + steps[len(cuts) % len(steps)]
        cuts.append(min(at, len(stream)))
    check(
        stream,
        cuts,
        client=bool(flags & 1),
        borrowed=bool(flags & 2),
        max_message_size=1 + limit * (1 if flags & 8 else 300),
        close_at=close_at if flags & 4 else None,
        agreement=Agreement(bool(flags & 32), bool(flags & 32)) if flags & 16 else None,
    )


def fuzz(target: str, seconds: int) -> None:
    """Run one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["geventws"]):
        from tests.fuzz import request, response
    functions = {
        "parser": parser_target,
        "served": request.check_served,
        "environ": request.check_environ,
        "response": response.check_response_of,
    }
    own = WORK / "corpus" / target
    own.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        str(own),
        str(HERE / "corpus" / target),
        f"-max_total_time={seconds}",
        f"-artifact_prefix={WORK}/{target}-",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-verbosity=1",
        "-print_final_stats=1",
        "-max_len=4096",
    ]
    atheris.Setup(arguments, functions[target])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--target", choices=SHARES)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("There is no atheris for this Python; tests/test_properties.py has to do.")
        return 0
    if options.target:
        fuzz(options.target, options.seconds)
    status = 0
    for target, share in SHARES.items():
        seconds = max(1, options.seconds * share // sum(SHARES.values()))
        command = ["-m", "tests.fuzz", "--target", target, "--seconds", str(seconds)]
        done = subprocess.run(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        inputs = next(
            (line.split()[-1] for line in done.stdout.splitlines() if "executed_units" in line), "?"
        )
        verdict = f"failed with {done.returncode}" if done.returncode else "no fault"
        print(f"{target}: {inputs} inputs in {seconds} seconds, {verdict}", flush=True)
        if done.returncode:
            print(done.stdout)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
