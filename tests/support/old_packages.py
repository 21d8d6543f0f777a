"""Packages from PyPI that want gevent-websocket, which must not be installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import INSTALL_SECONDS, exclusive, missing

OLD = Path(__file__).parent / "old"
PACKAGES = OLD / ".packages"  # pytest looks for no tests in it


@pytest.fixture(scope="session")
def old_packages() -> str:
    """The directory of what tests/support/old/requirements.txt asks for."""
    with exclusive("old-packages"):
        install()
    return str(PACKAGES)


def install() -> None:
    """Run ``pip install``, unless the requirements are those of the last time."""
    requirements = OLD / "requirements.txt"
    stamp = PACKAGES / "installed.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--upgrade",
            "--target",
            PACKAGES,
            "--requirement",
            requirements,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            missing("pip install takes too long")
        except subprocess.CalledProcessError as problem:
            missing(f"pip install failed: {problem.stderr.decode(errors='replace')}")
        stamp.write_text(requirements.read_text())
