"""A detached WebSocket: its view has returned, and callbacks in borrowed greenlets serve it."""

import contextlib
import contextvars
import gc
import logging
import os
import weakref

import gevent
import gevent.local
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from gevent.queue import Queue

import geventws
from geventws import Broadcast, WebSocketHandler
from geventws.connection import callbacks
from geventws.connection.hub import hub_state
from tests.support.client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
    request,
)
from tests.support.servers import SECONDS, arguments_of, serving, wait_until


def echo(ws, message):
    ws.send(message)


@pytest.fixture
def detached(serve):
    """``detached(on_message, on_close, **options)``: a server that detaches every WebSocket."""

    def start(on_message=None, on_close=None, *, before=None, keep_environ=False, **options):
        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.detach(on_message, on_close, keep_environ=keep_environ)
            if before is not None:
                before(ws)
            return []

        return serve(app, **options)

    return start


@pytest.fixture
def ends():
    """A queue with the close codes that on_close has seen."""
    return Queue()


@pytest.fixture
def note_end(ends):
    return lambda ws: ends.put(ws.close_code)


class Gate:
    """A callback that blocks until the test opens it; the messages that have passed."""

    def __init__(self) -> None:
        self.event = Event()
        self.begun = []
        self.passed = []

    def __call__(self, ws, message):
        self.begun.append(message)
        with gevent.Timeout(SECONDS):
            self.event.wait()
        self.passed.append(message)
        ws.send(message)


def test_each_message_calls_the_callback_after_the_view_has_ended(detached):
    server = detached(echo)
    with server.client().open() as client:
        wait_until(server.is_idle)  # no greenlet serves it any more
        client.send(frame(TEXT, "one") + frame(BINARY, b"two"))
        assert client.read_frame() == (TEXT, b"one")
        assert client.read_frame() == (BINARY, b"two")
        assert server.stats().connections == 1
    wait_until(lambda: not server.websockets)


def test_messages_and_the_end_before_the_view_returns_wait_for_it(serve, ends, note_end):
    returns, messages = Event(), []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.detach(lambda _, message: messages.append(message), note_end)
        returns.wait()
        return []

    server = serve(app)
    with server.client().open() as client:
        client.send(frame(TEXT, "early") + close_frame(1000))
        client.read_close()
        assert not messages
        returns.set()
        assert ends.get(timeout=SECONDS) == 1000
        assert messages == ["early"]


def test_over_tls_too(detached, tls, ends, note_end):
    certificate, key, context = tls
    server = detached(echo, note_end, certfile=certificate, keyfile=key)
    with server.client(context=context).open() as client:
        wait_until(server.is_idle)
        client.send(frame(TEXT, "x" * 100_000) + frame(TEXT, "y"))
        assert client.read_frame() == (TEXT, b"x" * 100_000)
        assert client.read_frame() == (TEXT, b"y")
        client.send(close_frame(1000))
        client.read_close()
        assert ends.get(timeout=SECONDS) == 1000


def test_a_callback_that_blocks_gets_the_next_message_after_its_end(detached):
    gate = Gate()
    server = detached(gate)
    with server.client().open() as client:
        client.send(frame(TEXT, "1") + frame(TEXT, "2"))
        wait_until(lambda: gate.begun)
        client.send(frame(TEXT, "3"))
        wait_until(lambda: server.stats().receive_queue == 2)
        assert gate.begun == ["1"]
        assert server.stats().callbacks_running == 1
        gate.event.set()
        assert [client.read_frame()[1] for _ in range(3)] == [b"1", b"2", b"3"]
        assert gate.passed == ["1", "2", "3"]


def test_a_callback_that_blocks_does_not_keep_others_waiting(detached):
    gate = Gate()
    server = detached(
        lambda ws, message: gate(ws, message) if message == "wait" else echo(ws, message)
    )
    with server.client().open() as one, server.client().open() as other:
        one.send(frame(TEXT, "wait"))
        other.send(frame(TEXT, "now"))
        assert other.read_frame() == (TEXT, b"now")
        gate.event.set()
        assert one.read_frame() == (TEXT, b"wait")


