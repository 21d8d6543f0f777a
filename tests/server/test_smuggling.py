"""After a request for a WebSocket nothing on its connection is ever parsed as HTTP."""

import contextlib
import re
from itertools import count

import pytest
from gevent import socket

from tests.support import proxies
from tests.support.client import MASK, TEXT, RawClient, close_frame, frame, request
from tests.support.servers import WAYS, arguments_of, serving
from tests.support.tools import need

#: Bytes after the request contain a request with a unique path. It must not be in the access log.
numbers = count()


class Smuggled:
    """Requests that must not be served."""

    def __init__(self) -> None:
        self.path = f"/plain?smuggled-{next(numbers)}-"
        self.request = request(self.path, [("X-Forwarded-For", "192.0.2.1")], without="Upgrade")

    def at(self, offset: int, before: bytes) -> bytes:
        """Some bytes, and the request at an offset from their beginning."""
        return before.ljust(offset, b"x") + self.request

    def is_served_by(self, process) -> bool:
        """Whether the access log has one; whatever was served before is in it by then."""
        sentinel = f"/plain?sentinel-{next(numbers)}-"
        with process.connect() as client:
            client.send(request(sentinel, without="Upgrade"))
            assert client.read_response() == ("200", b"plain")
        process.wait_for(re.escape(sentinel))
        return self.path in process.output


def converse(client, data: bytes) -> bytes:
    """Send, and return all that the server says until it closes."""
    received = client.buffer
    with contextlib.suppress(OSError):
        client.send(data)
        # Of the socket below: that of gevent's TLS would go on in clear.
        client.sock._sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        while more := client.sock.recv(65536):
            received += more
    return received


@pytest.fixture(scope="module", params=["clear", "tls"])
def transport(request, tls):
    return None if request.param == "clear" else tls


@pytest.fixture(scope="module", params=WAYS)
def process(request, transport, tmp_path_factory):
    """The tests' site, served every way in turn, in clear and in TLS."""
    way = request.param
    arguments = arguments_of(way)
    if transport is not None:
        options = transport[:2]
        if way.startswith("gunicorn") or way == "cli":
            options = ["--certfile", options[0], "--keyfile", options[1]]
        arguments += options
    with serving(arguments, tmp_path_factory.mktemp(way) / "log") as process:
        context = transport and transport[2]
        process.connect = lambda: RawClient(process.address, context)
        yield process


HEADS = {
    "key": request(without="Sec-WebSocket-Key"),
    "origin": request(headers=[("Origin", "http://evil.example")]),
    "version": request(headers=[("Sec-WebSocket-Version", "8")]),
    "chunked": request(headers=[("Transfer-Encoding", "chunked")]),
    "length": request(headers=[("Content-Length", "8192")]),
    "expect": request("/refuse", headers=[("Expect", "100-continue")]),
    "refuse": request("/refuse"),
    "refuse keep-alive": request("/refuse", [("Connection", "keep-alive, Upgrade")]),
    "pieces": request("/refuse-in-pieces"),
    "write": request("/refuse-by-write"),
    "redirect": request("/redirect"),
    "crash early": request("/crash-early"),
    "killed early": request("/be-killed-early"),
    "fails in pieces": request("/fail-in-pieces"),
    "list": request(headers=[("Upgrade", "h2c, websocket")], without="Sec-WebSocket-Key"),
}
#: Requests that HTTP does not upgrade: the application answers them.
IGNORED = {
    "method": request(method="POST", headers=[("Content-Length", "10")]),
    "head": request(method="HEAD"),
    "connection": request(headers=[("Connection", "keep-alive")]),
    "http/1.0": request(http="HTTP/1.0", headers=[("Connection", "keep-alive, Upgrade")]),
}
REFUSED = HEADS | IGNORED


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED)
def test_nothing_is_served_behind_a_refused_upgrade_wherever_it_starts(process, head):
    for offset in (0, 8192, 65536):
        smuggled = Smuggled()
        with process.connect() as client:
            received = converse(client, smuggled.at(offset, head) + smuggled.request * 50)
        assert len(re.findall(rb"HTTP/1\.1 [2-5]\d\d", received)) <= 1
        assert not smuggled.is_served_by(process)


