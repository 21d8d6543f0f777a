"""``make wheels``: builds a wheel for each Python that is here, and tests it as it is installed.

Everything comes from the sdist in ``dist``. For each Python, it is unpacked in ``build/wheels``,
and its wheel is installed in an empty environment. The tests are those of the sdist. Its package
loses ``__init__.py``, so that only the installed one can be imported. The arguments are Pythons;
the default is all that are supported and on the PATH. Exits with 1 if a step fails. PyPI takes no
such wheels for Linux: cibuildwheel builds those.
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


def run(*command: str | Path, cwd: Path = WHEELS, **environment: str) -> None:
    subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=True)


def test(python: str, folder: Path, sdist: Path) -> None:
    """Build a wheel in ``folder``, and run the tests with it.

    :raises subprocess.CalledProcessError: if a step fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source, venv = folder / "source", folder / "venv"
    source.mkdir(parents=True)
    run("tar", "-xf", sdist, "-C", source, "--strip-components=1")
    (source / "geventws" / "__init__.py").unlink()
    run(python, "-m", "venv", venv)
    new = venv / "bin" / "python"
    pip = [new, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "-w", folder, sdist, GEVENTWS_REQUIRE_EXTENSION="1")
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", f"{wheel}[test]")
    run(new, "-m", "pytest", "-q", "-n", "auto", "--reruns", "1", *TESTS, cwd=source)


def relative_links(sdist: Path) -> list[str]:
    """Return the links of the description that lead nowhere on PyPI."""
    command = ["tar", "-xOf", sdist, f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO"]
    description = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    description = re.sub(r"(?ms)^```.*?^```", "", description)
    return [link for link in LINK.findall(description) if not re.match("https?:", link)]


def main(pythons: list[str]) -> int:
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    failed = relative_links(sdist)
    for python in pythons or filter(version_of, SUPPORTED):
        try:
            test(python, WHEELS / version_of(python), sdist)
        except subprocess.CalledProcessError as error:
            failed.append(f"{python}: {error}")
    print("\n".join(failed) or "All wheels pass.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