def test_reading_stops_while_the_callback_blocks_and_the_queue_is_full(detached):
    gate = Gate()
    server = detached(gate, max_queued_messages=4)
    with server.client().open() as client:
        client.send(b"".join(frame(TEXT, str(number)) for number in range(100)))
        wait_until(lambda: server.stats().receive_queue == 4)
        (ws,) = server.websockets
        assert ws._paused
        gate.event.set()
        assert [client.read_frame()[1] for _ in range(100)] == [b"%d" % n for n in range(100)]


def test_a_callback_may_receive(detached):
    def greet(ws, message):
        ws.send(f"{message}, what is your name?")
        ws.send(f"Hello {ws.receive()} {ws.receive()}")

    with detached(greet).client().open() as client:
        for _ in range(2):
            client.send(frame(TEXT, "Hi"))
            assert client.read_frame() == (TEXT, b"Hi, what is your name?")
            client.send(frame(TEXT, "Ann") + frame(TEXT, "Lee"))
            assert client.read_frame() == (TEXT, b"Hello Ann Lee")


def test_a_callback_that_receives_gets_the_end(detached, ends, note_end):
    results = []
    server = detached(lambda ws, _: results.append(ws.receive()), note_end)
    with server.client().open() as client:
        client.send(frame(TEXT, "x"))
        wait_until(lambda: server.stats().callbacks_running)
        client.send(close_frame(1000))
        client.read_close()
    assert ends.get(timeout=SECONDS) == 1000
    assert results == [None]


def test_another_greenlet_may_send(detached):
    open_sockets = []
    server = detached(before=open_sockets.append)
    with server.client().open() as client:
        wait_until(server.is_idle)
        open_sockets[0].send("later")
        assert client.read_frame() == (TEXT, b"later")


def test_without_a_callback_messages_are_dropped_and_control_frames_answered(detached):
    server = detached()
    with server.client().open() as client:
        wait_until(server.is_idle)
        client.send(frame(TEXT, "dropped") * 1000 + frame(PING, "p"))
        assert client.read_frame() == (PONG, b"p")
        assert server.stats().messages_received == 1000
        assert server.stats().receive_queue == 0
        client.send(close_frame(1000, "bye"))
        assert client.read_close() == (1000, "bye")
    wait_until(lambda: not server.websockets)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda client: client.send(close_frame(4000)), 4000),
        (lambda client: client.sock.close(), 1006),
        (lambda client: client.send(frame(0x83)), 1002),
        (lambda client: client.send(frame(TEXT, "x" * 2000)), 1009),
        (lambda client: client.send(frame(TEXT, "fail")), 1011),
        (lambda client: client.send(frame(TEXT, "close") + close_frame(3000)), 3000),
        (lambda client: client.send(frame(TEXT, "exit")), 1001),
    ],
    ids=["Close", "loss", "fault", "size", "exception", "close()", "kill"],
)
def test_on_close_is_called_once_for_every_end(detached, ends, note_end, end, code, caplog):
    def on_message(ws, message):
        if message == "fail":
            raise ValueError("of the application")
        if message == "close":
            ws.close(3000)
        if message == "exit":
            gevent.getcurrent().kill()

    server = detached(on_message, note_end, max_message_size=1000, close_timeout=0.2)
    with contextlib.closing(server.client().open().sock):
        pass
    assert ends.get(timeout=SECONDS) == 1006
    with server.client().open() as client:
        wait_until(server.is_idle)
        end(client)
        assert ends.get(timeout=SECONDS) == code
        wait_until(lambda: not server.websockets)
    assert ends.empty()
    logged = [record.exc_info for record in caplog.records if record.exc_info]
    assert len(logged) == (code == 1011)