@pytest.mark.parametrize(
    "path", ["/echo", "/leave", "/close", "/crash", "/be-killed", "/framework-crash", "/generator"]
)
def test_nothing_is_served_behind_a_websocket_wherever_it_starts(process, path):
    for offset in (0, 8192, 65536 - len(close_frame(1000)), 65536, 200_000):
        smuggled = Smuggled()
        with process.connect() as client:
            client.open(path)
            data = smuggled.at(offset, close_frame(1000))
            received = converse(client, data + smuggled.request * 50)
        assert b"HTTP/1" not in received
        assert not smuggled.is_served_by(process)


def test_nothing_is_served_that_came_with_the_handshake(process):
    for offset in (0, 8192, 200_000):
        smuggled = Smuggled()
        with process.connect() as client:
            head = request() + close_frame(1000)
            received = converse(client, smuggled.at(offset, head) + smuggled.request * 50)
        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.count(b"HTTP/1") == 1
        assert not smuggled.is_served_by(process)


def test_what_came_with_the_handshake_is_a_message_however_long(process):
    message = bytes(range(256)) * 1000
    with process.connect() as client:
        client.open(early=frame(TEXT, "first") + frame(0x82, message, b"\0\0\0\0"))
        assert client.read_frame() == (TEXT, b"first")
        assert client.read_frame() == (0x82, message)
        client.send(close_frame(1000))
        assert client.read_close() == (1000, "")


def test_nothing_is_served_that_follows_a_while_later(process):
    for path in ("/leave", "/refuse", "/crash-early"):
        smuggled = Smuggled()
        with process.connect() as client:
            client.send(request(path))
            status = client.read_head()
            if status == "101":
                client.read_frame()
                assert client.read_close() == (1000, "")
                client.send(close_frame(1000))
            received = converse(client, smuggled.request)
        assert b"HTTP/1" not in received
        assert not smuggled.is_served_by(process)


def test_a_refusal_says_that_the_connection_ends(process):
    for path in ("/refuse", "/refuse-in-pieces", "/refuse-by-write"):
        with process.connect() as client:
            client.send(request(path, [("Connection", "keep-alive, Upgrade")]))
            client.read_response()
            assert client.headers["connection"] == "close"


def test_a_body_in_chunks_is_refused_like_one_of_known_length(process):
    for headers in ([("Transfer-Encoding", "chunked")], [("Content-Length", "3")]):
        with process.connect() as client:
            client.send(request(headers=headers))
            assert client.read_response() == ("400", b"A WebSocket request has no body.\n")
    assert "AttributeError" not in process.output


def test_plain_requests_follow_each_other_on_one_connection(process):
    with process.connect() as client:
        for _ in range(3):
            client.send(request("/plain", [("Connection", "keep-alive")], without="Upgrade"))
            assert client.read_response() == ("200", b"plain")


@pytest.mark.parametrize("transport", ["tls"], indirect=True)
def test_nothing_is_served_that_is_sent_below_tls_behind_the_end_of_it(process):
    for path in ("/echo", "/leave", "/refuse", "/be-killed"):
        smuggled = Smuggled()
        with process.connect() as client:
            client.send(request(path) + close_frame(1000))
            with contextlib.suppress(OSError):
                client.sock.settimeout(10)
                while client.sock.recv(65536):
                    pass
            bare = socket.socket(fileno=client.sock.detach())
            with bare, contextlib.suppress(OSError):
                bare.settimeout(10)
                bare.sendall(smuggled.request * 20)
                received = b""
                while more := bare.recv(65536):
                    received += more
                assert b"HTTP/1" not in received
        assert not smuggled.is_served_by(process)


@pytest.mark.parametrize("way", ["gevent", "gevent_pywsgi"])
def test_a_middleware_that_loses_the_close_of_the_body_changes_nothing(tmp_path, way):
    arguments = arguments_of("gunicorn-gevent")
    arguments[arguments.index("gevent")] = way
    arguments[arguments.index("tests.support.serve:application")] = "tests.support.serve:wrapped"
    with serving(arguments, tmp_path / "log") as process:
        process.connect = process.client
        for head in REFUSED.values():
            smuggled = Smuggled()
            with process.client() as client:
                received = converse(client, smuggled.at(8192, head) + smuggled.request * 50)
            assert len(re.findall(rb"HTTP/1\.1 [2-5]\d\d", received)) <= 1
            assert not smuggled.is_served_by(process)
        with process.client().open(early=frame(TEXT, "early", MASK)) as client:
            assert client.read_frame() == (TEXT, b"early")
            client.finish()


