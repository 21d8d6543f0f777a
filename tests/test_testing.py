"""``geventws.testing.connect``: what a user's tests find."""

import re
import subprocess
import sys
from pathlib import Path

import bottle
import flask
import gevent
import psutil
import pytest
from gevent.event import AsyncResult

from geventws import ConnectionClosed, HandshakeError, WebSocketMiddleware
from geventws.flask import Sockets
from geventws.testing import connect
from tests.support import frameworks
from tests.support.apps import echo, site

DOCS = Path(__file__).parents[1] / "docs"


def view(function):
    """An application that is one view."""

    def app(environ, start_response):
        function(environ["wsgi.websocket"])
        return []

    return app


def test_the_module_can_be_imported_without_pytest():
    program = "import sys; sys.modules['pytest'] = None; import geventws.testing"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_messages_go_both_ways():
    with connect(echo) as ws:
        for message in ("grüß dich", b"\0\xff", "", b"x" * 300_000):
            ws.send(message)
            assert ws.receive() == message


def test_the_view_sees_the_request_that_was_asked_for():
    environs = []

    def app(environ, start_response):
        environs.append(dict(environ))
        return echo(environ, start_response)

    with connect(
        app,
        "/räume/a b?c=ä",
        headers={"X-Token": "secret"},
        cookies={"a": "1", "b": "2"},
        origin="http://test.example",
        host="test.example",
    ):
        pass
    [environ] = environs
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/räume/a b"
    assert environ["QUERY_STRING"] == "c=%C3%A4"
    assert environ["HTTP_X_TOKEN"] == "secret"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_ORIGIN"] == "http://test.example"
    assert environ["HTTP_HOST"] == "test.example"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


def test_there_is_neither_a_port_nor_a_thread():
    process = psutil.Process()
    before = process.num_threads(), len(process.net_connections("inet"))
    with connect(echo) as ws:
        ws.send("x")
        assert ws.receive() == "x"
        assert (process.num_threads(), len(process.net_connections("inet"))) == before


def test_no_descriptor_is_left():
    process = psutil.Process()
    with connect(echo):
        pass
    before = process.num_fds()
    for _ in range(20):
        with connect(echo):
            pass
        with pytest.raises(HandshakeError):
            connect(site, "/refuse")
        with connect(site, "/leave") as ws:
            assert list(ws) == ["hello and goodbye"]
    assert process.num_fds() == before


def test_the_subprotocol_and_the_headers_of_the_101():
    with connect(site, "/accept", subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.requested_subprotocols == ["chat.v1", "chat.v2"]
        assert ws.subprotocol == "chat.v2"
        assert ("Set-Cookie", "seen=1") in ws.response_headers
        assert ws.receive() == "chat.v2"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", "401 Unauthorized", b"Who are you?\n"),
        ("/refuse-in-pieces", "404 Not Found", b"Nothing here\n"),
        ("/refuse-by-write", "403 Forbidden", b"Go away\n"),
        ("/redirect", "302 Found", b""),
    ],
)
def test_a_refusal_has_its_status_its_headers_and_its_body(path, status, body):
    with pytest.raises(HandshakeError) as caught:
        connect(site, path)
    assert (caught.value.status, caught.value.body) == (status, body)
    if path == "/refuse":
        assert ("WWW-Authenticate", "Basic") in caught.value.headers


def test_another_sites_page_is_refused():
    with pytest.raises(HandshakeError, match="403 Forbidden"):
        connect(echo, origin="https://evil.example")
    with connect(echo, origin="https://evil.example", allowed_origins="*"):
        pass


def test_the_views_close_is_seen_with_its_code_and_reason():
    with connect(site, "/close") as ws:
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (4001, "not you")
        with pytest.raises(ConnectionClosed):
            ws.receive()


def test_the_tests_close_is_seen_by_the_view():
    seen = AsyncResult()

    @view
    def app(ws):
        list(ws)
        seen.set((ws.close_code, ws.close_reason))

    with connect(app) as ws:
        ws.close(4002, "enough")
    assert seen.get(block=False) == (4002, "enough")


def test_leaving_the_block_waits_for_the_view_to_end():
    ended = []

    @view
    def app(ws):
        list(ws)
        gevent.sleep(0.01)
        ended.append(True)

    with connect(app):
        pass
    assert ended


def test_a_view_that_does_not_end_is_an_error():
    with (
        pytest.raises(TimeoutError, match="the view has not ended within"),
        connect(view(lambda ws: ws.accept() or gevent.sleep(60)), timeout=0.2),
    ):
        pass


def test_nothing_waits_for_ever():
    with connect(view(list), timeout=0.05) as ws:
        with pytest.raises(TimeoutError):
            ws.receive()
        with pytest.raises(TimeoutError):
            next(iter(ws))
    with pytest.raises(TimeoutError, match="is not open after"):
        connect(view(lambda ws: gevent.sleep(0.3)), timeout=0.05)


def test_receive_has_a_timeout_of_its_own():
    with connect(echo) as ws:
        with pytest.raises(TimeoutError):
            ws.receive(timeout=0.01)
        ws.send("still there")
        assert ws.receive() == "still there"


@pytest.mark.parametrize("path", ["/crash", "/crash-early"])
def test_what_a_view_raises_is_raised_in_the_test(path):
    def talk():
        with connect(site, path) as ws:
            assert ws.receive() == "about to fail"
            ws.receive()

    with pytest.raises(ZeroDivisionError, match="the view's fault"):
        talk()


def test_what_a_view_raises_is_raised_at_the_end_of_the_block_at_the_latest():
    def talk():
        with connect(site, "/crash") as ws:
            assert ws.receive() == "about to fail"

    with pytest.raises(ZeroDivisionError, match="the view's fault"):
        talk()


