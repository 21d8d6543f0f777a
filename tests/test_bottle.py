"""``geventws.bottle``: Bottle's views with a WebSocket as their argument."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import wsgiref.simple_server
from pathlib import Path

import bottle
import gevent
import pytest
from gevent.event import AsyncResult

from geventws import ConnectionClosed, HandshakeError
from geventws.bottle import websocket
from geventws.testing import connect
from tests.support.client import TEXT, RawClient, close_frame, frame, request
from tests.support.servers import ROOT, serving

PROGRAM = ROOT / "tests" / "support" / "bottle_app.py"
SECONDS = 10  # nothing here takes so long


@pytest.fixture
def app():
    return bottle.Bottle()


def test_a_route_gets_the_websocket_and_the_variables_of_the_url(app):
    @app.get("/rooms/<room>/<seat:int>", apply=[websocket])
    def room(ws, room, seat):
        for message in ws:
            ws.send(f"{room!r} {seat!r} {message}")

    with connect(app, "/rooms/kitchen/3") as ws:
        ws.send("hi")
        assert ws.receive() == "'kitchen' 3 hi"


def test_a_plain_request_gets_426(app, serve):
    app.get("/echo", apply=[websocket])(lambda ws: None)
    with serve(app).client() as client:
        client.send(request("/echo", without="Upgrade"))
        status, body = client.read_response()
        assert status == "426"
        assert b"is a WebSocket endpoint" in body
        assert client.headers["upgrade"] == "websocket"


def test_an_async_view_is_an_error():
    async def echo(ws):
        """A view for another library."""

    with pytest.raises(TypeError, match=r"echo is an async def function.* Write def"):
        websocket(echo)


def test_another_server_says_what_to_run_instead(app, caplog):
    app.get("/echo", apply=[websocket])(lambda ws: None)
    with wsgiref.simple_server.make_server("127.0.0.1", 0, app) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with RawClient(server.server_address) as client:
            client.send(request("/echo"))
            status, body = client.read_response()
        thread.join()
    assert status == "501"
    assert b"app.run(server=GeventWebSocketServer)" in body
    assert "This server cannot open the WebSocket /echo. Run the application" in caplog.text


@pytest.mark.parametrize(
    ("view", "status", "body"),
    [
        (lambda ws: bottle.abort(401, "Log in first."), "401 Unauthorized", b"Log in first."),
        (lambda ws: bottle.redirect("/elsewhere"), "303 See Other", b""),
        (lambda ws: bottle.HTTPResponse("Not today.", 503), "503 Service Unavailable", b"today"),
        (lambda ws: "a page", "200 OK", b"a page"),
    ],
)
def test_a_view_may_answer_instead(app, view, status, body):
    app.get("/", apply=[websocket])(view)
    with pytest.raises(HandshakeError) as caught:
        connect(app)
    assert caught.value.status == status
    assert body in caught.value.body


def test_a_view_that_does_nothing_accepts_and_closes_with_1000(app):
    app.get("/", apply=[websocket])(lambda ws: None)
    with connect(app) as ws:
        assert list(ws) == []
        assert ws.close_code == 1000


def test_cookies_and_headers_that_are_set_before_the_upgrade_travel_in_the_101(app):
    @app.hook("before_request")
    def note():
        bottle.response.set_cookie("first", "1")

    @app.get("/", apply=[websocket])
    def view(ws):
        bottle.response.set_cookie("second", "2")
        bottle.response.set_header("X-Room", "kitchen")
        ws.send("hello")

    with connect(app) as ws:
        assert ("X-Room", "kitchen") in ws.response_headers
        cookies = [value for name, value in ws.response_headers if name == "Set-Cookie"]
        assert sorted(cookies) == ["first=1", "second=2"]
        assert "Content-Type" not in dict(ws.response_headers)
        assert ws.receive() == "hello"


def test_another_greenlet_may_be_the_first_to_use_the_socket(app):
    @app.hook("before_request")
    def note():
        bottle.response.set_cookie("first", "1")

    @app.get("/", apply=[websocket])
    def view(ws):
        gevent.spawn(ws.send, "hello").get()

    with connect(app) as ws:
        assert ("Set-Cookie", "first=1") in ws.response_headers
        assert ws.receive() == "hello"


def test_a_peer_that_leaves_is_no_error(app, capsys):
    ended = AsyncResult()

    @app.get("/", apply=[websocket])
    def old_loop(ws):
        try:
            while True:
                ws.send(ws.receive())
        except ConnectionClosed as closed:
            ended.set(closed.code)
            raise

    with connect(app) as ws:
        ws.send("hi")
        assert ws.receive() == "hi"
        ws.close(4001)
    assert ended.get(block=False) == 4001
    assert capsys.readouterr().err == ""


def test_a_fault_after_the_upgrade_closes_with_1011_and_is_logged_by_bottle(app, capsys):
    @app.get("/", apply=[websocket])
    def crash(ws):
        ws.send("about to fail")
        raise ZeroDivisionError("the view's fault")

    with connect(app) as ws:
        assert list(iter(ws.receive, None)) == ["about to fail"]
        assert ws.close_code == 1011
    assert capsys.readouterr().err.count("ZeroDivisionError: the view's fault") == 1


def test_callbacks_of_a_detached_websocket_have_the_request_and_a_response_of_no_effect(app):
    def describe(ws, message):
        bottle.response.set_cookie("seen", "1")
        ws.send(f"{bottle.request.path} {bottle.request.query.name} {message}")

    ends = []

    @app.get("/rooms/<room>", apply=[websocket])
    def room(ws, room):
        ws.detach(describe, lambda ws: ends.append(bottle.request.query.name))

    with (
        connect(app, "/rooms/a?name=ada") as hers,
        connect(app, "/rooms/b?name=bob") as his,
    ):
        for _ in range(2):
            hers.send("hi")
            assert hers.receive() == "/rooms/a ada hi"
            his.send("hi")
            assert his.receive() == "/rooms/b bob hi"
    assert sorted(ends) == ["ada", "bob"]


def test_the_end_of_another_connection_is_a_fault(app, capsys):
    @app.get("/", apply=[websocket])
    def proxy(ws):
        ws.accept()
        raise ConnectionClosed(1006)

    with connect(app) as ws:
        assert ws.receive() is None
        assert ws.close_code == 1011
    assert "ConnectionClosed" in capsys.readouterr().err


# -------------------------------------------------------------------- run()


def free_port() -> int:
    """Return a free port. Bottle does not report the port that it gets for 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def dial(port: int) -> RawClient:
    """Connect as soon as the server listens."""
    with gevent.Timeout(SECONDS):
        while True:
            try:
                return RawClient(("127.0.0.1", port)).open("/greet")
            except OSError:
                gevent.sleep(0.02)


