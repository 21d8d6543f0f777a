"""``gunicorn -k geventws.Worker``, and the other ways into gunicorn where they differ."""

import contextlib
import os
import signal
from collections import Counter

import gevent
import pytest
from gevent import socket

from tests.support.client import TEXT, RawClient, are_sent_away, close_frame, frame, request
from tests.support.servers import ROOT, arguments_of, serving

SITE = "tests.support.apps:site"
WRAPPED = "tests.support.serve:application"


@pytest.fixture
def gunicorn(tmp_path):
    """``with gunicorn(*arguments) as process``: our worker and the tests' site."""

    def start(*arguments, **environment):
        command = [*arguments_of("gunicorn-worker"), *arguments]
        return serving(command, tmp_path / "log", **environment)

    return start


def echo(client):
    client.send(frame(TEXT, "hello"))
    assert client.read_frame() == (TEXT, b"hello")


def test_sigterm_closes_every_websocket_with_1001_and_leaves_soon(gunicorn):
    with gunicorn("--graceful-timeout", "30") as process:
        clients = [process.client().open() for _ in range(5)]
        os.kill(process.process.pid, signal.SIGTERM)
        are_sent_away(clients)
        assert process.stop(seconds=10) == 0
        assert "Worker graceful timeout" not in process.output
        assert process.output.count('"GET /echo HTTP/1.1" 101') == 5


def test_a_sigterm_that_comes_while_a_worker_starts_is_not_lost(gunicorn, tmp_path):
    (tmp_path / "conf.py").write_text(
        "import os, signal\n"
        "def post_fork(server, worker):\n"
        "    patch = worker.patch\n"
        "    worker.patch = lambda: [os.kill(os.getpid(), signal.SIGTERM), patch()]\n"
    )
    with gunicorn("-c", str(tmp_path / "conf.py")) as process:
        process.wait_for("Worker exiting")
        process.wait_for("(?s)Booting worker.*Booting worker")


def test_ctrl_c_which_the_terminal_and_the_master_both_pass_on_is_quiet(gunicorn):
    with gunicorn() as process:
        worker = int(process.wait_for(r"Booting worker with pid: (\d+)")[1])
        with process.client().open() as client:
            client.finish()
        os.kill(worker, signal.SIGINT)
        assert process.stop(signal.SIGINT) == 0
        assert "Traceback" not in process.output


def test_sighup_moves_the_clients_to_a_new_worker(gunicorn):
    with gunicorn() as process:
        with process.client().open() as client:
            os.kill(process.process.pid, signal.SIGHUP)
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
        process.wait_for("(?s)Booting worker.*Booting worker")
        with process.client().open() as client:
            echo(client)
            client.finish()


def test_max_requests_counts_websockets_and_restarts_the_worker(gunicorn):
    with gunicorn("--max-requests", "3") as process:
        for _ in range(3):
            with process.client().open("/leave") as client:
                assert client.read_frame() == (TEXT, b"hello and goodbye")
                assert client.read_close() == (1000, "")
                client.send(close_frame(1000))
        process.wait_for("Autorestarting worker")
        process.wait_for("(?s)Booting worker.*Booting worker")
        with process.client().open() as client:
            echo(client)
            client.finish()


def test_a_worker_that_waits_for_detached_websockets_gives_signs_of_life(gunicorn):
    arguments = "--max-requests", "1", "--timeout", "2", "--graceful-timeout", "20"
    with gunicorn(*arguments) as process, process.client().open("/detached") as client:
        assert client.read_close() == (1001, "")
        gevent.sleep(3.5)  # the master would kill a silent worker
        client.send(close_frame(1001))
        process.wait_for("detached, ended with 1001")
        assert "WORKER TIMEOUT" not in process.output