@pytest.mark.parametrize(
    ("data", "code"),
    [(frame(TEXT, "fail"), 1011), (frame(0x83), 1002)],
    ids=["closing", "draining"],
)
def test_a_peer_that_does_not_answer_a_close_frame_is_dropped_after_close_timeout(
    detached, ends, note_end, data, code
):
    # Without accept_after, the next check of the deadlines would come after ping_interval.
    server = detached(lambda *_: 1 / 0, note_end, close_timeout=0.2, accept_after=None)
    with server.client().open() as client:
        wait_until(server.is_idle)
        client.send(data)
        assert client.read_close()[0] == code
        assert ends.get(timeout=SECONDS) == code


def test_messages_before_the_end_are_delivered_before_on_close(detached):
    events = []
    gate = Gate()

    def on_message(ws, message):
        gate.event.wait()
        events.append(message)

    server = detached(on_message, lambda _: events.append("closed"))
    with server.client().open() as client:
        client.send(frame(TEXT, "1") + frame(TEXT, "2") + close_frame(1000))
        client.read_close()
    wait_until(lambda: server.stats().callbacks_running or events)
    assert not events
    gate.event.set()
    wait_until(lambda: not server.websockets)
    assert events == ["1", "2", "closed"]


def test_a_send_after_the_end_in_a_callback_is_a_normal_end(detached, ends, note_end, caplog):
    gate = Gate()
    server = detached(gate, note_end)
    with server.client().open() as client:
        client.send(frame(TEXT, "x"))
        wait_until(lambda: gate.begun)
    wait_until(lambda: all(ws.closed for ws in server.websockets))
    gate.event.set()
    assert ends.get(timeout=SECONDS) == 1006
    assert not caplog.records


@pytest.mark.parametrize("problem", [ValueError, gevent.GreenletExit], ids=["failed", "killed"])
def test_messages_behind_one_whose_callback_fails_are_dropped(detached, ends, note_end, problem):
    begun, goes_on = [], Event()

    def on_message(ws, message):
        begun.append(message)
        goes_on.wait()
        raise problem

    server = detached(on_message, note_end)
    with server.client().open() as client:
        client.send(frame(TEXT, "1") + frame(TEXT, "2"))
        wait_until(lambda: server.stats().receive_queue == 1)
        goes_on.set()
        client.read_close()
        client.send(close_frame(1000))
        ends.get(timeout=SECONDS)
    assert begun == ["1"]


@pytest.mark.parametrize("problem", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_callback_ends_the_main_greenlet(detached, problem, capfd):
    def on_message(ws, message):
        raise problem

    server = detached(on_message)
    with server.client().open() as client:
        client.send(frame(TEXT, "x"))
        with pytest.raises(problem):
            gevent.sleep(SECONDS)
        wait_until(lambda: not server.websockets)


def test_an_exception_of_the_view_closes_with_1011_and_calls_on_close(serve, ends, note_end):
    def app(environ, start_response):
        environ["wsgi.websocket"].detach(echo, note_end)
        raise ValueError("after detach()")

    with serve(app).client().open() as client:
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))
        assert ends.get(timeout=SECONDS) == 1011


def test_the_answer_of_the_view_is_dropped(serve):
    def app(environ, start_response):
        environ["wsgi.websocket"].detach(echo)
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    with serve(app).client().open() as client:
        client.send(frame(TEXT, "x"))
        assert client.read_frame() == (TEXT, b"x")


def test_a_refused_websocket_cannot_be_detached(serve):
    def app(environ, start_response):
        start_response("401 Unauthorized", [])(b"")
        with pytest.raises(geventws.WebSocketError, match="401"):
            environ["wsgi.websocket"].detach(echo)
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_head() == "401"


