"""PostgreSQL servers for the tests: their own, on free ports, in temporary directories."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.redis import free_port
from tests.support.tools import missing

APT = "apt-get install postgresql"


def find_program(name: str) -> str:
    """The path of a program of the server. Debian keeps the programs of each version apart."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if path is None:
        missing(f"{name} is not installed: {APT}")
    assert path is not None
    return path


class PostgreSQLServer:
    """One server, which can be killed, stopped for a while, and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        # The path of its unix socket must be short, and another user must reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql", dir="/tmp"))
        self.as_user: dict[str, object] = {}
        if os.getuid() == 0:  # as which PostgreSQL refuses to run
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.data = self.folder / "data"
        self.process: subprocess.Popen | None = None
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")

    def run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [find_program(program), *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
            **self.as_user,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = "-c shared_buffers=16MB -c max_connections=60 -c listen_addresses=127.0.0.1"
        with self.folder.joinpath("log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    find_program("postgres"),
                    *("-D", self.data, "-p", str(self.port), "-k", self.folder),
                    *options.split(),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.as_user,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or not self.is_running:
                    raise AssertionError(self.folder.joinpath("log").read_text()) from None
            time.sleep(0.05)

    def execute(self, statements: str, database: str = "postgres") -> list[tuple]:
        """Execute statements as an administrator, and return the rows of the last one."""
        with psycopg.connect(self.url_of(database), autocommit=True) as connection:
            cursor = connection.execute(statements)
            return cursor.fetchall() if cursor.description else []

    def processes(self) -> list[int]:
        """The process that accepts connections, and all its children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def send_signal(self, number: int) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill all processes of the server, as a power cut would."""
        self.send_signal(signal.SIGSTOP)  # so that it does not start new processes
        self.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def remove(self) -> None:
        if self.is_running:
            self.kill()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer()
    yield server
    server.remove()


@pytest.fixture
def postgresql_server(shared_postgresql: PostgreSQLServer) -> PostgreSQLServer:
    """A running server. A test may kill it: the next test starts it again."""
    if not shared_postgresql.is_running:
        shared_postgresql.start()
    return shared_postgresql
