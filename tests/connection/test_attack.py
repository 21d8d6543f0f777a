"""What an attack on the redesign has found."""

import gevent
import pytest

from geventws import ConnectionClosed
from tests.support.client import TEXT, frame, request
from tests.support.servers import wait_until


def test_closed_stays_false_while_the_kernel_holds_messages_of_a_peer_that_hung_up(run):
    count = 60

    def view(ws):
        ws.accept()
        got = [ws.receive()]
        wait_until(lambda: ws._hung_up)
        while not ws.closed:
            got.append(ws.receive())
        return len([message for message in got if message is not None])

    client, result = run(view)
    for _ in range(count):
        client.send(frame(TEXT, "x" * 1700, b"\0\0\0\0"))
    client.sock.shutdown(1)
    assert result.get(timeout=10) == count


def test_a_descriptor_that_was_closed_while_reading_was_paused_ends_the_connection(run):
    def view(ws):
        ws.accept()
        wait_until(lambda: ws._paused)
        ws._sock._sock.close()
        return len([message for message in ws if message]), ws.closed, ws.close_code

    client, result = run(view)
    for _ in range(64):
        client.send(frame(TEXT, "x" * 3000, b"\0\0\0\0"))
    received, closed, code = result.get(timeout=10)
    assert received >= 21
    assert (closed, code) == (True, 1006)


def test_a_client_that_left_before_the_automatic_101_is_the_one_who_closed(serve):
    seen = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        wait_until(lambda: ws.closed)
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x")
        seen.append((ws.close_code, caught.value.code, caught.value.by_peer))
        return []

    client = serve(app, accept_after=0.3).client()
    client.send(request())
    gevent.sleep(0.05)
    client.vanish()
    wait_until(lambda: seen)
    assert seen == [(1006, 1006, True)]
