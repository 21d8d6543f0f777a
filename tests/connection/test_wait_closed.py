"""``wait_closed()``: for views that wait for something else than messages."""

import socket
from decimal import Decimal

import gevent
import pytest
from gevent.event import AsyncResult

from geventws import connect
from geventws.connection import connection
from geventws.testing import connect as connect_in_test
from tests.support.apps import echo
from tests.support.client import TEXT, close_frame, frame, request
from tests.support.servers import SECONDS

END_OF_PEER = {
    "closes": lambda client: client.send(close_frame(1001)),
    "ends TCP": lambda client: client.sock.shutdown(socket.SHUT_WR),
    "resets TCP": lambda client: client.vanish(),
}


@pytest.mark.parametrize("end", list(END_OF_PEER))
def test_it_returns_when_the_peer_ends_the_connection(run, end):
    def view(ws):
        ws.accept()
        waiting = [gevent.spawn(ws.wait_closed) for _ in range(2)]
        return ws.wait_closed(SECONDS), [it.get(timeout=SECONDS) for it in waiting], ws.closed

    client, result = run(view)
    END_OF_PEER[end](client)
    assert result.get(timeout=SECONDS) == (True, [True, True], True)


def test_it_returns_when_another_greenlet_closes(run):
    def view(ws):
        ws.accept()
        gevent.spawn(ws.close, 4000)
        return ws.wait_closed(), ws.wait_closed(), ws.close_code

    client, result = run(view)
    client.send(close_frame(4000))
    assert result.get(timeout=SECONDS) == (True, True, 4000)


def test_it_has_a_timeout_and_leaves_messages_for_receive(run):
    def view(ws):
        ws.accept()
        return ws.wait_closed(Decimal("0.01")), ws.receive(), ws.wait_closed(0)

    client, result = run(view)
    client.send(frame(TEXT, "still here"))
    assert result.get(timeout=SECONDS) == (False, "still here", False)


def test_it_does_not_accept_and_returns_when_the_view_refuses(serve):
    result = AsyncResult()

    def app(environ, start_response):
        gevent.spawn(environ["wsgi.websocket"].wait_closed).link(result)
        gevent.sleep(0)
        start_response("403 Forbidden", [])
        return []

    with serve(app).client() as client:
        client.send(request("/"))
        assert client.read_head() == "403"
    assert result.get(timeout=SECONDS) is True


def test_a_hang_up_is_noticed_although_messages_fill_the_queue(run, monkeypatch):
    monkeypatch.setattr(connection, "_HANGUP_INTERVAL", 0.01)

    def view(ws):
        ws.accept()
        is_over = ws.wait_closed(SECONDS)
        ws.close()
        return is_over

    client, result = run(view, max_queued_messages=2)
    client.send(b"".join(frame(TEXT, str(number)) for number in range(100)))
    client.sock.close()
    assert result.get(timeout=SECONDS) is True


def test_clients_have_it_too(serve):
    with connect(f"ws://127.0.0.1:{serve(echo).server_port}/") as ws:
        assert not ws.wait_closed(0)
        gevent.spawn(ws.close)
        assert ws.wait_closed()
    with connect_in_test(echo, timeout=0.01) as ws:
        assert not ws.wait_closed()


def test_another_thread_is_refused(run):
    def view(ws):
        ws.accept()
        with pytest.raises(RuntimeError, match="thread"):
            gevent.get_hub().threadpool.apply(ws.wait_closed)
        return True

    _, result = run(view)
    assert result.get(timeout=SECONDS)
