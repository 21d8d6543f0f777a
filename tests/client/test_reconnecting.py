"""``geventws.reconnect``, and how the iteration of a client ends."""

import logging
import ssl

import pytest

from geventws import ConnectionClosed, HandshakeError, connect, reconnect
from geventws.client import reconnecting
from geventws.testing import connect as connect_in_test
from tests.support.apps import echo
from tests.support.client import frame
from tests.support.proxies import free_port

QUICK = 0.01
NORMAL = [1000, 1001, 1005]


def closing(*codes):
    """A server that sends a message, and closes with the next code: ``None`` cuts TCP."""
    left = list(codes)

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        code = left.pop(0)
        if isinstance(code, str):
            start_response(code, [])
            return []
        ws.send(str(code))
        if code is None:
            ws._drop()
        elif code == 1005:
            ws._send_frames(b"\x88\0")
            ws.receive()
        else:
            ws.close(code)
        return []

    app.left = left
    return app


def at(server):
    return f"ws://127.0.0.1:{server.server_port}/"


# --------------------------------------------------------------------- iteration


@pytest.mark.parametrize("dial", ["client", "test client"])
@pytest.mark.parametrize("code", [1000, 1001, 1005, None, 1008, 1011, 1013, 4000])
def test_an_iteration_ends_silently_only_at_a_normal_end(serve, dial, code):
    app = closing(code)
    with connect(at(serve(app))) if dial == "client" else connect_in_test(app) as ws:
        assert next(iter(ws)) == str(code)
        for _ in range(2):
            if code in NORMAL:
                assert list(ws) == []
            else:
                with pytest.raises(ConnectionClosed) as caught:
                    list(ws)
                assert (caught.value.code, caught.value.by_peer) == (code or 1006, True)


def test_an_iteration_raises_after_a_fault_of_the_server(serve):
    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._send_frames(b"\xff\0")
        ws.receive()
        return []

    with connect(at(serve(app))) as ws:
        with pytest.raises(ConnectionClosed) as caught:
            list(ws)
        assert (caught.value.code, caught.value.by_peer) == (1002, False)


# ------------------------------------------------------------------- reconnecting


def test_a_server_that_cannot_be_reached_is_tried_again(monkeypatch):
    attempts = []

    def stop_after_three(delay):
        attempts.append(delay)
        if len(attempts) == 3:
            raise InterruptedError

    monkeypatch.setattr(reconnecting, "sleep", stop_after_three)
    with pytest.raises(InterruptedError):
        next(reconnect(f"ws://127.0.0.1:{free_port()}/"))


def test_it_connects_again_after_each_end(serve):
    app = closing(None, 1000, 1001, 1011, 1013, 4000, 4399, 4500, "503 Busy", "429 Slow down", 1012)
    server = serve(app)
    received = []
    for ws in reconnect(at(server), max_delay=QUICK):
        with ws:
            for message in ws:
                received.append(message)
        assert ws.closed
        if not app.left:
            break
    assert received == ["None", "1000", "1001", "1011", "1013", "4000", "4399", "4500", "1012"]


def test_it_waits_longer_and_longer_for_a_server_that_is_away(serve, caplog, monkeypatch):
    server = serve(closing(*["503 Busy"] * 8, 1000))
    delays = []
    monkeypatch.setattr(reconnecting, "sleep", delays.append)
    monkeypatch.setattr(reconnecting, "random", lambda: 0.5)
    with next(reconnect(f"{at(server)}?token=secret", max_delay=20)) as ws:
        assert ws.receive() == "1000"
    assert delays == [0.5, 1, 2, 4, 8, 10, 10, 10]
    lines = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert len(lines) == 8
    assert lines[0].startswith(f"127.0.0.1:{server.server_port}/: ")
    assert lines[0].endswith("the next attempt is in 0.5 seconds")
    assert "secret" not in caplog.text


def test_a_server_cannot_forge_a_line_of_the_log(serve, caplog):
    def app(environ, start_response):
        environ["wsgi.websocket"].close(4000, "away\nERROR: forged \x1b[31m")
        return []

    connections = reconnect(at(serve(app)), max_delay=QUICK)
    for _ in range(2):
        assert next(connections).wait_closed(10)
    lines = [it.getMessage() for it in caplog.records if "next attempt" in it.getMessage()]
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert "forged" in lines[0]


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "404 Not Found", "302 Found", "200 OK"])
def test_it_gives_up_when_the_server_refuses(serve, status):
    app = closing(1000, status)
    connections = reconnect(at(serve(app)), max_delay=QUICK)
    next(connections)
    with pytest.raises(HandshakeError) as caught:
        next(connections)
    assert caught.value.status_code == int(status[:3])
    assert list(connections) == []


@pytest.mark.parametrize("code", [1008, 4400, 4499])
def test_it_gives_up_when_the_server_closes_with_the_code_of_a_refusal(serve, code):
    connections = reconnect(at(serve(closing(code))), max_delay=QUICK)
    with next(connections) as ws:
        assert next(iter(ws)) == str(code)
        next(iter(ws))
    with pytest.raises(ConnectionClosed) as caught:
        next(connections)
    assert caught.value.code == code


def test_it_comes_back_after_a_message_that_was_too_slow_for_the_server(serve):
    server = serve(echo, message_timeout=0.05)
    connections = reconnect(at(server), max_delay=QUICK)
    with next(connections) as ws:
        ws._send_frames(frame(0x01, "unfinished"))
        ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1008, "message timeout")
    with next(connections) as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
    connections.close()


def test_it_gives_up_when_the_certificate_is_not_valid(serve, tls):
    server = serve(closing(1000), certfile=tls[0], keyfile=tls[1])
    with pytest.raises(ssl.SSLCertVerificationError):
        next(reconnect(f"wss://localhost:{server.server_port}/", max_delay=QUICK))


def test_a_block_suppresses_only_the_end_of_its_own_connection(serve):
    server = serve(closing(1000, 1000, 1000))
    first, second = (next(reconnect(at(server))) for _ in range(2))
    with first:
        first.close()
        first.send("too late")
    with pytest.raises(ConnectionClosed), second:
        raise ConnectionClosed(1006)
    assert second.closed
    with pytest.raises(KeyError), next(reconnect(at(server))):
        raise KeyError


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"sock": None}, TypeError),
        ({"max_delay": 0}, ValueError),
        ({"max_delay": float("nan")}, ValueError),
    ],
)
def test_wrong_arguments_are_reported_before_the_loop(arguments, problem):
    with pytest.raises(problem):
        reconnect("ws://127.0.0.1/", **arguments)
    with pytest.raises(ValueError, match="wss://"):
        reconnect("127.0.0.1")
