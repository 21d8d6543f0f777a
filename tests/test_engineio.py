"""Socket.IO on geventws: python-socketio and Flask-SocketIO with the JavaScript client."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.client import request
from tests.support.npm import NODE
from tests.support.servers import READY, ROOT, Process, serving
from tests.support.tools import need

SITE = "tests.support.socketio_site"
GUNICORN = "-m gunicorn -b 127.0.0.1:0 --access-logfile - --graceful-timeout 5 -k"
SERVERS = "-m tests.support.socketio_servers"
#: Only socketio.run calls install().
WAYS = {
    "server": f"{SERVERS} server",
    "handler": f"{SERVERS} handler",
    "middleware": f"{SERVERS} middleware",
    "gevent-websocket's names": f"{SERVERS} compat",
    "cli-python-socketio": f"-m geventws {SITE}:plain_app --bind 127.0.0.1:0",
    "worker-flask-socketio": f"{GUNICORN} geventws.Worker {SITE}:flask_app",
    "socketio.run": f"-m {SITE} PORT",
}


@pytest.fixture(scope="module", params=WAYS)
def site(request, tmp_path_factory) -> Iterator[Process]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    arguments = WAYS[request.param].replace("PORT", port).split()
    with serving(arguments, tmp_path_factory.mktemp("socketio") / "log") as process:
        process.way = request.param
        yield process
    assert "Traceback" not in process.output
    assert "invalid" not in process.output.lower()


#: Both libraries on all servers, with the pairs that the other tests leave out.
UNCHANGED = {
    "server, handler, middleware": f"{SERVERS} all",
    "cli": "-m geventws tests.support.socketio_apps:flask_app --bind 127.0.0.1:0",
    "gunicorn-worker": f"{GUNICORN} geventws.Worker tests.support.socketio_apps:plain_app",
}


@pytest.fixture
def javascript(node_modules):
    """``javascript(scenario, site)``: what socket.io-client has met."""
    node = need("node", "apt-get install nodejs")

    def run(scenario: str, site: Process):
        done = subprocess.run(
            [node, NODE / "socketio_client.cjs", scenario, f"http://127.0.0.1:{site.address[1]}"],
            capture_output=True,
            timeout=30,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), site.output
        return json.loads(done.stdout)

    return run


TOLD = {
    "transport": "websocket",
    "sum": 5,
    "text": "hcid ßürg",
    "binary": [255, 2, 1],
    "big": 2 << 20,
}


def test_websocket_only(javascript, site):
    assert javascript("websocket", site) == TOLD
    site.wait_for("somebody has left: client disconnect")
    if site.way != "middleware":  # gevent logs what it has seen itself
        site.wait_for(r"transport=websocket HTTP/1.1\" 101 ")


@pytest.mark.parametrize("way", UNCHANGED)
def test_both_libraries_run_unchanged_beside_an_installed_gevent_websocket(
    way, node_modules, gevent_websocket, tmp_path
):
    node = need("node", "apt-get install nodejs")
    ready = "ready" if "," in way else READY
    log = tmp_path / "log"
    with serving(UNCHANGED[way].split(), log, ready=ready, PYTHONPATH=gevent_websocket) as process:
        clients = [
            subprocess.Popen(
                [node, NODE / "socketio_client.cjs", "upgrade", f"http://127.0.0.1:{port}"],
                stdout=subprocess.PIPE,
            )
            for port, _ in re.findall(READY, process.output)
        ]
        for client in clients:
            out, _ = client.communicate(timeout=30)
            assert json.loads(out) == TOLD, process.output
        assert "Traceback" not in process.output


def test_upgrade_from_polling(javascript, site):
    assert javascript("upgrade", site) == TOLD


def test_nothing_is_lost_or_swapped_while_the_transport_is_upgraded(javascript, site):
    assert javascript("busy", site) is True


def test_rooms(javascript, site):
    assert javascript("rooms", site) == [["pst", "hello"], ["pst", "hello"], ["hello"]]


def test_the_server_disconnects(javascript, site):
    assert javascript("dropped", site) == "io server disconnect"


def test_a_client_that_vanishes_is_noticed_at_once(site):
    before = site.output.count("transport error") + site.output.count("transport close")
    path = "/socket.io/?EIO=4&transport=websocket"
    with site.client().open(path) as client:
        assert client.read_frame()[1].startswith(b'0{"sid"')
        client.send(b"\x81\x82\0\0\0\x0040")
        assert client.read_frame()[1].startswith(b'40{"sid"')
        client.vanish()
    site.wait_for(f"(?s)(has left: transport (error|close).*){{{before + 1}}}")


def test_another_sites_page_is_refused(site):
    with site.client() as client:
        path = "/socket.io/?EIO=4&transport=websocket"
        client.send(request(path, [("Origin", "https://evil.example")]))
        assert client.read_head() in ("400", "403")


def test_the_vote_counter_of_the_documentation_counts(javascript, tmp_path):
    text = (ROOT / "docs" / "socketio.md").read_text()
    code = re.search(r"`votes.py`:\n\n```python\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "votes.py").write_text(code)
    arguments = ["-m", "geventws", "votes:app", "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log", PYTHONPATH=str(tmp_path)) as process:
        assert javascript("votes", process) == [{"left": 0, "right": 1}] * 2


def test_install_may_come_after_the_server_and_replaces_what_was_there():
    import engineio

    import geventws.engineio

    server = engineio.Server(async_mode="gevent")
    geventws.engineio.install()
    assert server._async["websocket"] is geventws.server.engineio.WebSocketAnywhere