def test_the_worker_with_gevent_websockets_name_serves_nothing_behind_it_either(tmp_path):
    arguments = arguments_of("gunicorn-worker")
    worker = "geventws.compat.workers.GeventWebSocketWorker"
    arguments[arguments.index("geventws.Worker")] = worker
    with serving(arguments, tmp_path / "log") as process:
        process.connect = process.client
        for head in (*REFUSED.values(), request() + close_frame(1000), request("/leave")):
            smuggled = Smuggled()
            with process.client() as client:
                received = converse(client, smuggled.at(8192, head) + smuggled.request * 50)
            assert received.count(b"HTTP/1.1 ") <= 1
            assert not smuggled.is_served_by(process)
        with process.client() as client:
            assert converse(client, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        process.wait_for('" 400 ')
        assert "AttributeError" not in process.output


@pytest.mark.parametrize("way", ["gevent", "gevent_pywsgi"])
def test_a_middleware_that_has_read_some_of_a_body_changes_nothing(tmp_path, way):
    arguments = arguments_of("gunicorn-gevent")
    arguments[arguments.index("gevent")] = way
    arguments[arguments.index("tests.support.serve:application")] = "tests.support.serve:tasted"
    smuggled = Smuggled()
    bodies = {
        "Transfer-Encoding": ("chunked", b"3\r\nabc\r\n0\r\n\r\n"),
        "Content-Length": ("3", b"abc"),
    }
    with serving(arguments, tmp_path / "log") as process:
        process.connect = process.client
        for name, (value, body) in bodies.items():
            for taste in ("hide", "leave"):
                head = request(headers=[(name, value), ("X-Taste", taste)])
                with process.client() as client:
                    received = converse(client, head + body + smuggled.request * 50)
                assert len(re.findall(rb"HTTP/1\.1 [2-5]\d\d", received)) <= 1
        assert not smuggled.is_served_by(process)


# ------------------------------------------------------------------ behind nginx

SITE = """
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://behind;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_request_buffering off;
    }}
    location /admin {{ deny all; }}
}}
upstream behind {{ server 127.0.0.1:{backend}; keepalive 8; }}
"""


@pytest.fixture
def behind_nginx(way_in, tmp_path):
    """The port of an nginx that sends ``Connection: upgrade`` always, and keeps its connections."""
    program = need("nginx", "apt-get install nginx")
    tmp_path.chmod(0o755)
    port = proxies.free_port()
    (tmp_path / "site.conf").write_text(SITE.format(port=port, backend=way_in.address[1]))
    (tmp_path / "nginx.conf").write_text(proxies.NGINX.format(folder=tmp_path))
    command = [program, "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    with proxies.running(command, port, tmp_path / "log"):
        yield port


def admin(number: int) -> bytes:
    headers = [("X-Forwarded-For", "192.0.2.1"), ("Content-Length", "0")]
    return request(f"/admin/delete?{number}", headers, without="Upgrade", method="POST")


def test_what_nginx_denies_is_not_reached_through_a_websocket(way_in, behind_nginx):
    way_in.connect = way_in.client
    smuggled = Smuggled()
    for path in ("/echo", "/leave", "/close"):
        for offset in (0, 8192, 65536):
            with RawClient(("127.0.0.1", behind_nginx)) as client:
                client.open(path)
                data = close_frame(1000).ljust(offset, b"x") + admin(1) * 50 + smuggled.request
                assert b"HTTP/1" not in converse(client, data)
    assert not smuggled.is_served_by(way_in)
    assert "/admin" not in way_in.output


def test_what_nginx_denies_is_not_reached_through_the_body_of_a_request(way_in, behind_nginx):
    way_in.connect = way_in.client
    smuggled = Smuggled()
    for path in ("/plain", "/upload", "/download"):
        for padding in (0, 5, 8192 - 300, 8192, 65536):
            body = b"x" * padding + admin(1) * 3 + smuggled.request
            headers = [("Content-Length", str(len(body)))]
            with RawClient(("127.0.0.1", behind_nginx)) as client:
                client.send(request(path, headers, without="Upgrade", method="POST") + body)
                status, answer = client.read_response()
                assert status == "200"
                assert path != "/upload" or answer == str(len(body)).encode()
                client.send(request("/plain", without="Upgrade"))
                assert client.read_response() == ("200", b"plain")
                client.send(admin(2))
                assert client.read_head() == "403"
    assert not smuggled.is_served_by(way_in)
    assert "/admin" not in way_in.output
