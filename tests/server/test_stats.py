"""What is counted: ``stats()`` of a server, a middleware and the process."""

import dataclasses
import gc
import json
import sys

import gevent
import pytest
from gevent import socket

import geventws
from geventws import Broadcast, Stats
from geventws.server.registry import OpenWebSockets
from tests.support.apps import echo, site
from tests.support.client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    request,
)
from tests.support.servers import wait_until


def view(function):
    """A view as an application."""

    def app(environ, start_response):
        function(environ["wsgi.websocket"])
        return []

    return app


def test_a_new_server_has_nothing_to_tell(serve):
    assert serve(echo).stats() == Stats()


def test_messages_and_bytes_are_counted_each_way(serve):
    server = serve(echo)
    with server.client().open() as client:
        for payload in b"", b"x" * 10, b"x" * 300, b"x" * 70_000:
            sent = frame(BINARY, payload)
            before = server.stats()
            client.send(sent)
            assert client.read_frame() == (BINARY, payload)
            after = server.stats()
            assert after.messages_received - before.messages_received == 1
            assert after.messages_sent - before.messages_sent == 1
            assert after.bytes_received - before.bytes_received == len(sent)
            assert after.bytes_sent - before.bytes_sent == len(sent) - 4  # without a mask
        client.finish()


@pytest.mark.parametrize("early", [True, False])
def test_messages_that_come_together_are_all_counted(serve, early):
    server = serve(echo)
    frames = frame(TEXT, "hello") * 100
    with server.client() as client:
        client.open(early=frames if early else b"")
        if not early:
            client.send(frames)
        for _ in range(100):
            assert client.read_frame() == (TEXT, b"hello")
        stats = server.stats()
        assert (stats.messages_received, stats.messages_sent) == (100, 100)
        assert (stats.bytes_received, stats.bytes_sent) == (len(frames), 7 * 100)
        client.finish()


def test_fragments_are_one_message_and_control_frames_are_none(serve):
    server = serve(echo)
    with server.client().open() as client:
        client.send(frame(0x01, "one ") + frame(PING, "?") + frame(TEXT & 0xF0, "message"))
        assert client.read_frame() == (PONG, b"?")
        assert client.read_frame() == (TEXT, b"one message")
        stats = server.stats()
        assert (stats.messages_received, stats.messages_sent) == (1, 1)
        assert stats.pings_sent == 0
        client.finish()


def test_messages_are_counted_over_tls_too(serve, tls):
    certificate, key, context = tls
    server = serve(echo, certfile=certificate, keyfile=key)
    with server.client(context=context).open() as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        stats = server.stats()
        assert (stats.messages_received, stats.messages_sent) == (1, 1)
        assert (stats.bytes_received, stats.bytes_sent) == (11, 7)
        client.finish()


def test_what_is_broadcast_is_counted_for_each_subscriber(serve):
    broadcast = Broadcast("memory://")

    def listen(ws):
        with broadcast.subscribe("news", ws):
            ws.send("ready")
            ws.receive()

    server = serve(view(listen))
    clients = [server.client().open() for _ in range(3)]
    for client in clients:
        assert client.read_frame() == (TEXT, b"ready")
    before = server.stats()
    broadcast.publish("news", "hello")
    for client in clients:
        assert client.read_frame() == (TEXT, b"hello")
        client.sock.close()
    after = server.stats()
    assert after.messages_sent - before.messages_sent == 3
    assert after.bytes_sent - before.bytes_sent == 3 * 7


def test_open_connections_and_close_codes_are_counted(serve):
    server = serve(site)
    with server.client().open() as client, server.client().open() as other:
        assert server.stats().connections == server.stats().connections_opened == 2
        client.finish(4000)
        other.vanish()
        wait_until(server.is_idle)
    with server.client().open("/close") as client:
        assert client.read_close() == (4001, "not you")
        client.send(close_frame(4001))
        assert client.read_to_end() == b""
    wait_until(server.is_idle)
    stats = server.stats()
    assert stats.connections == 0
    assert stats.connections_opened == 3
    assert stats.connections_closed == {4000: 1, 1006: 1, 4001: 1}


