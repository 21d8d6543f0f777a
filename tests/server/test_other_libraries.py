"""Libraries that take the socket of a request, and speak WebSocket themselves."""

import gevent
import pytest

from tests.support.client import TEXT, close_frame, frame, request
from tests.support.servers import arguments_of, serving

SITE = {"cli": "tests.support.apps:site", "gunicorn-worker": "tests.support.apps:site"}


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("way", SITE)
def test_simple_websocket_keeps_its_connection_after_accept_after(way, pieces, tmp_path):
    arguments = arguments_of(way)
    arguments[arguments.index(SITE[way])] = "tests.support.simple_websocket_app:app"
    with serving(arguments, tmp_path / "log") as process, process.client() as client:
        data = request("/")
        client.send(data[:50] if pieces == 2 else data)
        if pieces == 2:
            gevent.sleep(0.1)
            client.send(data[50:])
        assert client.read_head() == "101"
        for text in ("at once", "later"):
            client.send(frame(TEXT, text))
            assert client.read_frame() == (TEXT, text.encode())
            gevent.sleep(0.75)  # longer than accept_after, and two ticks of the sweeper
        client.send(close_frame(1000))
        assert client.read_close()[0] == 1000
        process.wait_for("the view has ended")


def test_an_application_that_uses_the_socket_itself_is_left_alone(serve):
    heard = []

    def application(environ, start_response):
        sock = environ["wsgi.input"].raw._sock
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        heard.append(sock.recv(100))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with serve(application, accept_after=0.25).client() as client:
        client.send(request("/"))
        assert client.read_head() == "101"
        gevent.sleep(0.75)
        client.send(b"hello")
        client.read_to_end()
    assert heard == [b"hello"]