async def callback(ws):
    """A callback for another library."""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("x",), "callable"), ((None, 1), "callable"), ((None, callback), "async def")],
)
def test_a_callback_must_be_a_function(run, arguments, problem):
    def view(ws):
        with pytest.raises(TypeError, match=problem):
            ws.detach(*arguments)

    client, result = run(view)
    client.send(close_frame(1000))
    result.get(timeout=SECONDS)


def test_a_callback_may_replace_the_callbacks(detached):
    def second(ws, message):
        ws.send(f"second {message}")

    def first(ws, message):
        ws.send(f"first {message}")
        ws.detach(second)

    with detached(first).client().open() as client:
        client.send(frame(TEXT, "1") + frame(TEXT, "2"))
        assert client.read_frame() == (TEXT, b"first 1")
        assert client.read_frame() == (TEXT, b"second 2")


@pytest.mark.parametrize("count", [2, 100], ids=["buffer", "queue"])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_callback_may_drop_the_messages_behind_its_own(detached, ends, note_end, count, blocks):
    def on_message(ws, message):
        if blocks:
            wait_until(lambda: server.stats().receive_queue == min(count - 1, 4))
        ws.detach(None, note_end)

    server = detached(on_message, max_queued_messages=4)
    with server.client().open() as client:
        client.send(frame(TEXT, "x") * count + close_frame(1000))
        assert client.read_close() == (1000, "")
        assert ends.get(timeout=SECONDS) == 1000


def test_the_callback_gets_what_another_greenlet_leaves_after_it_has_received(detached):
    gate, taken = Gate(), []

    def on_message(ws, message):
        if message == "start":
            gevent.spawn(lambda: taken.append(ws.receive()))
        else:
            gate(ws, message)

    server = detached(on_message)
    with server.client().open() as client, server.client().open() as other:
        client.send(frame(TEXT, "start"))
        wait_until(lambda: any(ws._waiter is not None for ws in server.websockets))
        client.send(frame(TEXT, "1") + frame(TEXT, "2"))
        wait_until(lambda: taken and gate.begun == ["2"])
        client.send(frame(TEXT, "3"))
        wait_until(lambda: server.stats().receive_queue == 1)
        other.send(frame(TEXT, "other"))  # into the same buffer
        wait_until(lambda: "other" in gate.begun)
        gate.event.set()
        assert [client.read_frame()[1] for _ in range(2)] == [b"2", b"3"]
        assert other.read_frame() == (TEXT, b"other")
    assert taken == ["1"]


def test_the_environ_is_dropped_unless_it_is_asked_for(detached):
    def on_message(ws, message):
        ws.send(f"{ws.path} {ws.remote_address[0]} {ws.origin}")
        ws.send(ws.environ["QUERY_STRING"])

    origin = [("Origin", "http://test.example")]
    for keep in (True, False):
        with detached(on_message, keep_environ=keep).client().open("/p?q", origin) as client:
            client.send(frame(TEXT, "x"))
            assert client.read_frame() == (TEXT, b"/p 127.0.0.1 http://test.example")
            assert client.read_frame() == ((TEXT, b"q") if keep else (CLOSE, b"\x03\xf3"))


# ------------------------------------------------------------------------------- the pool


def test_at_most_max_callbacks_run_and_the_others_wait(detached):
    gate = Gate()
    server = detached(gate, max_callbacks=2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open()) for _ in range(4)]
        for number, client in enumerate(clients):
            client.send(frame(TEXT, str(number)) * 2)
        wait_until(lambda: server.stats().callbacks_waiting == 2)
        assert server.stats().callbacks_running == 2
        assert len(gate.begun) == 2
        clients[3].send(close_frame(1000))  # seen although it waits
        clients[3].read_close()
        gate.event.set()
        for number, client in enumerate(clients[:3]):
            assert [client.read_frame()[1] for _ in range(2)] == [b"%d" % number] * 2
        wait_until(lambda: len(gate.passed) == 8)
    wait_until(lambda: not server.websockets)


