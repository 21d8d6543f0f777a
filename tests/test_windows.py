"""What works without the names that Python lacks on Windows. Nothing here runs on Windows."""

import os
import pty
import signal
import subprocess
import sys
from errno import EAFNOSUPPORT

import pytest
from gevent.socket import wait_read
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from geventws.connection.tcp import NO_UNIX_SOCKETS
from tests.support.apps import site
from tests.support.servers import ROOT, serving

WITHOUT_POSIX = ["-m", "tests.support.windows"]
PATIENCE = 30


def run(*arguments: str, typed: str | None = None) -> subprocess.CompletedProcess:
    """Run a module without POSIX to its end."""
    command = [sys.executable, "-W", "error", "-W", "ignore:Monkey", *WITHOUT_POSIX, *arguments]
    return subprocess.run(
        command,
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )


def test_server_client_broadcast_threads_and_tls_need_nothing_of_posix():
    done = run("tests.support.windows_program")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"[Errno {EAFNOSUPPORT}] cannot connect to /nowhere: {NO_UNIX_SOCKETS}",
        f"cannot listen on unix:/nowhere: {NO_UNIX_SOCKETS}",
        "a broadcast on PostgreSQL does not work on Windows",
    ]


def test_the_command_line_serves_and_connects_and_stops(tmp_path):
    arguments = [*WITHOUT_POSIX, "geventws", "tests.support.apps:site", "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log") as server:
        url = f"ws://127.0.0.1:{server.address[1]}/"
        done = run("geventws", "connect", url, typed="hello\n")
        assert (done.returncode, done.stdout.split()[:2]) == (0, ["<", "hello"])
        with connect(url, proxy=None) as ws:
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv(PATIENCE)
            assert caught.value.rcvd.code == 1001
        assert server.process.wait(PATIENCE) == 0


def test_the_interactive_client_ends_without_a_signal_when_the_server_has_closed(serve):
    url = f"ws://127.0.0.1:{serve(site).server_port}/close"
    ours, theirs = pty.openpty()
    command = [sys.executable, *WITHOUT_POSIX, "geventws", "connect", url]
    # prompt_toolkit would call functions of Windows: a dumb terminal has no prompt.
    pipes = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TERM": "dumb"}, **pipes
    ) as process:
        os.close(theirs)
        output = b""
        while b"closed with 4001 not you" not in output:
            wait_read(ours, PATIENCE)
            output += os.read(ours, 1024)
        assert process.wait(PATIENCE) == 1
    os.close(ours)


def test_the_command_line_says_that_one_process_must_do():
    done = run("geventws", "tests.support.apps:site", "--reload")
    assert done.returncode == 2
    assert done.stderr == "geventws: --reload and --workers do not work on Windows\n"