def test_what_was_answered_with_http_is_counted_by_its_status(serve):
    server = serve(site)
    for path, headers, status in (
        ("/echo", [("Origin", "https://evil.example")], "403"),
        ("/echo", [("Sec-WebSocket-Key", "short")], "400"),
        ("/refuse", [], "401"),
        ("/refuse", [], "401"),
        ("/plain", [], "200"),
    ):
        with server.client() as client:
            client.send(request(path, headers))
            assert client.read_head() == status
    with server.client() as client:
        client.send(request("/plain", without="Upgrade"))  # no WebSocket was asked for
        assert client.read_head() == "200"
    assert server.stats().connections_refused == {403: 1, 400: 1, 401: 2, 200: 1}
    assert server.stats().connections_opened == 0


def test_pings_and_the_pongs_that_answer_them_are_counted(serve):
    def ask(ws):
        ws.ping(b"1")
        ws.receive()

    server = serve(view(ask))
    with server.client().open() as client:
        assert client.read_frame() == (PING, b"1")
        client.send(frame(PONG, "unasked") + frame(PONG, "1"))
        wait_until(lambda: server.stats().pongs_received)
        assert (server.stats().pings_sent, server.stats().pongs_received) == (1, 1)


def test_messages_that_wait_for_the_view_are_told(serve):
    def sleep(ws):
        ws.accept()
        gevent.sleep(60)

    server = serve(view(sleep))
    with server.client().open() as client:
        client.send(frame(TEXT, "123") * 5)
        wait_until(lambda: server.stats().messages_received == 5)
        stats = server.stats()
        assert (stats.receive_queue, stats.receive_queue_size) == (5, 5 * sys.getsizeof("123"))
        client.vanish()


def test_a_peer_that_does_not_read_is_told_and_counted_when_it_is_dropped(serve):
    def flood(ws):
        while True:
            ws.send(b"x" * 100_000)

    server = serve(view(flood), max_send_buffer=50_000, send_timeout=0.3)
    with server.client() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.open()
        wait_until(lambda: server.stats().send_buffer_size > 50_000)
        stats = server.stats()
        assert stats.send_buffer_size == stats.send_buffer_size_max < 200_000
        wait_until(server.is_idle)
    stats = server.stats()
    assert stats.slow_consumers_dropped == 1
    assert (stats.send_buffer_size, stats.send_buffer_size_max) == (0, 0)
    assert stats.connections_closed == {1011: 1}


def test_the_process_has_the_sum_of_its_servers_also_of_those_that_are_gone(serve):
    before = geventws.stats()
    servers = [serve(echo), serve(echo)]
    for server in servers:
        with server.client().open() as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.finish()
    wait_until(lambda: all(server.is_idle() for server in servers))

    def since():
        return geventws.stats().messages_received - before.messages_received

    assert since() == 2
    for server in servers:
        server.websockets = OpenWebSockets()
    gc.collect()
    assert since() == 2
    closed = geventws.stats().connections_closed[1000]
    assert closed - before.connections_closed.get(1000, 0) == 2


def test_statistics_become_json_when_connections_have_closed(serve):
    server = serve(echo)
    for _ in range(2):
        with server.client().open() as client:
            client.finish()
    with server.client() as client:
        client.send(request(without="Sec-WebSocket-Key"))
        assert client.read_head() == "400"
    wait_until(lambda: not server.websockets)
    stats = json.loads(json.dumps(dataclasses.asdict(server.stats())))
    assert stats["connections"] == 0
    assert stats["connections_closed"] == {"1000": 2}
    assert stats["connections_refused"] == {"400": 1}
    total = json.loads(json.dumps(dataclasses.asdict(geventws.stats())))
    assert total["connections_closed"]["1000"] >= 2


def test_a_middleware_has_statistics_of_its_own(serve):
    from gevent.pywsgi import WSGIServer

    from geventws import WebSocketMiddleware
    from tests.support.client import RawClient

    middleware = WebSocketMiddleware(echo)
    server = WSGIServer(("127.0.0.1", 0), middleware, log=None)
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)).open() as client:
            assert middleware.stats().connections == 1
            client.send(frame(CLOSE))
            assert client.read_close() == (1005, "")
    finally:
        server.stop(1)
    assert middleware.stats().connections_closed == {1005: 1}


def test_the_log_tells_connections_apart(serve, caplog):
    caplog.set_level("INFO", "geventws")
    ids = []

    def meet(ws):
        ids.append(ws.id)
        list(ws)

    server = serve(view(meet))
    for _ in range(2):
        with server.client().open() as client:
            client.send(frame(0x83))
            assert client.read_close()[0] == 1002
        wait_until(server.is_idle)
    assert [record.connection_id for record in caplog.records] == ids
    assert len(set(ids)) == 2
    assert all(len(bytes.fromhex(number)) == 8 for number in ids)
