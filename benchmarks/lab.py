"""The tools of the benchmark: peers, a load generator, and a description of the machine."""
# ruff: noqa: S603, T201

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"
VENV = HERE / ".venv"
REQUIREMENTS = HERE / "requirements.txt"
INSTALL_SECONDS = 900

#: Asked in the environment of the peers, since this program runs in another one.
VERSIONS = """
import json
from importlib.metadata import distributions
import geventws
found = {each.metadata["Name"].lower(): each.version for each in distributions()}
print(json.dumps(found | {"geventws": geventws.__version__, "core": geventws.__core__}))
"""


class CannotRunError(Exception):
    """There is nothing to measure; the text says why, and what to do about it."""


@dataclass(frozen=True)
class Machine:
    """Where the figures come from, in words."""

    cpu: str
    cores: int
    kernel: str
    python: str
    day: str
    versions: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores · {self.kernel} · {self.python} · {self.day}"


def install() -> Path:
    """Return a Python that can import the peers; only the first call has to make it."""
    python = VENV / "bin" / "python"
    stamp = VENV / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"installing the peers into {VENV}", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        _run(sys.executable, "-m", "venv", VENV)
        quiet = ["--quiet", "--disable-pip-version-check"]
        _run(python, "-m", "pip", "install", *quiet, "--requirement", REQUIREMENTS)
        stamp.write_text(wanted)
    return python


def compile_load() -> Path:
    """Return the load generator, compiled if that has not been done."""
    source, program = HERE / "load.c", BUILD / "load"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotRunError("the load generator needs a C compiler: install gcc, or set CC")
    BUILD.mkdir(exist_ok=True)
    _run(*compiler.split(), "-O2", "-std=gnu11", "-o", program, source, "-ldl")
    return program


def peers_environ() -> dict[str, str]:
    """In it the servers import geventws from this tree."""
    environ = {name: value for name, value in os.environ.items() if "GEVENTWS" not in name}
    return environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def describe(python: Path) -> Machine:
    """Look at the machine, and at what is installed there for ``python``."""
    versions = json.loads(_run(python, "-c", VERSIONS, environ=peers_environ()))
    if versions["core"] != "compiled":
        raise CannotRunError("geventws has no compiled core here: `make bench` builds it")
    return Machine(
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        day=date.today().isoformat(),
        versions=versions,
    )


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _run(*command: str | Path, environ: Mapping[str, str] | None = None) -> str:
    """Return what a command prints."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            env=environ,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise CannotRunError(str(problem)) from problem
    if done.returncode:
        raise CannotRunError(f"{done.stdout}{done.stderr}\n{command[0]} failed")
    return done.stdout


def choose_cores() -> tuple[int, int]:
    """The server's core and the load's; the same one where there is no other."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Children that are started in the block run on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
