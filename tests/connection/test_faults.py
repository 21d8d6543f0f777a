"""Whatever fails on this side costs one connection: nothing of it meets anybody else's bytes."""

import contextlib
import errno
import functools
import gc
import inspect
import itertools
import logging
import os
import socket
import weakref

import gevent
import greenlet
import pytest
from gevent.event import AsyncResult, Event
from gevent.exceptions import BlockingSwitchOutError
from gevent.monkey import get_original

import geventws
from geventws import ConnectionClosed
from geventws.connection.connection import Connection
from geventws.protocol.endpoint import Endpoint
from geventws.server.websocket import WebSocket
from tests.support.apps import echo
from tests.support.client import BINARY, PING, PONG, TEXT, close_frame, frame, request
from tests.support.endpoints import opened
from tests.support.servers import SECONDS, wait_until

SECRET = "somebody else's secret"


class Injected(BaseException):
    """Not an Exception, as MemoryError in a bad place, KeyboardInterrupt and Timeout are not."""


@pytest.fixture
def silent_hub(monkeypatch):
    """Silence gevent, which prints exceptions of loop callbacks: here they are expected."""
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "handle_error", lambda *_: None)
    return hub


#: gevent stops a watcher whose callback raises. Therefore these callbacks contain a try.
CALLED_BY_THE_LOOP = {"_on_readable", "_on_writable", "_resume", "_switch_to_waiter"}


class Injector:
    """Raises at the nth call of a Python function of the connection's classes."""

    def __init__(self, monkeypatch) -> None:
        self.countdown = None
        self.has_fired = False
        self.place = ""
        for owner in {*Connection.__mro__, *WebSocket.__mro__, *Endpoint.__mro__} - {object}:
            for name, function in list(vars(owner).items()):
                if inspect.isfunction(function) and name not in CALLED_BY_THE_LOOP:
                    monkeypatch.setattr(owner, name, self.wrap(function), raising=False)

    def wrap(self, function):
        @functools.wraps(function)
        def wrapper(*arguments, **keywords):
            if self.countdown is not None:
                self.countdown -= 1
                if self.countdown < 0:
                    self.countdown = None
                    self.has_fired = True
                    self.place = function.__name__
                    raise Injected(self.place)
            return function(*arguments, **keywords)

        return wrapper


SENT = {
    "a message": frame(TEXT, "hello"),
    "two messages": frame(TEXT, "one") + frame(BINARY, b"two"),
    "a ping and a message": frame(PING, "p") + frame(TEXT, "x"),
    "a part of a message": frame(TEXT, "x" * 500)[:-10],
    "a fragment": frame(0x01, "begun"),
    "a close": close_frame(1000, "bye"),
    "a fault": frame(0x83),
    "many messages": frame(TEXT, "y" * 100) * 50,
}


@pytest.mark.parametrize("receives", [True, False], ids=["receiving", "sleeping"])
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_an_exception_at_any_call_under_a_dispatch_costs_that_connection_only(
    serve, monkeypatch, silent_hub, caplog, sent, receives
):
    caplog.set_level(logging.CRITICAL, "geventws")
    heard = []
    go = Event()

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        if environ["PATH_INFO"] == "/echo":
            return echo(environ, start_response)
        ws.accept()
        if not receives:
            go.wait(SECONDS)
        try:
            for message in ws:
                heard.append(message)
                ws.send(message)
        except Injected as problem:
            raise ZeroDivisionError from problem
        return []

    server = serve(application, max_queued_messages=4)
    injector = Injector(monkeypatch)
    with server.client().open() as honest:
        for number in itertools.count():
            with server.client().open("/victim") as victim:
                wait_until(lambda: len(server.websockets) == 2)
                (ws,) = (ws for ws in server.websockets if ws.path == "/victim")
                if receives:
                    wait_until(lambda ws=ws: ws._waiter is not None)
                before = ws._totals.bytes_received
                injector.has_fired, injector.countdown = False, number
                victim.send(sent)
                wait_until(
                    lambda ws=ws, before=before: (
                        injector.has_fired or ws._totals.bytes_received >= before + len(sent)
                    )
                )
                gevent.sleep(0)
                injector.countdown = None
                honest.send(frame(TEXT, SECRET))
                assert honest.read_frame() == (TEXT, SECRET.encode())
                go.set()
                with contextlib.suppress(OSError):  # it may have been reset already
                    victim.sock.shutdown(socket.SHUT_WR)
                wait_until(lambda: len(server.websockets) == 1, f"the end after {injector.place}")
                go.clear()
            assert SECRET not in heard
            if not injector.has_fired:
                break
        honest.finish()


