"""``python -m geventws``, as a user meets it."""
import signal
import subprocess
import sys

import pytest

from tests.support.client import TEXT, close_frame, frame, request
from tests.support.servers import ROOT, arguments_of, serving


def run(*arguments):
    """Run the command line to its end; returns its status and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "geventws", *arguments], cwd=ROOT, text=True, timeout=30,
        capture_output=True, check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_closes_the_clients_with_1001_and_stops_quietly(tmp_path, signum):
    with serving(arguments_of("cli"), tmp_path / "log") as process:
        clients = [process.client().open() for _ in range(3)]
        process.process.send_signal(signum)
        for client in clients:
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
            assert client.read_to_end() == b""
            client.sock.close()
        assert process.stop() == 0
        assert "Traceback" not in process.output
        assert "KeyboardInterrupt" not in process.output


def test_a_second_ctrl_c_waits_for_nobody(tmp_path):
    arguments = arguments_of("cli")
    arguments[arguments.index("tests.support.apps:site")] = "tests.test_drain:stuck"
    with serving(arguments, tmp_path / "log") as process, process.client().open() as client:
        process.process.send_signal(signal.SIGINT)
        assert client.read_close() == (1001, "")
        process.process.send_signal(signal.SIGINT)
        assert client.read_to_end() == b""
        assert process.stop(seconds=5) == 0
        assert "Traceback" not in process.output


def test_requests_and_connections_have_a_line_each(tmp_path):
    with serving(arguments_of("cli"), tmp_path / "log") as process:
        with process.client() as client:
            client.send(request("/plain", without="Upgrade"))
            assert client.read_response() == ("200", b"plain")
        with process.client().open() as client:
            client.send(frame(TEXT, "x"))
            assert client.read_frame() == (TEXT, b"x")
            client.finish()
        process.wait_for('"GET /plain HTTP/1.1" 200')
        process.wait_for('"GET /echo HTTP/1.1" 101')
        assert process.output.startswith("Serving tests.support.apps:site on http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere:app"], "geventws: there is no module nowhere here"),
        (["tests.support.nowhere:app"], "geventws: there is no module tests.support.nowhere here"),
        (["tests.support.apps:nothing"], "geventws: tests.support.apps has no nothing"),
        (["tests.support.apps:PLAIN"],
         "geventws: tests.support.apps:PLAIN is not a WSGI application: it cannot be called"),
        (["tests.support.apps:site", "--bind", "8000"],
         "geventws: 8000 is not of the form HOST:PORT"),
        (["tests.support.apps:site", "--bind", "localhost:99999"],
         "geventws: localhost:99999 is not of the form HOST:PORT"),
    ],
)
def test_a_mistake_is_one_clear_sentence(arguments, sentence):
    assert run(*arguments) == (2, sentence)


def test_a_port_in_use_is_one_clear_sentence(serve):
    server = serve(lambda environ, start_response: [])
    address = f"127.0.0.1:{server.server_port}"
    status, sentence = run("tests.support.apps:site", "--bind", address)
    assert status == 2
    assert sentence.startswith(f"geventws: cannot listen on {address}: Address already in use")
    assert "\n" not in sentence


def test_a_fault_inside_the_module_keeps_its_traceback(tmp_path):
    (tmp_path / "faulty.py").write_text("import not_installed\n")
    done = subprocess.run(
        [sys.executable, "-m", "geventws", "faulty:app"], cwd=tmp_path, text=True, timeout=30,
        capture_output=True, check=False,
    )
    assert done.returncode == 1
    assert "No module named 'not_installed'" in done.stderr


def test_version():
    import geventws

    assert run("--version") == (0, f"geventws {geventws.__version__} ({geventws.__core__} core)")
