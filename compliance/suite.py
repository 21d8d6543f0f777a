"""Install the Autobahn|Testsuite, which needs Python 2.7, into a separate directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from processes import running

REQUIREMENTS = Path(__file__).with_name("requirements-py27.txt")
VIRTUALENV = "virtualenv==20.21.1"  # the last that makes environments for 2.7
INSTALL_SECONDS = 900  # there is C to compile
PIP = ["-m", "pip", "install", "--disable-pip-version-check"]


class CannotRunError(Exception):
    """There is nothing to judge; the text says why, and what to do about it."""


def install(lab: Path) -> Path:
    """Return a Python 2.7 that can import the suite; only the first call has to make it."""
    python = lab / "py27" / "bin" / "python"
    stamp = lab / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted and _works(python)):
        stamp.unlink(missing_ok=True)
        _install_afresh(lab, python)
        stamp.write_text(wanted)
    return python


def _install_afresh(lab: Path, python: Path) -> None:
    base = _find_python27()
    virtualenv, environment, log = lab / "virtualenv", python.parent.parent, lab / "install.log"
    print(f"installing the Autobahn|Testsuite for {base}, see {log}", flush=True)
    lab.mkdir(exist_ok=True)
    log.write_text("")
    for made_before in virtualenv, environment:
        shutil.rmtree(made_before, ignore_errors=True)
    _run(log, sys.executable, *PIP, "--target", virtualenv, VIRTUALENV)
    _run(
        log,
        *(sys.executable, "-m", "virtualenv", "--no-periodic-update"),
        *("--python", base, environment),
        pythonpath=virtualenv,
    )
    _run(log, python, *PIP, "--no-deps", "--requirement", REQUIREMENTS)


def _run(log: Path, *command: str | Path, pythonpath: str | Path = "") -> None:
    environ = os.environ | {"PYTHONPATH": str(pythonpath)}
    with log.open("a") as output:
        options = {"stdout": output, "stderr": output, "env": environ}
        with running([*command], INSTALL_SECONDS, **options) as process:
            status = process.wait()
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise CannotRunError(f"{tail}\nthe installation failed, see {log}")


def _find_python27() -> Path:
    for candidate in _candidates():
        if _works(candidate):
            return candidate
    raise CannotRunError(
        "the Autobahn|Testsuite needs a CPython 2.7 with ssl and zlib: make one with"
        " `pyenv install 2.7.18`, or name one in the environment variable PYTHON27"
    )


def _candidates() -> Iterator[Path]:
    if chosen := os.environ.get("PYTHON27"):
        yield Path(chosen)
        return
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/2.7*/bin/python2.7"))
    yield from (Path(directory, "python2.7") for directory in os.get_exec_path())


def _works(python: Path) -> bool:
    """Try it: a python2.7 on the PATH may be pyenv's shim, which runs nothing."""
    check = "import ssl, sys, zlib; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        subprocess.run([python, "-Ec", check], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
