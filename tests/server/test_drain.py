"""A stopping server closes its WebSockets with 1001, and no client can delay the stop."""

import contextlib
import os
import re
import signal
import time
from decimal import Decimal

import gevent
import psutil
import pytest
from gevent.event import Event

from geventws import ConnectionClosed
from tests.support.apps import echo
from tests.support.client import TEXT, are_sent_away, close_frame, frame, request
from tests.support.servers import SECONDS, arguments_of, serving

STUCK = []


@pytest.fixture
def keep():
    """``keep(client)`` returns the client, and closes it after the test."""
    with contextlib.ExitStack() as clients:
        yield clients.enter_context


def stuck(environ, start_response):
    """A view that does not look at its WebSocket any more."""
    environ["wsgi.websocket"].accept()
    STUCK.append(gevent.getcurrent())
    Event().wait()


def test_a_server_without_a_limit_closes_every_websocket_with_1001(serve, keep):
    server = serve(echo, stop_timeout=None)
    clients = [keep(server.client()).open() for _ in range(3)]
    stopping = gevent.spawn(server.stop)
    are_sent_away(clients)
    stopping.get(timeout=SECONDS)


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_server_without_time_closes_every_websocket_with_1001(serve, keep, is_detached):
    def view(environ, start_response):
        ws = environ["wsgi.websocket"]
        if is_detached:
            ws.detach()
            return []
        return stuck(environ, start_response)

    server = serve(view)
    clients = [keep(server.client()).open() for _ in range(3)]
    server.stop(Decimal(0))
    for client in clients:
        assert client.read_close() == (1001, "")
        assert client.read_to_end() == b""


def test_the_time_to_stop_must_be_a_number(serve):
    server = serve(echo)
    with server.client().open() as client:
        with pytest.raises(ValueError, match="not NaN"):
            server.stop(float("nan"))
        client.finish()


def test_every_client_gets_1001_and_stop_returns_with_the_last_of_them(serve, keep):
    server = serve(echo)
    clients = [keep(server.client()).open() for _ in range(30)]
    stopping = gevent.spawn(server.stop, 1000)
    for client in clients:
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
    stopping.get(timeout=SECONDS)
    for client in clients:
        assert client.read_to_end() == b""
    assert not server.websockets


def test_the_close_frames_are_spread_over_half_of_the_time(serve, keep):
    server = serve(echo)
    clients = [keep(server.client()).open() for _ in range(20)]
    times = []

    def leave(client):
        assert client.read_close() == (1001, "")
        times.append(time.monotonic())
        client.send(close_frame(1001))

    leaving = [gevent.spawn(leave, client) for client in clients]
    server.stop(0.1)  # 20 in 0.05 seconds: 4 at a time
    gevent.joinall(leaving, timeout=SECONDS, raise_error=True)
    assert max(times) - min(times) >= 0.02


def test_a_new_websocket_gets_a_503_while_the_server_stops(serve, keep):
    server = serve(echo)
    staying = keep(server.client()).open()
    late = keep(server.client())
    late.send(b"GET ")
    gevent.sleep(0.01)
    stopping = gevent.spawn(server.stop, 1000)
    assert staying.read_close() == (1001, "")
    late.send(request()[len("GET ") :])
    status, body = late.read_response()
    assert (status, body) == ("503", b"The server is about to stop.\n")
    assert late.headers["retry-after"] == "5"
    assert late.read_to_end() == b""
    staying.send(close_frame(1001))
    stopping.get(timeout=SECONDS)


def test_a_websocket_that_is_accepted_while_the_server_stops_is_closed_too(serve):
    asked, go = Event(), Event()

    def hesitant(environ, start_response):
        asked.set()
        go.wait(SECONDS)
        return echo(environ, start_response)

    server = serve(hesitant)
    with server.client() as client:
        client.send(request())
        assert asked.wait(SECONDS)
        stopping = gevent.spawn(server.stop, 1000)
        gevent.sleep(0)
        go.set()
        assert client.read_head() == "101"
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        stopping.get(timeout=SECONDS)