def test_what_a_generator_raises_is_raised_in_the_test():
    def app(environ, start_response):
        environ["wsgi.websocket"].accept()
        yield b""
        raise ZeroDivisionError("the generator's fault")

    with pytest.raises(ZeroDivisionError, match="the generator's fault"), connect(app) as ws:
        ws.receive()


def test_what_a_view_raises_can_be_seen_as_a_client_sees_it():
    with connect(site, "/crash", raise_app_exceptions=False) as ws:
        assert list(iter(ws.receive, None)) == ["about to fail"]
        assert ws.close_code == 1011
    with pytest.raises(HandshakeError, match="500 Internal Server Error"):
        connect(site, "/crash-early", raise_app_exceptions=False)


def test_a_view_that_sends_to_a_client_that_has_left_is_no_failure():
    @view
    def app(ws):
        while True:
            ws.send("tick")
            gevent.sleep(0)

    with connect(app) as ws:
        assert ws.receive() == "tick"


def test_what_a_callback_raises_is_raised_in_the_test():
    def talk():
        with connect(site, "/detached") as ws:
            ws.send("fail")
            ws.receive()

    with pytest.raises(ZeroDivisionError, match="the view's fault"):
        talk()


def test_what_a_callback_raises_can_be_seen_as_a_client_sees_it():
    with connect(site, "/detached", raise_app_exceptions=False) as ws:
        ws.send("fail")
        assert ws.receive() is None
        assert ws.close_code == 1011


def test_leaving_the_block_waits_for_the_callbacks_and_raises_what_on_close_raises():
    events = []

    def on_message(ws, message):
        gevent.sleep(0.01)
        events.append(message)

    def on_close(ws):
        gevent.sleep(0.01)
        events.append(ws.close_code)
        raise ZeroDivisionError("the end's fault")

    app = view(lambda ws: ws.detach(on_message, on_close))
    with pytest.raises(ZeroDivisionError, match="the end's fault"), connect(app) as ws:
        ws.send("last")
    assert events == ["last", 1000]


def test_a_callback_that_does_not_end_is_an_error():
    app = view(lambda ws: ws.detach(lambda ws, message: gevent.sleep(60)))
    with (
        pytest.raises(TimeoutError, match="the callbacks have not ended within"),
        connect(app, timeout=0.2) as ws,
    ):
        ws.send("x")


def test_the_options_are_those_of_the_server():
    with connect(echo, max_message_size=5) as ws:
        ws.send("123456")
        assert ws.receive() is None
        assert ws.close_code == 1009


def test_an_application_that_brings_its_own_middleware_works_too():
    with connect(WebSocketMiddleware(echo)) as ws:
        ws.send("x")
        assert ws.receive() == "x"


def test_a_path_without_a_slash_is_refused():
    with pytest.raises(ValueError, match="slash"):
        connect(echo, "echo")


# ------------------------------------------------------------------ frameworks


def test_a_flask_view_with_the_session_of_flasks_own_test_client():
    app = frameworks.flask_app
    client = app.test_client()
    client.post("/login", data={"name": "Ada"})
    cookies = {"session": client.get_cookie("session").value}
    with connect(app, "/chat?room=kitchen", cookies=cookies) as ws:
        ws.send("hi")
        assert ws.receive() == "Ada in kitchen: hi"
    with pytest.raises(HandshakeError) as caught:
        connect(app, "/chat?room=kitchen")
    assert caught.value.status == "401 UNAUTHORIZED"
    assert b"Log in first." in caught.value.body


def test_a_bottle_view_with_a_signed_cookie():
    signed = bottle.BaseResponse()
    signed.set_cookie("name", "Ada", secret=frameworks.SECRET)
    name, _, value = dict(signed.headerlist)["Set-Cookie"].partition("=")
    with connect(frameworks.bottle_app, "/chat?room=a", cookies={name: value}) as ws:
        ws.send("hi")
        assert ws.receive() == "Ada in a: hi"
    with pytest.raises(HandshakeError) as caught:
        connect(frameworks.bottle_app, "/chat?room=kitchen")
    assert caught.value.status == "401 Unauthorized"


def test_a_flask_view_raises_in_the_test_when_flask_is_testing():
    app = flask.Flask(__name__)
    sockets = Sockets(app)

    @sockets.route("/crash")
    def crash(ws):
        ws.send("about to fail")
        raise ZeroDivisionError("the view's fault")

    with connect(app, "/crash") as ws:
        assert list(iter(ws.receive, None)) == ["about to fail"]
        assert ws.close_code == 1011
    app.testing = True
    with pytest.raises(ZeroDivisionError), connect(app, "/crash") as ws:
        list(ws)


def test_the_options_of_middleware_hold():
    with connect(WebSocketMiddleware(echo, max_message_size=5)) as ws:
        ws.send("123456")
        assert ws.receive() is None
        assert ws.close_code == 1009


def test_the_options_of_a_flask_application_hold():
    app = flask.Flask(__name__)
    Sockets(app).route("/echo")(lambda ws: [ws.send(message) for message in ws] and None)
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 5
    with connect(app, "/echo") as ws:
        ws.send("123456")
        assert ws.receive() is None
        assert ws.close_code == 1009


# ------------------------------------------------------------------------ docs


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("testing.md", ["chat.py", "test_chat.py"]),
        ("framework-extensions.md", ["pyramid_echo.py", "test_pyramid_echo.py"]),
    ],
)
def test_the_example_in_the_documentation_passes(tmp_path, page, names):
    text = (DOCS / page).read_text()
    files = re.findall(r"`([\w.]+)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == names
    for name, code in files:
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"),
            *("-W", "ignore:'cgi' is deprecated:DeprecationWarning"),  # imported by WebOb
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout
