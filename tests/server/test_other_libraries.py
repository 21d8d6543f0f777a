"""Libraries that take the socket of a request, and speak WebSocket themselves."""

import re

import gevent
import pytest
from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.client import TEXT, RawClient, close_frame, frame, request
from tests.support.servers import READY, serving

SITE = "tests.support.flask_sock_site"
GUNICORN = "-m gunicorn -b 127.0.0.1:0 --graceful-timeout 5"
WAYS = {
    "server, handler, middleware": f"-m {SITE}",
    "cli": f"-m geventws {SITE}:app --bind 127.0.0.1:0",
    "gunicorn-worker": f"{GUNICORN} -k geventws.Worker {SITE}:app",
    "gunicorn-gevent": f"{GUNICORN} -k gevent {SITE}:app",
}
SERVERS = {
    "server": lambda app: WebSocketServer(("127.0.0.1", 0), app, log=None, accept_after=0.25),
    "handler": lambda app: WSGIServer(
        ("127.0.0.1", 0), app, log=None, handler_class=WebSocketHandler
    ),
    "middleware": lambda app: WSGIServer(("127.0.0.1", 0), WebSocketMiddleware(app), log=None),
}


@pytest.mark.parametrize("way", WAYS)
def test_flask_sock_runs_unchanged(way, tmp_path):
    ready = "ready" if "," in way else READY
    with serving(WAYS[way].split(), tmp_path / "log", ready=ready) as process:
        ports = [int(port) for port, _ in re.findall(READY, process.output)]
        for port in ports:
            with RawClient(("127.0.0.1", port)).open("/close") as client:
                assert client.read_close() == (1001, "bye")
                client.send(close_frame(1001))
                assert client.read_to_end() == b""
        conversations = [
            gevent.spawn(converse, port, pieces) for port in ports for pieces in (1, 2)
        ]
        gevent.joinall(conversations, raise_error=True)
        process.wait_for(f"(?s)(the echo has ended.*){{{len(conversations)}}}")
        assert "Traceback" not in process.output


def converse(port: int, pieces: int) -> None:
    """Send the request in one or two pieces, and speak for longer than accept_after."""
    with RawClient(("127.0.0.1", port)) as client:
        data = request()
        client.send(data[:50] if pieces == 2 else data)
        if pieces == 2:
            gevent.sleep(0.1)
            client.send(data[50:])
        assert client.read_head() == "101"
        for text in ("at once", "later"):
            client.send(frame(TEXT, text))
            assert client.read_frame() == (TEXT, text.encode())
            gevent.sleep(0.75)  # two ticks of the sweeper
        client.send(close_frame(1000))
        assert client.read_close()[0] == 1000
        assert client.read_to_end() == b""


@pytest.mark.parametrize("way", SERVERS)
def test_nothing_follows_what_an_application_has_sent_itself(way):
    heard = []

    def application(environ, start_response):
        sock = environ["wsgi.input"].raw._sock
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        heard.append(sock.recv(100))
        sock.sendall(b"bye")
        return []

    server = SERVERS[way](application)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.send(request("/"))
            assert client.read_head() == "101"
            if way == "server":
                gevent.sleep(0.75)  # longer than accept_after
            client.send(b"hello")
            assert client.read_to_end() == b"bye"
    finally:
        server.stop(1)
    assert heard == [b"hello"]