def test_a_view_that_stays_is_killed_when_the_time_is_over(serve):
    server = serve(stuck)
    with server.client().open() as client:
        server.stop(0.2)
        assert STUCK.pop().dead
        assert client.read_close() == (1001, "")
        assert client.read_to_end() == b""
    assert not server.websockets


def test_a_view_may_stop_its_own_server(serve):
    def view(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.send("good bye")
        server.stop(0.2)
        with pytest.raises(ConnectionClosed):
            ws.send("too late")
        return []

    server = serve(view)
    with server.client().open() as client:
        assert client.read_frame() == (TEXT, b"good bye")
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        assert client.read_to_end() == b""


def test_a_server_that_is_started_again_takes_new_websockets(serve):
    server = serve(echo)
    server.stop(1)
    server.start()
    with server.client().open() as client:
        client.finish()


# ------------------------------------------------------------------------ gunicorn


@pytest.fixture
def gunicorn(tmp_path):
    def start(*arguments):
        return serving([*arguments_of("gunicorn-worker"), *arguments], tmp_path / "log")

    return start


def worker_of(client):
    """The process that serves a connection."""
    ends = client.sock.getpeername(), client.sock.getsockname()
    (process,) = (
        each.pid for each in psutil.net_connections("tcp") if (each.laddr, each.raddr) == ends
    )
    return process


def test_many_clients_leave_a_gunicorn_that_is_told_to_stop(gunicorn):
    with gunicorn("--graceful-timeout", "4") as process:
        clients = [process.client().open() for _ in range(300)]
        os.kill(process.process.pid, signal.SIGTERM)
        are_sent_away(clients)
        assert process.stop(seconds=10) == 0
        assert "graceful timeout" not in process.output


def test_ctrl_c_at_a_gunicorn_waits_for_nobody_and_tells_everybody(gunicorn, keep):
    with gunicorn() as process:
        clients = [keep(process.client()).open() for _ in range(5)]
        os.kill(process.process.pid, signal.SIGINT)
        for client in clients:
            assert client.read_close() == (1001, "")
        assert process.stop(signal.SIGINT, seconds=5) == 0
        assert "Traceback" not in process.output
        assert process.output.count('"GET /echo HTTP/1.1" 101') == 5


def test_a_view_that_stays_does_not_keep_a_gunicorn_for_longer_than_its_graceful_timeout(tmp_path):
    arguments = arguments_of("gunicorn-worker")
    arguments[arguments.index("tests.support.apps:site")] = "tests.server.test_drain:stuck"
    arguments += ["--graceful-timeout", "3"]
    with serving(arguments, tmp_path / "log") as process, process.client().open() as client:
        os.kill(process.process.pid, signal.SIGTERM)
        assert client.read_close() == (1001, "")
        assert client.read_to_end() == b""
        assert process.stop(seconds=10) == 0
        assert "Traceback" not in process.output
        assert process.output.count('"GET /echo HTTP/1.1" 101') == 1


def test_a_worker_that_is_killed_is_replaced_and_the_others_clients_notice_nothing(gunicorn, keep):
    with gunicorn("--workers", "2") as process:
        process.wait_for("(?s)Booting worker.*Booting worker")
        clients = []
        while len({worker_of(client) for client in clients}) < 2:
            clients.append(keep(process.client()).open())
        victim = worker_of(clients[-1])
        lost = [client for client in clients if worker_of(client) == victim]
        kept = [client for client in clients if client not in lost]
        os.kill(victim, signal.SIGKILL)
        for client in lost:
            assert client.read_to_end() == b""
        process.wait_for(r"(?s)(Booting worker.*){3}")
        for client in kept:
            client.send(frame(TEXT, "still here"))
            assert client.read_frame() == (TEXT, b"still here")
        with process.client().open() as client:
            client.finish()
        for client in kept:
            client.finish()
        assert not re.search("Traceback|Exception", process.output)
