"""The packages from npm that tests run in Node and in browsers."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.tools import INSTALL_SECONDS, exclusive, missing, need

NODE = Path(__file__).parent / "node"
MODULES = NODE / "node_modules"


@pytest.fixture(scope="session")
def node_modules() -> None:
    """What tests/support/node/package.json asks for, installed beside it once and then kept."""
    npm = need("npm", "apt-get install npm")
    with exclusive("npm"):
        install(npm)


def install(npm: str) -> None:
    """Run ``npm install``, unless everything is there."""
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    if all(version_of(package) == version for package, version in wanted.items()):
        return
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        subprocess.run(command, cwd=NODE, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        missing("npm install takes too long")
    except subprocess.CalledProcessError as problem:
        missing(f"npm install failed: {problem.stderr.decode(errors='replace')}")


def version_of(package: str) -> str | None:
    """The version that is installed."""
    try:
        return json.loads((MODULES / package / "package.json").read_text())["version"]
    except FileNotFoundError:
        return None
