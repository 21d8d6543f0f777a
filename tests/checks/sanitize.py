"""``make sanitize``: the tests, with the compiled core under ASan and UBSan. Needs gcc.

Works on a copy in ``build/sanitize``. Arguments go to pytest. Left out are the tests whose programs
do not bear the preloaded runtime (browsers and Node.js) or do not get it (systemd's), and one that
measures what the runtime's allocator keeps.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREE = ROOT / "build" / "sanitize"
# Not the stack: greenlet moves what is on it away and back, and the runtime cannot know.
FLAGS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined --param asan-stack=0"
LEFT_OUT = [
    "tests/test_interop.py",
    "tests/test_frameworks.py",
    "tests/test_browsers.py",
    "tests/test_flask.py::test_herokus_chat_runs_with_one_import_changed",
    "tests/cli/test_cli.py::test_a_socket_of_systemd_is_taken_over",
    "tests/test_deploy.py::test_systemds_socket_is_gunicorns",
    "tests/connection/test_sweeper.py::test_memory_goes_back_to_the_system_when_many_connections_have_gone",
]
#: What the runtimes write on an error; also found in the logs of the servers under test.
REPORTS = ("AddressSanitizer", "runtime error:")


def copy_tree() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, TREE / name)


def build_core() -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(TREE / "built"),
            str(TREE),
        ],
        env={**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS, "GEVENTWS_REQUIRE_EXTENSION": "1"},
        check=True,
    )
    for core in (TREE / "built").rglob("*.so"):
        shutil.move(core, TREE / core.relative_to(TREE / "built"))
    shutil.rmtree(TREE / "built")


def library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, text=True, stdout=subprocess.PIPE
    )
    return found.stdout.strip()


def run_tests(arguments: list[str]) -> int:
    # greenlet is in C++ and throws: ASan must find its runtime, too.
    preload = " ".join(map(library, ["libasan.so", "libstdc++.so"]))
    ignored = [f"--deselect={name}" for name in LEFT_OUT]
    log = TREE / "reports"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(arguments or ["tests"]), *ignored],
        cwd=TREE,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": preload,
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={log}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
        },
    )
    reports = [path.read_text(errors="replace") for path in TREE.glob("reports*")]
    found = [text for text in reports if any(word in text for word in REPORTS)]
    for text in found:
        print(text)
    print(f"{len(found)} reports of the sanitizers, pytest's status is {done.returncode}")
    return int(bool(found) or done.returncode != 0)


if __name__ == "__main__":
    copy_tree()
    build_core()
    sys.exit(run_tests(sys.argv[1:]))
