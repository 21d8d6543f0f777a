"""The files of ``deploy/``, with the real programs."""

import contextlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import gevent
import pytest

from tests.support import proxies
from tests.support.client import PING, PONG, TEXT, RawClient, close_frame, frame, request
from tests.support.servers import ROOT, serving
from tests.support.tools import need

CONF = ROOT / "deploy" / "gunicorn.conf.py"
GUNICORN = ["-m", "gunicorn", "-c", str(CONF), "--graceful-timeout", "1"]
#: For each proxy, what makes it drop a WebSocket after three seconds of silence.
IMPATIENT = {
    "nginx": {r"proxy_read_timeout 60s": "proxy_read_timeout 3s"},
    "haproxy": {r"timeout tunnel 60s": "timeout tunnel 3s"},
}


class Site:
    """Two workers, and a proxy in front of them that speaks TLS."""

    def __init__(self, folder, tls):
        self.folder = folder
        self.tls = tls
        self.workers = []
        self.stack = contextlib.ExitStack()

    def start_workers(self, app="app", **environment):
        for number in range(2):
            arguments = [*GUNICORN, "-b", "127.0.0.1:0", f"tests.support.proxied:{app}"]
            log = self.folder / f"{app}{number}.log"
            worker = self.stack.enter_context(serving(arguments, log, **environment))
            self.stack.callback(worker.stop, signal.SIGINT)  # quicker than SIGTERM
            self.workers.append(worker)

    def start_proxy(self, name, changes=None):
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o755)
        backends = [worker.address[1] for worker in self.workers]
        start = getattr(proxies, name)
        self.port = self.stack.enter_context(start(folder, backends, self.tls, changes or {}))
        self.origin = f"https://localhost:{self.port}"

    def client(self):
        return RawClient(("127.0.0.1", self.port), context=self.tls[2])

    def headers(self, *more):
        return [("Host", f"localhost:{self.port}"), ("Origin", self.origin), *more]


@pytest.fixture
def behind(tmp_path, tls):
    site = Site(tmp_path, tls)
    with site.stack:
        yield site


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_a_proxy_ends_tls_in_front_of_two_workers_and_other_sites_stay_out(behind, name):
    behind.start_workers()
    behind.start_proxy(name)
    workers = set()
    clients = [behind.client().open(headers=behind.headers()) for _ in range(6)]
    for client in clients:  # all at once: the proxy spreads what is open
        client.send(frame(TEXT, "hello" * 20_000))
        while (received := client.read_frame())[0] == PING:
            client.send(frame(PONG, received[1]))
        assert received == (TEXT, b"hello" * 20_000)
    for client in clients:
        client.send(close_frame(4000, "bye"))
        while (received := client.read_frame())[0] == PING:
            pass
        assert received[1][:2] == (4000).to_bytes(2, "big")
        client.sock.close()
    for _ in range(20):
        with behind.client() as client:
            client.send(
                request("/whoami", [*behind.headers(), ("Connection", "close")], without="Upgrade")
            )
            workers.add(client.read_response()[1])
    assert len(workers) == 2
    for worker in behind.workers:
        worker.wait_for('"GET /echo HTTP/1.1" 101')
    with behind.client() as client:
        client.send(request("/echo", behind.headers(("Origin", "https://evil.example"))))
        assert client.read_head() == "403"


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_a_proxy_is_believed_only_if_it_is_named(behind, name):
    behind.start_workers(FORWARDED_ALLOW_IPS="192.0.2.1")
    behind.start_proxy(name)
    with behind.client() as client:
        client.send(request("/echo", behind.headers()))
        assert client.read_head() == "403"
    assert any(
        f"its Origin is '{behind.origin}', and the origin of this server is 'http://"
        in worker.output
        for worker in behind.workers
    )


@pytest.mark.parametrize("name", IMPATIENT)
def test_pings_keep_a_silent_websocket_open_and_without_them_the_proxy_drops_it(behind, name):
    behind.start_workers("silent")
    behind.start_proxy(name, IMPATIENT[name])
    with behind.client() as client:
        client.open(headers=behind.headers())
        assert client.read_to_end() == b""  # no Close frame: it is the proxy's doing
    behind.workers.clear()
    shutil.rmtree(behind.folder / name)
    behind.start_workers("app")
    behind.start_proxy(name, IMPATIENT[name])
    with behind.client() as client, gevent.Timeout(10):
        client.open(headers=behind.headers())
        for _ in range(12):  # 3.6 seconds
            first, payload = client.read_frame()
            assert first == PING
            client.send(frame(PONG, payload))
        client.send(close_frame(1000))
        assert client.read_close() == (1000, "")


def test_an_nginx_that_speaks_http_1_0_is_told_so(behind):
    behind.start_workers()
    behind.start_proxy("nginx", {r"proxy_http_version 1\.1": "proxy_http_version 1.0"})
    with behind.client() as client:
        client.send(request("/echo", behind.headers()))
        assert client.read_response() == ("400", b"Expected a WebSocket request.\n")
    assert any("for nginx, proxy_http_version 1.1" in worker.output for worker in behind.workers)


def test_an_nginx_that_drops_the_header_upgrade_gets_the_views_plain_answer(behind):
    behind.start_workers()
    behind.start_proxy("nginx", {r"proxy_set_header (Upgrade|Connection) [^;]*;": ""})
    with behind.client() as client:
        client.send(request("/echo", behind.headers()))
        assert client.read_response() == ("400", b"Expected a WebSocket request.\n")


def test_heroku(tmp_path):
    """What Heroku does: the Procfile, PORT, WEB_CONCURRENCY, and TLS in front."""
    command = re.fullmatch(r"web: (.+)\n", (ROOT / "deploy" / "heroku" / "Procfile").read_text())[1]
    program, *arguments = shlex.split(command)
    assert program == "gunicorn"
    shutil.copy(CONF, tmp_path)
    program_text = "from tests.support.apps import site as app\nprint('loaded', flush=True)\n"
    (tmp_path / "app.py").write_text(program_text)
    port = proxies.free_port()
    environment = {
        "PORT": str(port),
        "WEB_CONCURRENCY": "2",
        "FORWARDED_ALLOW_IPS": "*",
        "PYTHONPATH": str(ROOT),
    }
    ready = rf"http://0\.0\.0\.0:{port}"
    with serving(
        ["-m", program, *arguments], tmp_path / "log", cwd=tmp_path, ready=ready, **environment
    ) as process:
        # gunicorn loses a SIGTERM that comes while a worker starts.
        process.wait_for("(?s)loaded.*loaded")
        headers = [("Origin", "https://test.example"), ("X-Forwarded-Proto", "https")]
        with RawClient(("127.0.0.1", port)).open(headers=headers) as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.finish()


def test_systemd_finds_no_fault_with_its_units(tmp_path):
    analyze = need("systemd-analyze", "apt-get install systemd")
    for unit in (ROOT / "deploy" / "systemd").iterdir():
        text = unit.read_text().replace("/srv/chat/.venv/bin/gunicorn", sys.executable)
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []


def test_systemds_socket_is_gunicorns(tmp_path):
    activate = need("systemd-socket-activate", "apt-get install systemd")
    port = proxies.free_port()
    command = [
        activate,
        f"--listen=127.0.0.1:{port}",
        sys.executable,
        *GUNICORN,
        "tests.support.apps:site",
    ]
    arguments = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command]
    with serving(arguments, tmp_path / "log", ready="Listening on") as process:
        with RawClient(("127.0.0.1", port)).open() as client:  # this starts it
            client.finish()
        process.wait_for(rf"Listening at: http://127\.0\.0\.1:{port}")
