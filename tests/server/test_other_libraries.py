"""Libraries that take the socket of a request, and speak WebSocket themselves."""

import re

import gevent
import gevent.socket
import pytest
from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.client import TEXT, RawClient, close_frame, frame, request
from tests.support.servers import READY, serving

SITE = "tests.support.flask_sock_site"
GUNICORN = "-m gunicorn --graceful-timeout 5"
#: No system counts the bytes on a unix socket.
WAYS = {
    "server, handler, middleware": f"-m {SITE}",
    "cli": f"-m geventws {SITE}:app --bind unix:DIRECTORY/socket",
    "gunicorn-worker": f"{GUNICORN} -k geventws.Worker {SITE}:app -b unix:DIRECTORY/socket",
    "gunicorn-gevent": f"{GUNICORN} -k gevent {SITE}:app -b 127.0.0.1:0",
}


class Handler(WebSocketHandler):
    accept_after = 0.25


SERVERS = {
    "server": lambda listener, app: WebSocketServer(listener, app, log=None, accept_after=0.25),
    "handler": lambda listener, app: WSGIServer(listener, app, log=None, handler_class=Handler),
    "middleware": lambda listener, app: WSGIServer(
        listener, WebSocketMiddleware(app, accept_after=0.25), log=None
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_flask_sock_runs_unchanged(way, tmp_path):
    ready = "ready" if "," in way else READY
    arguments = WAYS[way].replace("DIRECTORY", str(tmp_path)).split()
    with serving(arguments, tmp_path / "log", ready=ready) as process:
        addresses = [
            path or ("127.0.0.1", int(port)) for port, path in re.findall(READY, process.output)
        ]
        for address in addresses:
            with RawClient(address).open("/close") as client:
                assert client.read_close() == (1001, "bye")
                assert client.read_to_end() == b""
        conversations = [
            gevent.spawn(converse, address, pieces) for address in addresses for pieces in (1, 2)
        ]
        gevent.joinall(conversations, raise_error=True)
        process.wait_for(f"(?s)(the echo has ended.*){{{len(conversations)}}}")
        assert "Traceback" not in process.output


def converse(address, pieces: int) -> None:
    """Send the request and the first message in one or two pieces, and speak for longer than
    accept_after."""
    with RawClient(address) as client:
        data = request() + frame(TEXT, "at once")
        client.send(data[:50] if pieces == 2 else data)
        if pieces == 2:
            gevent.sleep(0.1)
            client.send(data[50:])
        assert client.read_head() == "101"
        assert client.read_frame() == (TEXT, b"at once")
        gevent.sleep(0.75)  # two ticks of the sweeper
        client.send(frame(TEXT, "later"))
        assert client.read_frame() == (TEXT, b"later")
        gevent.sleep(0.75)
        client.send(close_frame(1000))
        assert client.read_close()[0] == 1000
        assert client.read_to_end() == b""


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("way", SERVERS)
def test_nothing_follows_what_an_application_has_sent_itself(way, family, tmp_path):
    heard, taken = [], []

    def application(environ, start_response):
        sock = environ["wsgi.input"].raw._sock.dup()  # as simple-websocket does
        taken.append(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        heard.append(sock.recv(100))
        sock.sendall(b"bye")
        return []

    listener = address = ("127.0.0.1", 0)
    if family == "unix":
        address = str(tmp_path / "socket")
        listener = gevent.socket.socket(gevent.socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
    server = SERVERS[way](listener, application)
    server.start()
    try:
        with RawClient(address if family == "unix" else server.address) as client:
            client.send(request("/"))
            assert client.read_head() == "101"
            gevent.sleep(0.75)  # longer than accept_after
            client.send(b"hello")
            assert client.read_to_end() == b"bye"
    finally:
        server.stop(1)
        taken[0].close()
    assert heard == [b"hello"]


@pytest.mark.parametrize("way", SERVERS)
def test_an_application_receives_what_came_with_the_request(way):
    taken = []

    def application(environ, start_response):
        sock = environ["wsgi.input"].raw._sock.dup()  # as simple-websocket does
        taken.append(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        while len(taken) < 4:
            taken.append(sock.recv(3))
        return []

    server = SERVERS[way](("127.0.0.1", 0), application)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.send(request("/") + b"early")
            assert client.read_head() == "101"
            client.send(b"late")
            assert client.read_to_end() == b""
    finally:
        server.stop(1)
        taken[0].close()
    assert b"".join(taken[1:]).startswith(b"early")


def test_a_close_frame_that_the_kernel_still_holds_counts_as_sent(serve, tls):
    """Over TLS, a session ticket that is not acknowledged delays it (Nagle's algorithm)."""
    certificate, key, context = tls

    def application(environ, start_response):
        sock = environ["wsgi.input"].raw._sock
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        sock.sendall(b"bye")
        return []

    server = serve(application, certfile=certificate, keyfile=key)
    with server.client(context=context) as client:
        client.send(request("/"))
        assert client.read_head() == "101"
        assert client.read_to_end() == b"bye"