@pytest.mark.parametrize("blocks", [True, False], ids=["blocking", "not blocking"])
def test_an_exception_at_any_call_for_a_detached_websocket_ends_it_with_on_close(
    serve, monkeypatch, silent_hub, caplog, blocks
):
    caplog.set_level(logging.CRITICAL, "geventws")
    ended = []

    def on_message(ws, message):
        if blocks:
            gevent.sleep(0)
        ws.send(message)

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        is_victim = environ["PATH_INFO"] == "/victim"
        ws.detach(on_message, ended.append if is_victim else None)
        return []

    server = serve(application)
    injector = Injector(monkeypatch)
    with server.client().open() as honest:
        for number in itertools.count():
            with server.client().open("/victim") as victim:
                wait_until(server.is_idle)
                (ws,) = (ws for ws in server.websockets if ws.path == "/victim")
                wait_until(lambda ws=ws: not ws._busy and not ws._resuming)
                before = ws._totals.bytes_received
                injector.has_fired, injector.countdown = False, number
                victim.send(SENT["two messages"])
                wait_until(
                    lambda ws=ws, before=before: (
                        injector.has_fired
                        or (
                            ws._totals.bytes_received > before and not ws._busy and not ws._resuming
                        )
                    )
                )
                injector.countdown = None
                honest.send(frame(TEXT, SECRET))
                assert honest.read_frame() == (TEXT, SECRET.encode())
                with contextlib.suppress(OSError):  # it may have been reset already
                    victim.sock.shutdown(socket.SHUT_WR)
                wait_until(lambda: len(server.websockets) == 1, f"the end after {injector.place}")
            assert ended == [ws]
            ended.clear()
            if not injector.has_fired:
                break


def test_an_exception_in_a_raw_greenlet_that_receives_costs_its_connection_only(serve, silent_hub):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        if environ["PATH_INFO"] == "/echo":
            return echo(environ, start_response)
        ws.accept()

        def receive():
            ws.receive()
            raise ZeroDivisionError

        silent_hub.loop.run_callback(greenlet.greenlet(receive, silent_hub).switch)
        gevent.sleep(0)
        while not ws.closed:
            gevent.sleep(0.01)
        result.set([ws.receive(), ws.close_code])
        return []

    result = AsyncResult()
    server = serve(application)
    with server.client().open() as honest, server.client().open("/raw") as victim:
        honest.send(frame(TEXT, "before"))
        victim.send(frame(TEXT, "x") + frame(TEXT, "left over"))
        assert honest.read_frame() == (TEXT, b"before")
        victim.read_to_end()
        honest.send(frame(TEXT, SECRET))
        assert honest.read_frame() == (TEXT, SECRET.encode())
        assert result.get(timeout=SECONDS) == [None, 1006]


# ------------------------------------------------------------------ out of memory


def pieces_of(data: bytes):
    return [data[:3000], data[3000:90_000], data[90_000:]]


