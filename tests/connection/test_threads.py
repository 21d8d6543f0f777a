"""A WebSocket in the hands of other threads of the operating system."""

import gevent
import pytest
from gevent.monkey import get_original

from geventws import ConnectionClosed
from tests.support.client import BINARY, CLOSE, PING, TEXT, close_frame, frame
from tests.support.servers import SECONDS

start_thread = get_original("_thread", "start_new_thread")


def in_threadpool(function, *arguments):
    """Call it in another thread, and wait for it as gevent users do."""
    return gevent.get_hub().threadpool.apply(function, arguments)


def test_another_thread_may_send(run):
    client, result = run(lambda ws: [in_threadpool(ws.send, "text"), in_threadpool(ws.send, b"b")])
    assert client.read_frame() == (TEXT, b"text")
    assert client.read_frame() == (BINARY, b"b")
    assert client.read_close() == (1000, "")
    client.send(close_frame(1000))
    assert result.get(timeout=SECONDS) == [None, None]


def test_a_bare_thread_may_send_while_the_view_receives(run):
    def view(ws):
        for message in ws:
            start_thread(ws.send, (message * 2,))

    client, _ = run(view)
    for i in range(50):
        client.send(frame(TEXT, str(i)))
        assert client.read_frame() == (TEXT, str(i).encode() * 2)
    client.finish()


def test_many_threads_tear_no_message_and_keep_their_order(run):
    def view(ws):
        def sender(letter):
            for i in range(100):
                ws.send(f"{letter}{i:03}" * (1 + i * 7))

        pool = gevent.get_hub().threadpool
        gevent.joinall([pool.spawn(sender, letter) for letter in "abcdefgh"], raise_error=True)

    client, result = run(view, max_send_buffer=4096)
    seen = dict.fromkeys("abcdefgh", 0)
    for _ in range(800):
        first, payload = client.read_frame()
        letter, i = payload[:1].decode(), seen[payload[:1].decode()]
        assert (first, payload.decode()) == (TEXT, f"{letter}{i:03}" * (1 + i * 7))
        seen[letter] += 1
    client.finish()
    result.get(timeout=SECONDS)


def test_the_first_send_may_come_from_another_thread(run):
    client, _ = run(lambda ws: in_threadpool(ws.send, "first"))
    assert client.read_frame() == (TEXT, b"first")


def test_another_thread_may_ping_and_close(run):
    def view(ws):
        in_threadpool(ws.ping, "tag")
        in_threadpool(ws.close, 4000, "by a thread")
        return ws.close_code, ws.receive()

    client, result = run(view)
    assert client.read_frame() == (PING, b"tag")
    assert client.read_frame() == (CLOSE, b"\x0f\xa0by a thread")
    client.send(close_frame(4000))
    assert result.get(timeout=SECONDS) == (4000, None)


def test_what_fails_raises_in_the_thread_that_called(run):
    def view(ws):
        with pytest.raises(TypeError, match="bytes-like"):
            in_threadpool(ws.send, 5)
        with pytest.raises(ValueError, match="cannot carry"):
            in_threadpool(ws.close, 1005)
        ws.close()
        with pytest.raises(ConnectionClosed):
            in_threadpool(ws.send, "too late")
        return True

    client, result = run(view)
    assert client.read_close() == (1000, "")
    client.send(close_frame(1000))
    assert result.get(timeout=SECONDS)


def test_a_thread_waits_while_the_peer_does_not_read(run):
    sent = []

    def view(ws):
        def sender():
            for i in range(200):
                ws.send(bytes(100_000))
                sent.append(i)

        in_threadpool(sender)
        return len(sent)

    client, result = run(view, max_send_buffer=65536)
    stuck = -1
    while len(sent) != stuck or not sent:
        stuck = len(sent)
        gevent.sleep(0.1)
    assert stuck < 200
    for _ in range(200):
        assert client.read_frame() == (BINARY, bytes(100_000))
    assert result.get(timeout=SECONDS) == 200


def test_to_receive_in_another_thread_is_an_error_that_says_how(run):
    def view(ws):
        ws.accept()
        with pytest.raises(RuntimeError, match="only in the thread of the view"):
            in_threadpool(ws.receive)
        ws.send("unharmed")
        return ws.receive()

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"unharmed")
    client.send(frame(TEXT, "here"))
    assert result.get(timeout=SECONDS) == "here"


def test_a_thread_gives_up_when_the_hub_does_not_run(run, monkeypatch):
    monkeypatch.setattr("geventws.connection.threads.PATIENCE", 0.05)
    outcome = []
    lock = get_original("_thread", "allocate_lock")()

    def sender(ws):
        try:
            ws.send("never")
        except TimeoutError as problem:
            outcome.append(str(problem))
        lock.release()

    def view(ws):
        ws.accept()
        lock.acquire()
        start_thread(sender, (ws,))
        lock.acquire()  # blocks the hub until the thread has given up
        ws.send("after")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b"after")
    assert outcome == ["the thread of this WebSocket has not let its hub run for 0.05 seconds"]
    assert client.read_close() == (1000, "")