def test_a_killed_callback_makes_room_for_one_that_waits(detached):
    goes_on = Event()

    def on_message(ws, message):
        if message == "kill":
            goes_on.wait()
            raise gevent.GreenletExit
        ws.send(message)

    server = detached(on_message, max_callbacks=1)
    with server.client().open() as one, server.client().open() as other:
        one.send(frame(TEXT, "kill"))
        wait_until(lambda: server.stats().callbacks_running)
        other.send(frame(TEXT, "x"))
        wait_until(lambda: server.stats().callbacks_waiting)
        goes_on.set()
        assert other.read_frame() == (TEXT, b"x")


def test_idle_greenlets_end_after_a_while(detached, monkeypatch):
    monkeypatch.setattr(callbacks, "IDLE_TIME", 0.05)
    pool = hub_state().buffers.pool
    while pool.ends_idle:  # a timer of an earlier test
        gevent.get_hub().loop.run_callback(pool._end_unused)
        gevent.sleep(0)
    gate = Gate()
    server = detached(gate)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open()) for _ in range(5)]
        for client in clients:
            client.send(frame(TEXT, "x"))
        wait_until(lambda: pool.running == 5)
        gate.event.set()
        for client in clients:
            client.read_frame()
        wait_until(lambda: len(pool._idle) == 5)
        workers = [weakref.ref(worker) for worker in pool._idle]
        wait_until(lambda: not pool._idle and not pool.ends_idle)
        assert [worker() for worker in workers] == [None] * 5
        clients[0].send(frame(TEXT, "again"))
        assert clients[0].read_frame() == (TEXT, b"again")


variable = contextvars.ContextVar("variable", default="unset")


def leave_a_variable():
    seen = variable.get()
    variable.set("set")
    return seen


local = gevent.local.local()


def leave_a_local():
    seen = getattr(local, "value", "unset")
    local.value = "set"
    return seen


def leave_a_timeout():
    gevent.Timeout.start_new(0.02, ValueError("a timeout of the callback before"))
    return "unset"


kept = []


def leave_the_greenlet():
    seen = "unset" if gevent.getcurrent() not in kept else "set"
    kept.append(gevent.getcurrent())
    return seen


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(
    "leave", [leave_a_variable, leave_a_local, leave_a_timeout, leave_the_greenlet]
)
def test_a_callback_does_not_find_what_another_one_has_left(detached, leave, blocks, caplog, capfd):
    def on_message(ws, message):
        seen = leave()
        if blocks:
            gevent.sleep(0.001)
        ws.send(seen)
        if message == "wait":
            gevent.sleep(0.05)  # a timeout of another callback would end this one
            ws.send("waited")

    server = detached(on_message)
    with server.client().open() as one, server.client().open() as other:
        one.send(frame(TEXT, "x") * 3)
        other.send(frame(TEXT, "x"))
        assert [one.read_frame()[1] for _ in range(3)] == [b"unset"] * 3
        assert other.read_frame() == (TEXT, b"unset")
        if leave is not leave_a_timeout:
            other.send(frame(TEXT, "wait"))
            assert [other.read_frame()[1] for _ in range(2)] == [b"unset", b"waited"]
    gevent.killall(kept)
    kept.clear()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Traceback" not in capfd.readouterr().err


def test_a_timeout_that_a_callback_leaves_armed_meets_no_other_callback(detached, capfd):
    def on_message(ws, message):
        if message == "leave":
            gevent.Timeout.start_new(0.02)
        else:
            gevent.sleep(0.06)
        ws.send(message)

    server = detached(on_message)
    with server.client().open() as one, server.client().open() as other:
        one.send(frame(TEXT, "leave") + frame(TEXT, "wait"))
        other.send(frame(TEXT, "wait"))
        assert one.read_frame() == (TEXT, b"leave")
        assert one.read_frame() == (TEXT, b"wait")
        assert other.read_frame() == (TEXT, b"wait")
    assert "Timeout" not in capfd.readouterr().err