def test_detached_websockets_are_no_worker_connections_and_end_with_1001(gunicorn):
    with gunicorn("--worker-connections", "1", "--max-requests", "3") as process:
        clients = [process.client().open("/detached") for _ in range(3)]
        process.wait_for("Autorestarting worker")
        are_sent_away(clients)
        process.wait_for("(?s)Booting worker.*Booting worker")
        clients = [process.client().open("/detached") for _ in range(2)]
        os.kill(process.process.pid, signal.SIGTERM)
        are_sent_away(clients)
        assert process.stop(seconds=10) == 0
        assert process.output.count("detached, ended with 1001") == 5
        assert "Traceback" not in process.output


def test_several_workers_and_a_preloaded_application(gunicorn):
    with gunicorn("--preload", "--workers", "2") as process:
        for _ in range(4):
            with process.client().open() as client:
                echo(client)
                client.finish()


def process_of(client):
    """Return the process id of the worker that serves a client."""
    client.open("/whose")
    return client.read_frame()[1]


@contextlib.contextmanager
def crowd(tmp_path, workers, count, **options):
    """Several workers, all of which listen, and clients in an exit stack."""
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(
        "import geventws\n"
        "class Worker(geventws.Worker):\n"
        f"    websocket_options = {options}\n"
        "    listens = False\n"
        "    def notify(self):\n"
        "        super().notify()\n"
        "        if not self.listens:\n"
        "            self.listens = True\n"
        "            self.log.info('listens')\n"
        "worker_class = Worker\n"
    )
    arguments = f"-m gunicorn -c {settings} -b 127.0.0.1:0 --workers {workers} {SITE}".split()
    with serving(arguments, tmp_path / "log") as process, contextlib.ExitStack() as stack:
        process.wait_for(rf"(?s)(\] listens.*){{{workers}}}")
        yield process, [stack.enter_context(process.client()) for _ in range(count)]


def test_websockets_are_spread_evenly_over_the_workers(tmp_path):
    with crowd(tmp_path, workers=2, count=40) as (_, clients):
        numbers = Counter(map(process_of, clients))
        assert len(numbers) == 2
        assert max(numbers.values()) - min(numbers.values()) <= 4


def test_a_full_worker_leaves_websockets_to_another_one(tmp_path):
    with crowd(tmp_path, workers=2, count=20, max_connections=10) as (process, clients):
        assert list(Counter(map(process_of, clients)).values()) == [10, 10]
        with process.client() as client:
            client.send(request("/whose"))
            assert client.read_head() == "503"


@pytest.mark.parametrize(
    ("url", "workers", "warnings"), [("memory://", 2, 1), ("memory://", 1, 0), ("redis://x", 2, 0)]
)
def test_a_broadcast_in_memory_with_several_workers_is_warned_of(tmp_path, url, workers, warnings):
    (tmp_path / "app.py").write_text(
        "import geventws\n"
        "from tests.support.apps import site\n"
        f"broadcast = geventws.Broadcast({url!r})\n"
    )
    arguments = f"-m gunicorn -k geventws.Worker -b 127.0.0.1:0 --workers {workers} app:site"
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving(arguments.split(), tmp_path / "log", **environment) as process:
        with process.client() as client:
            client.open()
            client.finish()
        if warnings:
            process.wait_for("memory:// reaches")
        assert process.output.count("memory:// reaches") == warnings


def test_tls(gunicorn, tls):
    certificate, key, context = tls
    with gunicorn("--certfile", certificate, "--keyfile", key) as process:
        for data in b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello":
            with process.client() as scanner, contextlib.suppress(OSError):
                scanner.send(data)
                scanner.sock.shutdown(socket.SHUT_WR)
                scanner.read_to_end()
        with process.client(context=context) as client:
            client.open(early=frame(TEXT, "early"))
            assert client.read_frame() == (TEXT, b"early")
            echo(client)
            client.finish()
        with process.client(context=context) as client:
            client.send(request("/plain", without="Upgrade"))
            assert client.read_response() == ("200", b"plain")
        assert "Traceback" not in process.output