MESSAGES = {
    "text": (frame(TEXT, "a" * 100_000), "a" * 100_000),
    "binary": (frame(BINARY, b"b" * 100_000), b"b" * 100_000),
    "text that is not ASCII": (frame(TEXT, "é" * 60_000), "é" * 60_000),
    "fragments": (frame(0x02, b"c" * 50_000) + frame(0x80, b"c" * 50_000), b"c" * 100_000),
    "short": (frame(TEXT, "d" * 10) * 3, "d" * 10),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_out_of_memory_loses_the_connection_and_mixes_no_messages(kind):
    testcapi = pytest.importorskip("_testcapi")
    data, whole = MESSAGES[kind]
    failures = 0
    for number in range(60):
        protocol = opened()
        for piece in pieces_of(data):
            received = failed = None
            testcapi.set_nomemory(number, number + 1)
            try:
                protocol.receive_data(piece)
                received = protocol.next_message()
            except MemoryError as problem:
                failed = problem
            finally:
                testcapi.remove_mem_hooks()
            assert received in {None, whole}
            if failed is not None:
                failures += 1
                protocol.end_transport()
                protocol.receive_data(frame(TEXT, SECRET))
                assert protocol.next_message() is None
                break
    assert failures


# -------------------------------------------------------------------- descriptors


def test_a_websocket_ends_though_the_log_of_its_views_fault_is_interrupted(serve, capsys):
    class Interrupted(logging.Filter):
        def filter(self, record):
            raise Injected

    views = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        views.append(ws)
        ws.send("x")
        raise ZeroDivisionError

    server = serve(application)
    interruption = Interrupted()
    geventws.connection.logs.logger.addFilter(interruption)
    try:
        with server.client().open() as client:
            assert client.read_frame() == (TEXT, b"x")
            client.read_to_end()
    finally:
        geventws.connection.logs.logger.removeFilter(interruption)
    wait_until(lambda: not server.websockets)
    with pytest.raises(ConnectionClosed):
        views[0].send("to whom?")
    with server.client().open() as client:
        assert client.read_frame() == (TEXT, b"x")


@pytest.mark.parametrize("duplicate", [True, False], ids=["duplicate", "no duplicate"])
@pytest.mark.parametrize("by_python", [True, False], ids=["socket", "descriptor"])
def test_a_descriptor_that_somebody_else_closes_is_not_touched_any_more(
    serve, duplicate, by_python
):
    if not by_python and geventws.__core__ == "python":
        pytest.skip("libev ends the process when a descriptor that it watches is closed")
    closed = Event()
    ended = Event()

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        if environ["PATH_INFO"] == "/echo":
            return echo(environ, start_response)
        ws.accept()
        descriptor = ws._sock.fileno()
        copies.append(os.dup(descriptor) if duplicate else None)
        if by_python:
            ws._sock.close()
        else:
            os.close(descriptor)
        closed.set()
        try:
            ws.receive(timeout=1)
        except (TimeoutError, ConnectionClosed):
            pass
        if not by_python:
            # The number may be another connection's by now: its owner must not close that.
            ws._raw.detach()
        ended.set()
        return []

    copies = []
    server = serve(application)
    with server.client().open("/closes") as first:
        assert closed.wait(SECONDS)
        with server.client().open() as second:
            first.sock.settimeout(0.2)
            try:
                first.send(frame(TEXT, "to the old one") * 3)
            except OSError:
                pass
            for number in range(20):
                second.send(frame(TEXT, str(number)))
                assert second.read_frame() == (TEXT, str(number).encode())
            assert ended.wait(SECONDS)
            second.send(frame(PING, "still"))
            assert second.read_frame() == (PONG, b"still")
            second.finish()
    for copy in copies:
        if copy is not None:
            os.close(copy)


# ------------------------------------------------------------------- where to wait


def test_to_receive_in_a_callback_of_the_loop_is_an_error(run):
    def view(ws):
        ws.accept()
        outcome = AsyncResult()

        def callback():
            try:
                ws.receive()
            except BlockingSwitchOutError:
                outcome.set("refused")

        gevent.get_hub().loop.run_callback(callback)
        return outcome.get(timeout=SECONDS), ws.receive()

    client, result = run(view)
    client.send(frame(TEXT, "unharmed"))
    assert result.get(timeout=SECONDS) == ("refused", "unharmed")


def test_another_thread_takes_no_message_of_the_queue(run):
    go = Event()

    def view(ws):
        ws.accept()
        assert go.wait(SECONDS)
        wait_until(lambda: ws._received)
        with pytest.raises(RuntimeError, match="only in the thread of the view"):
            gevent.get_hub().threadpool.apply(ws.receive)
        with pytest.raises(RuntimeError, match="only in the thread of the view"):
            gevent.get_hub().threadpool.apply(lambda: next(iter(ws)))
        return ws.receive()

    client, result = run(view)
    client.send(frame(TEXT, "for the view"))
    go.set()
    assert result.get(timeout=SECONDS) == "for the view"


def test_a_client_of_a_thread_that_has_ended_can_be_closed_elsewhere(serve):
    server = serve(echo)
    opened = []

    def open_in_thread():
        opened.append(geventws.connect(f"ws://127.0.0.1:{server.server_port}/"))
        gevent.get_hub().destroy()

    thread = get_original("threading", "Thread")(target=open_in_thread)
    thread.start()
    gevent.get_hub().threadpool.apply(thread.join)
    (ws,) = opened
    with pytest.raises(ConnectionClosed):
        ws.send("nobody would write this")
    ws.close()
    assert ws.closed
    ws.close()
    wait_until(lambda: not server.websockets)


# --------------------------------------------------------------------- the 101


def test_two_greenlets_that_use_a_websocket_at_once_send_one_101(serve):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws._headers_hook = lambda: gevent.sleep(0.01) or [("X-Slow", "yes")]
        gevent.joinall(
            [gevent.spawn(ws.send, str(number)) for number in range(5)], raise_error=True
        )
        return []

    with serve(application).client().open() as client:
        assert client.headers["x-slow"] == "yes"
        assert sorted(client.read_frame() for _ in range(5)) == [
            (TEXT, str(number).encode()) for number in range(5)
        ]
        assert client.read_close() == (1000, "")


def test_a_refusal_waits_for_another_greenlets_101(serve):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws._headers_hook = lambda: gevent.sleep(0.05) or []
        gevent.spawn(ws.accept)
        gevent.sleep(0)
        start_response("401 Unauthorized", [])
        return [b"too late"]

    with serve(application).client().open() as client:
        assert client.read_close() == (1000, "")


def test_a_connection_that_cannot_be_watched_is_freed_and_its_socket_closed(serve, monkeypatch):
    def start_reading(ws):
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")

    references = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        references.append(weakref.ref(ws))
        with pytest.raises(ConnectionClosed):
            ws.accept()
        return []

    monkeypatch.setattr(WebSocket, "_start_reading", start_reading)
    with serve(application).client() as client:
        client.send(request())
        client.read_to_end()

    def is_freed():
        gc.collect()
        return references[0]() is None

    wait_until(is_freed)