def test_a_timeout_of_a_callback_closes_its_own_connection(detached, caplog):
    def on_message(ws, message):
        with gevent.Timeout(0.01):
            gevent.sleep(SECONDS)

    with detached(on_message).client().open() as client:
        client.send(frame(TEXT, "x"))
        assert client.read_close() == (1011, "")
    assert "Timeout" in caplog.text


def test_a_flood_does_not_keep_other_greenlets_waiting(detached):
    server = detached(lambda *_: None)
    with server.client().open() as client, gevent.Timeout(SECONDS):
        client.send(frame(TEXT, "x") * 50_000)
        turns = 0
        while server.websockets.totals.messages_received < 50_000:
            gevent.sleep(0.0001)  # sleep(0) would let the loop poll once in a thousand turns
            turns += 1
        assert turns > 3


# ------------------------------------------------------------------------ the end of servers


def test_a_server_that_stops_closes_detached_websockets_with_1001(detached, ends, note_end):
    server = detached(echo, note_end)
    with server.client().open() as client:
        wait_until(server.is_idle)
        stopping = gevent.spawn(server.stop, SECONDS)
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        assert ends.get(timeout=SECONDS) == 1001
        stopping.get(timeout=SECONDS)


def test_a_server_that_stops_ends_callbacks_that_go_on(detached, ends, note_end):
    caught = []

    def on_message(ws, message):
        try:
            gevent.sleep(SECONDS)
        except gevent.GreenletExit:
            caught.append(message)
            raise

    server = detached(on_message, note_end)
    with server.client().open() as client:
        client.send(frame(TEXT, "x"))
        wait_until(lambda: server.stats().callbacks_running)
        server.stop(0.05)
        assert caught == ["x"]
        assert not server.websockets
        assert ends.get(timeout=SECONDS) == 1001


def test_gevents_own_server_closes_detached_websockets_when_it_stops(ends, note_end):
    def app(environ, start_response):
        environ["wsgi.websocket"].detach(echo, note_end)
        return []

    server = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
    server.start()
    with RawClient(("127.0.0.1", server.server_port)).open() as client:
        client.send(frame(TEXT, "x"))
        client.read_frame()
        server.stop()
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        assert ends.get(timeout=SECONDS) == 1001


@pytest.mark.parametrize("path", ["/detached", "/echo"])
def test_at_the_end_of_a_program_websockets_get_a_close_frame(tmp_path, path):
    program = (
        "import gevent, geventws; from tests.support.apps import site;"
        "server = geventws.WebSocketServer(('127.0.0.1', 0), site, log=None); server.start();"
        "print(f'http://127.0.0.1:{server.server_port}', flush=True);"
        "over = gevent.event.Event(); gevent.signal_handler(15, over.set); over.wait()"
    )
    with (
        serving(["-c", program], tmp_path / "log") as process,
        process.client().open(path) as client,
    ):
        client.send(frame(TEXT, "x"))
        client.read_frame()
        process.process.terminate()
        assert client.read_close() == (1001, "")


@pytest.mark.parametrize("way", ["gunicorn-gevent", "gunicorn-pywsgi"])
def test_the_workers_of_gunicorn_send_close_frames_when_they_exit(tmp_path, way):
    with (
        serving(arguments_of(way), tmp_path / "log") as process,
        process.client().open("/detached") as client,
    ):
        client.send(frame(TEXT, "x"))
        client.read_frame()
        process.process.terminate()
        assert client.read_close() == (1001, "")
        assert process.stop() == 0
        assert "Traceback" not in process.output


def test_a_server_that_stops_drops_messages_that_wait_for_a_greenlet(detached, ends, note_end):
    gate = Gate()
    server = detached(gate, note_end, max_callbacks=1)
    with server.client().open() as one, server.client().open() as other:
        for number, client in enumerate([one, other]):
            client.send(frame(TEXT, "x"))
            wait_until(lambda number=number: server.stats().callbacks_waiting == number)
            wait_until(lambda: gate.begun)
        server.stop(0.05)
        assert not server.websockets
        assert len(ends) == 2
        assert gate.begun == ["x"]


