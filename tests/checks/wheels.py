"""``make wheels``: builds a wheel for each Python that is here, and tests it as it is installed.

Everything comes from the sdist in ``dist``. For each Python, it is unpacked in ``build/wheels``,
and its wheel is installed in an empty environment. The tests are those of the sdist, without its
package. The arguments are Pythons; the default is all that are supported and on the PATH. Exits
with 1 if tests fail. PyPI takes no such wheels for Linux: cibuildwheel builds those.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "build" / "wheels"
SUPPORTED = [f"python3.{minor}" for minor in range(10, 15)]
TESTS = ["tests/connection", "tests/protocol", "tests/server"]
VERSION = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
LINK = re.compile(r'(?:\]\(|(?:src|srcset|href)=")([^)"\s]+)')


def version_of(python: str) -> str:
    """Return the version of a Python, or an empty string if it does not start."""
    if shutil.which(python) is None:
        return ""
    command = [python, "-c", VERSION]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def run(*command: str | Path, cwd: Path = WHEELS, **environment: str) -> int:
    environment = {**os.environ, **environment}
    return subprocess.run(command, check=False, cwd=cwd, env=environment).returncode


def test(python: str, folder: Path, sdist: Path) -> bool:
    """Build a wheel in ``folder``, and return whether its tests pass."""
    shutil.rmtree(folder, ignore_errors=True)
    source, venv = folder / "source", folder / "venv"
    source.mkdir(parents=True)
    pip = [venv / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    return not (
        run("tar", "-xf", sdist, "-C", source, "--strip-components=1")
        or run(python, "-m", "venv", venv)
        or run(*pip, "wheel", "--no-deps", "-w", folder, sdist, GEVENTWS_REQUIRE_EXTENSION="1")
        or run(*pip, "install", f"{next(folder.glob('*.whl'))}[test]")
        or shutil.rmtree(source / "geventws")
        or run(pip[0], "-m", "pytest", "-q", "-n", "auto", *TESTS, cwd=source)
    )


def relative_links(sdist: Path) -> list[str]:
    """Return the links of the description that lead nowhere on PyPI."""
    command = ["tar", "-xOf", sdist, f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO"]
    description = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    description = re.sub(r"(?ms)^```.*?^```", "", description)
    return [link for link in LINK.findall(description) if not re.match("https?:|#", link)]


def main(pythons: list[str]) -> int:
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    failed = relative_links(sdist)
    for python in pythons or filter(version_of, SUPPORTED):
        version = version_of(python)
        if not version or not test(python, WHEELS / version, sdist):
            failed.append(python)
    print("failed:" if failed else "All wheels pass.", *failed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
