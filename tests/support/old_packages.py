"""gevent-websocket from PyPI, and packages that want it; they are not installed for other tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import INSTALL_SECONDS, exclusive, missing

OLD = Path(__file__).parent / "old"


@pytest.fixture(scope="session")
def old_packages() -> str:
    """The directory of packages that want gevent-websocket, without gevent-websocket."""
    return install("requirements")


@pytest.fixture(scope="session")
def gevent_websocket() -> str:
    """The directory of gevent-websocket itself."""
    return install("gevent_websocket")


def install(name: str) -> str:
    """Run ``pip install`` for a file of requirements, unless it has not changed since."""
    requirements = OLD / f"{name}.txt"
    packages = OLD / ".packages" / name  # pytest looks for no tests in it
    stamp = packages / "installed.txt"
    with exclusive("old-packages"):
        if not stamp.exists() or stamp.read_text() != requirements.read_text():
            download(requirements, packages)
            stamp.write_text(requirements.read_text())
        return str(packages)


def download(requirements: Path, packages: Path) -> None:
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
        packages,
        "--requirement",
        requirements,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        missing("pip install takes too long")
    except subprocess.CalledProcessError as problem:
        missing(f"pip install failed: {problem.stderr.decode(errors='replace')}")