def test_bottle_runs_the_server_with_its_options_and_stops_it_in_good_order(tmp_path):
    port = free_port()
    with serving([str(PROGRAM), str(port), "once"], tmp_path / "log") as process:
        with dial(port) as client:
            assert client.read_frame() == (TEXT, b"hello")
            client.send(frame(TEXT, "0123456789"))
            assert client.read_frame() == (TEXT, b"0123456789")
            client.send(frame(TEXT, "0123456789a"))
            assert client.read_close()[0] == 1009
        with dial(port) as client:
            assert client.read_frame() == (TEXT, b"hello")
            process.process.send_signal(signal.SIGINT)
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
            assert client.read_to_end() == b""
        process.wait_for('"GET /greet HTTP/1.1" 101')
        assert process.stop(0) == 0  # it has got its signal
        assert "Traceback" not in process.output


def test_bottles_reloader_closes_with_1001_and_starts_anew(tmp_path):
    program = tmp_path / "program.py"
    shutil.copy(PROGRAM, program)
    port = free_port()
    arguments = [str(program), str(port), "reload"]
    with serving(arguments, tmp_path / "log", PYTHONPATH=str(ROOT)) as process:
        with dial(port) as client:
            assert client.read_frame() == (TEXT, b"hello")
            program.write_text(program.read_text().replace('"hello"', '"hello again"'))
            os.utime(program, (os.stat(program).st_mtime + 10,) * 2)
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
        with dial(port) as client:
            assert client.read_frame() == (TEXT, b"hello again")
        assert process.stop(signal.SIGINT) == 0
        assert "Traceback" not in process.output


def test_a_program_that_is_not_patched_is_told_so(tmp_path):
    lines = PROGRAM.read_text().replace("monkey.patch_all()\n", "")
    program = Path(tmp_path) / "program.py"
    program.write_text(lines)
    done = subprocess.run(
        [sys.executable, program, str(free_port()), "once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "RuntimeError: Bottle needs gevent.monkey.patch_all()" in done.stderr