def test_a_proxy_is_trusted_on_a_unix_socket_and_with_ipv4_on_an_ipv6_socket(gunicorn, tmp_path):
    path = f"{tmp_path}/socket"
    binds = ["-b", f"unix:{path}", "-b", "[::]:0"]
    with gunicorn(*binds, "--forwarded-allow-ips", "127.0.0.1") as process:
        port = int(process.wait_for(rf"unix:{path},http://\[::\]:(\d+)")[1])
        forwarded = [("Origin", "https://test.example"), ("X-Forwarded-Proto", "https")]
        for address in path, ("127.0.0.1", port):
            with RawClient(address).open(headers=forwarded) as client:
                echo(client)
                client.finish()
        process.wait_for(r'(?s)("GET /echo HTTP/1.1" 101.*){2}')
        with RawClient(path) as client:
            client.send(request(headers=[("Origin", "http://evil.example")]))
            assert client.read_head() == "403"
        process.wait_for(f"Refused a WebSocket from unix:{path}: its Origin")
        with RawClient(("::1", port)) as client:
            client.send(request(headers=forwarded))
            assert client.read_head() == "403"


def test_the_access_log_has_the_real_duration(gunicorn):
    with gunicorn("--access-logformat", "took %(D)s microseconds: %(s)s") as process:
        with process.client().open() as client:
            echo(client)
            client.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.read_frame()
            client.sock.settimeout(10)
            client.finish()
        duration = int(process.wait_for(r"took (\d+) microseconds: 101")[1])
        assert duration >= 300_000


def test_options_of_a_subclass_hold(gunicorn, tmp_path):
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(
        "import geventws\n"
        "class Worker(geventws.Worker):\n"
        "    websocket_options = {'max_message_size': 10}\n"
        "worker_class = Worker\n"
    )
    arguments = [
        "-m",
        "gunicorn",
        "-c",
        str(settings),
        "-b",
        "127.0.0.1:0",
        "--access-logfile",
        "-",
        SITE,
    ]
    with serving(arguments, tmp_path / "log") as process, process.client().open() as client:
        client.send(frame(TEXT, "0123456789a"))
        assert client.read_close()[0] == 1009


def test_an_application_that_is_wrapped_already_keeps_its_options(tmp_path):
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(
        "import geventws\n"
        "class Worker(geventws.Worker):\n"
        "    websocket_options = {\n"
        "        'max_message_size': 10, 'subprotocols': ['own', 'other'], 'stop_timeout': 5\n"
        "    }\n"
        "worker_class = Worker\n"
    )
    arguments = ["-m", "gunicorn", "-c", str(settings), "-b", "127.0.0.1:0", WRAPPED]
    with serving(arguments, tmp_path / "log") as process, process.client() as client:
        client.open(headers=[("Sec-WebSocket-Protocol", "other, own")])
        assert client.headers["sec-websocket-protocol"] == "own"
        client.send(frame(TEXT, "0123456789a"))
        assert client.read_close()[0] == 1009
        process.wait_for("gunicorn does not use the option stop_timeout of geventws")
        process.wait_for(r"sets subprotocols=\('own',\), the server sets \('own', 'other'\)")


@pytest.mark.parametrize("module", ["tests.support.serve", "tests.support.patched_app"])
def test_a_worker_without_gevent_says_what_is_missing(tmp_path, module):
    arguments = arguments_of("gunicorn-gevent")
    arguments[arguments.index("gevent")] = "sync"
    arguments[arguments.index("tests.support.serve:application")] = f"{module}:application"
    with serving(arguments, tmp_path / "log") as process:
        with process.client() as client:
            client.send(request("/echo"))
            assert client.read_head() == "500"
        process.wait_for("RuntimeError: geventws needs a WSGI server on gevent")
        with process.client() as client:
            client.send(request("/plain", without="Upgrade"))
            assert client.read_response() == ("200", b"plain")


def test_tls_on_a_plain_port_is_named_at_once(gunicorn):
    with gunicorn() as process:
        with process.client() as client:
            client.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc")  # an incomplete ClientHello
            with contextlib.suppress(ConnectionResetError):
                assert client.read_to_end() == b""
        process.wait_for("Bad request from 127.0.0.1: this looks like TLS on a plain port")
        with process.client().open() as client:
            echo(client)
            client.finish()