def test_max_connections_counts_detached_websockets(detached):
    server = detached(echo, max_connections=1)
    with server.client().open():
        wait_until(server.is_idle)
        with server.client() as client:
            client.send(request())
            assert client.read_head() == "503"


def test_keepalive_and_its_deadline_stay_in_effect(detached, ends, note_end):
    server = detached(echo, note_end, ping_interval=0.1, ping_timeout=0.1)
    with server.client().open() as client:
        first, _ = client.read_frame()
        assert first == PING
        assert ends.get(timeout=SECONDS) == 1011


def exit_status(child):
    """Wait for it without gevent's child watchers, which would reap the children of other tests."""
    return gevent.get_hub().threadpool.apply(os.waitpid, (child, 0))[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_child_calls_no_callback(detached, ends, note_end):
    read, write = os.pipe()
    server = detached(lambda *_: os.write(write, b"m"), lambda _: os.write(write, b"c"))
    with server.client().open() as client:
        wait_until(server.is_idle)
        child = gevent.os.fork_gevent()
        if child == 0:
            gevent.sleep(0.1)
            os._exit(len(server.websockets))
        assert exit_status(child) == 0
        client.send(frame(TEXT, "x") + close_frame(1000))
        client.read_close()
    wait_until(lambda: not server.websockets)
    assert os.read(read, 10) == b"mc"
    os.close(read)
    os.close(write)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_callback_that_forks_is_the_last_one_in_the_child(detached, ends, note_end):
    read, write = os.pipe()
    children = []

    def note_in_child(event):
        if 0 in children:
            os.write(write, event)

    def on_message(ws, message):
        note_in_child(b"m")
        children.append(gevent.os.fork_gevent())
        if 0 in children:
            gevent.get_hub().loop.run_callback(os._exit, 0)

    def on_close(ws):
        note_in_child(b"c")
        note_end(ws)

    server = detached(on_message, on_close)
    with server.client().open() as client:
        wait_until(server.is_idle)
        client.send(frame(TEXT, "fork") * 2 + close_frame(1000))
        assert ends.get(timeout=SECONDS) == 1000
    for child in children:
        assert exit_status(child) == 0
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


# --------------------------------------------------------------------------- subscriptions


def test_a_subscription_lasts_until_the_end_of_the_websocket(detached):
    broadcast = Broadcast("memory://")
    server = detached(before=lambda ws: broadcast.subscribe(["news", "sports"], ws))
    with server.client().open() as client:
        wait_until(server.is_idle)
        broadcast.publish("news", "1")
        broadcast.publish("sports", "2")
        assert client.read_frame() == (TEXT, b"1")
        assert client.read_frame() == (TEXT, b"2")
    wait_until(lambda: not broadcast.subscribers("news") and not broadcast.subscribers("sports"))


def test_the_subscription_of_a_view_without_a_with_block_ends_with_its_websocket(run):
    broadcast = Broadcast("memory://")

    def view(ws):
        broadcast.subscribe("news", ws)
        return list(ws)

    client, result = run(view)
    wait_until(lambda: broadcast.subscribers("news"))
    client.send(close_frame(1000))
    assert result.get(timeout=SECONDS) == []
    wait_until(lambda: not broadcast.subscribers("news"))


def test_an_ended_websocket_is_released(detached):
    references = []

    def before(ws):
        references.append(weakref.ref(ws))

    server = detached(echo, lambda _: None, before=before)
    gc.disable()
    try:
        with server.client().open() as client:
            client.send(frame(TEXT, "x"))
            client.read_frame()
            client.send(close_frame(1000))
            client.read_close()
            wait_until(lambda: not server.websockets)
        wait_until(lambda: references[0]() is None)
    finally:
        gc.enable()
