"""``geventws.connect``: against our own server, against other people's, and against liars."""

import asyncio
import base64
import contextlib
import resource
import socket as plain_socket
import ssl
import subprocess
import threading
import time

import aiohttp.web
import gevent
import psutil
import pytest
import websockets.asyncio.server
from gevent import socket
from gevent.event import AsyncResult
from gevent.pool import Pool
from gevent.server import StreamServer

from geventws import (
    ClientWebSocket,
    ConnectionClosed,
    Deflate,
    HandshakeError,
    WebSocketServer,
    connect,
)
from geventws.protocol.server_handshake import accept_key
from tests.support.apps import echo, site
from tests.support.client import CLOSE, PING, TEXT, frame
from tests.support.npm import NODE
from tests.support.servers import serving
from tests.support.tools import need

SECONDS = 10  # nothing here takes so long
MEBIBYTE = 1 << 20
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def at(server, path="/echo", scheme="ws", host="127.0.0.1"):
    return f"{scheme}://{host}:{server.server_port}{path}"


def view(function):
    def app(environ, start_response):
        function(environ["wsgi.websocket"])
        return []

    return app


@pytest.fixture
def lie():
    """``lie(function)``: a server whose ``function(sock, request)`` answers; gives its URL."""
    servers = []

    def handle(function, sock):
        sock.settimeout(SECONDS)
        head = b""
        while b"\r\n\r\n" not in head and (more := sock.recv(65536)):
            head += more
        function(sock, head)

    def start(function):
        server = StreamServer(("127.0.0.1", 0), lambda sock, address: handle(function, sock))
        servers.append(server)
        server.start()
        return f"ws://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.stop(1)


def accepting(head: bytes, *lines: str) -> bytes:
    """The right answer to a request, with more headers."""
    [key] = [
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    ]
    answer = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key.decode())}",
        *lines,
        "",
        "",
    ]
    return "\r\n".join(answer).encode()


# ------------------------------------------------------------------ conversation


def test_messages_go_both_ways(serve):
    server = serve(echo, max_message_size=16 * MEBIBYTE)
    with connect(at(server), max_message_size=16 * MEBIBYTE) as ws:
        for message in ("grüß dich", b"\0\xff", "", b"", "x" * 200, bytes(16 * MEBIBYTE)):
            ws.send(message)
            assert ws.receive() == message
    assert (ws.closed, ws.close_code) == (True, 1000)


def test_a_hundred_messages_sent_at_once_come_back_in_order(serve):
    with connect(at(serve(echo))) as ws:
        for i in range(100):
            ws.send(str(i))
        assert [ws.receive() for _ in range(100)] == [str(i) for i in range(100)]


def test_the_client_closes_with_its_code_and_reason(serve):
    seen = AsyncResult()

    @view
    def app(ws):
        list(ws)
        seen.set((ws.close_code, ws.close_reason))

    with connect(at(serve(app))) as ws:
        ws.close(4000, "enough")
        assert (ws.close_code, ws.close_reason) == (4000, "enough")
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed):
            ws.send("too late")
    assert seen.get(timeout=SECONDS) == (4000, "enough")


def test_the_server_closes_with_its_code_and_reason(serve):
    with connect(at(serve(site), "/close")) as ws:
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (4001, "not you")
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive()
        assert caught.value.by_peer


def test_a_server_that_vanishes_is_noticed(lie):
    def answer(sock, head):
        sock.sendall(accepting(head))

    with connect(lie(answer)) as ws:
        assert ws.receive() is None
        assert ws.close_code == 1006


def test_receive_has_a_timeout(serve):
    with connect(at(serve(echo))) as ws:
        with pytest.raises(TimeoutError):
            ws.receive(timeout=0.01)
        ws.send("still there")
        assert ws.receive() == "still there"


def test_ping_and_latency(serve):
    with connect(at(serve(echo))) as ws:
        assert ws.latency is None
        ws.ping(b"are you there?")
        ws.send("x")
        assert ws.receive() == "x"
        assert ws.latency > 0


def test_a_silent_server_is_pinged_and_dropped(lie):
    pinged = AsyncResult()

    def answer(sock, head):
        sock.sendall(accepting(head))
        pinged.set(sock.recv(1))
        while sock.recv(65536):
            pass

    with connect(lie(answer), ping_interval=0.25, ping_timeout=0.25) as ws:
        assert ws.receive() is None
        assert ws.close_code == 1011
    assert pinged.get(timeout=SECONDS) == bytes((PING,))


def test_frames_are_masked_with_fresh_masks_and_a_masked_frame_of_the_server_ends_it(lie):
    received = AsyncResult()

    def answer(sock, head):
        sock.sendall(accepting(head))
        data = b""
        while len(data) < 16:
            data += sock.recv(65536)
        sock.sendall(frame(TEXT, "masked"))
        while len(data) < 18:
            data += sock.recv(65536)
        received.set(data)

    with connect(lie(answer)) as ws:
        ws.send("hi")
        ws.send("hi")
        assert ws.receive() is None
        assert ws.close_code == 1002
    data = received.get(timeout=SECONDS)
    first, second = data[:8], data[8:16]
    assert first[:2] == second[:2] == bytes((TEXT, 0x82))
    assert first[2:6] != second[2:6]
    assert bytes(a ^ b for a, b in zip(first[2:4], first[6:], strict=True)) == b"hi"
    assert data[16] == CLOSE


def test_what_comes_in_the_segment_of_the_101_is_received(lie):
    def answer(sock, head):
        early = frame(TEXT, "first", None) + frame(PING, "p", None) + frame(TEXT, "second", None)
        sock.sendall(accepting(head) + early)
        sock.recv(65536)

    with connect(lie(answer), close_timeout=0.1) as ws:
        assert ws.receive() == "first"
        assert ws.receive() == "second"


def test_interim_responses_are_passed_over(lie):
    def answer(sock, head):
        sock.sendall(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            + accepting(head)
            + frame(TEXT, "hello", None)
        )

    with connect(lie(answer)) as ws:
        assert ws.receive() == "hello"


def test_a_message_over_the_limit_closes_with_1009(serve):
    with connect(at(serve(echo)), max_message_size=5) as ws:
        ws.send("123456")
        assert ws.receive() is None
        assert ws.close_code == 1009


def test_a_view_may_be_a_client_itself(serve):
    upstream = serve(echo)

    @view
    def proxy(ws):
        with connect(at(upstream)) as other:
            for message in ws:
                other.send(message)
                ws.send(other.receive())

    with connect(at(serve(proxy))) as ws:
        ws.send("through both")
        assert ws.receive() == "through both"


# ----------------------------------------------------------------------- request


@pytest.fixture
def environ_of(serve):
    """``environ_of(url, **options)``: what the server sees of a request."""
    environs = []

    def app(environ, start_response):
        environs.append(dict(environ))
        return []

    server = serve(app, allowed_origins="*")

    def ask(path="/", **options):
        with connect(at(server, path), **options) as ws:
            list(ws)
        return environs.pop()

    return ask


def test_the_request_has_what_was_asked_for(environ_of):
    environ = environ_of(
        "/räume/1?q=ä&x=a%20b",
        headers={"X-Token": "secret", "Cookie": "a=1"},
        origin="https://page.example",
        subprotocols=["a", "b"],
    )
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/räume/1"
    assert environ["QUERY_STRING"] == "q=%C3%A4&x=a%20b"
    assert environ["HTTP_X_TOKEN"] == "secret"
    assert environ["HTTP_COOKIE"] == "a=1"
    assert environ["HTTP_ORIGIN"] == "https://page.example"
    assert environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] == "a, b"
    assert environ["HTTP_USER_AGENT"] == "geventws"


def test_a_user_in_the_url_and_headers_in_pairs(serve):
    environs = []

    def app(environ, start_response):
        environs.append(
            environ["HTTP_AUTHORIZATION"],
        )
        return []

    server = serve(app)
    with connect(at(server, "/", host="ada:s%3Acret@127.0.0.1"), headers=[("A", "1")]) as ws:
        list(ws)
    assert base64.b64decode(environs[0].removeprefix("Basic ")) == b"ada:s:cret"


def test_ipv6(serve):
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        sock.listen()
        server = StreamServer(sock, serve(echo).handle)
        server.start()
        try:
            with connect(f"ws://[::1]:{sock.getsockname()[1]}/echo") as ws:
                ws.send("x")
                assert ws.receive() == "x"
        finally:
            server.stop(1)


def link_local():
    """A link-local address of this machine, with its zone; skips the test without one."""
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family == socket.AF_INET6 and each.address.startswith("fe80:"):
                return each.address.partition("%")[0], name
    pytest.skip("there is no link-local IPv6 address here")


def test_an_address_with_a_zone_is_dialled_with_it_and_sent_without(serve):
    address, zone = link_local()
    seen = AsyncResult()

    def app(environ, start_response):
        seen.set(environ["HTTP_HOST"])
        return echo(environ, start_response)

    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(socket.getaddrinfo(f"{address}%{zone}", 0, 0, socket.SOCK_STREAM)[0][4])
        sock.listen()
        server = StreamServer(sock, serve(app).handle)
        server.start()
        try:
            port = sock.getsockname()[1]
            with connect(f"ws://[{address}%25{zone}]:{port}/echo") as ws:
                ws.send("x")
                assert ws.receive() == "x"
        finally:
            server.stop(1)
    assert seen.get(timeout=SECONDS) == f"[{address}]:{port}"


def test_a_host_among_the_headers_is_the_only_one_that_is_sent(lie):
    heads = AsyncResult()

    def answer(sock, head):
        heads.set(head)
        sock.sendall(accepting(head))

    connect(lie(answer), headers={"Host": "virtual.example"}, close_timeout=0.1).close()
    lines = heads.get(timeout=SECONDS).lower().split(b"\r\n")
    assert [line for line in lines if line.startswith(b"host:")] == [b"host: virtual.example"]


def test_a_token_in_the_url_is_sent_as_a_user_without_a_password(serve):
    seen = AsyncResult()

    def app(environ, start_response):
        seen.set(environ["HTTP_AUTHORIZATION"])
        return []

    list(connect(at(serve(app), "/", host="t%C3%B6ken@127.0.0.1")))
    credentials = seen.get(timeout=SECONDS).removeprefix("Basic ")
    assert base64.b64decode(credentials).decode() == "t\u00f6ken:"


@pytest.mark.parametrize(
    ("cookies", "sent"),
    [
        ({"session": "a.b-c_d=="}, "session=a.b-c_d=="),
        ({"a": "1", "b": ""}, "a=1; b="),
        ({"name": '"Ada\\054 Lovelace"'}, 'name="Ada\\054 Lovelace"'),
        ({"name": "Ada, Lovelace"}, "name=Ada, Lovelace"),
        ({}, None),
        (None, None),
    ],
)
def test_cookies_are_sent_unchanged(cookies, sent, environ_of):
    assert environ_of(cookies=cookies).get("HTTP_COOKIE") == sent


def test_what_is_known_of_the_connection(serve):
    with connect(at(serve(site), "/accept?x"), subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.requested_subprotocols == ["chat.v1", "chat.v2"]
        assert ("Set-Cookie", "seen=1") in ws.response_headers
        assert ws.path == "/accept"
        assert ws.version == "13"
        assert ws.remote_address[0] == "127.0.0.1"
        assert repr(ws) == "<ClientWebSocket /accept open>"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "neither with ws:// nor with wss://"),
        ("ws:///path", "no host"),
        ("ws://example.com/#top", "fragment"),
        ("example.com", "neither"),
        ("ws://example.com:99999/", "Port out of range"),
    ],
)
def test_a_url_that_is_none_is_refused(url, why):
    with pytest.raises(ValueError, match=why):
        connect(url)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"headers": {"Upgrade": "h2c"}}, ValueError, "belongs to the handshake$"),
        ({"headers": {"Origin": "https://a.example"}}, ValueError, "use the argument origin"),
        ({"headers": {"X": "a\r\nInjected: 1"}}, ValueError, "cannot be a header"),
        ({"origin": "a\r\nInjected: 1"}, ValueError, "cannot be a header"),
        ({"subprotocols": ["a b"]}, ValueError, "cannot be the name of a subprotocol"),
        ({"subprotocols": ["a", "a"]}, ValueError, "distinct"),
        ({"allowed_origins": "*"}, TypeError, "option of servers"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
        ({"ssl_context": object()}, TypeError, "must be an ssl.SSLContext"),
        ({"server_hostname": b"a"}, TypeError, "server_hostname must be a str"),
        ({"server_hostname": "a b"}, ValueError, "cannot be the name of a host"),
        ({"proxy": "ftp://127.0.0.1:1080"}, ValueError, "is not the URL of a proxy"),
        ({"proxy": "socks5://a:b@"}, ValueError, "is not the URL of a proxy"),
        ({"unix_socket": 5}, TypeError, "PathLike"),
        ({"unix_socket": "/a", "proxy": "http://a"}, ValueError, "unix_socket and proxy cannot"),
        ({"max_redirects": -1}, ValueError, "must not be negative"),
        ({"max_redirects": "1"}, TypeError, "must be an integer"),
        ({"max_redirects": True}, TypeError, "must be an integer"),
        ({"cookies": "a=1"}, TypeError, "must be a mapping"),
        ({"cookies": {"a": 1}}, TypeError, "is not of two str"),
        ({"cookies": {b"a": "1"}}, TypeError, "is not of two str"),
        ({"cookies": {"a": "1; b=2"}}, ValueError, "cannot be sent"),
        ({"cookies": {"a": "1\r\nB: 2"}}, ValueError, "cannot be sent"),
        ({"cookies": {"a": "grüß"}}, ValueError, "cannot be sent"),
        ({"cookies": {"a": " 1"}}, ValueError, "cannot be sent"),
        ({"cookies": {"a b": "1"}}, ValueError, "cannot be sent"),
        ({"cookies": {"": "1"}}, ValueError, "cannot be sent"),
        ({"cookies": {"a": "1"}, "headers": {"cookie": "b=2"}}, ValueError, "cannot be combined"),
    ],
)
def test_a_wrong_argument_is_refused_and_leaves_nothing_open(serve, options, error, why):
    server = serve(echo)
    before = psutil.Process().num_fds()
    with pytest.raises(error, match=why):
        connect(at(server), **options)
    assert wait_for(lambda: psutil.Process().num_fds() == before)


def wait_for(condition) -> bool:
    """Let others run until something is true that has no event."""
    with gevent.Timeout(SECONDS, False):
        while not condition():
            gevent.sleep(0.005)
    return condition()


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", "401 Unauthorized", b"Who are you?\n"),
        ("/refuse-in-pieces", "404 Not Found", b"Nothing here\n"),
        ("/redirect", "302 Found", b""),
        ("/plain", "200 OK", b"plain"),
    ],
)
def test_a_refusal_has_its_status_its_headers_and_its_body(serve, path, status, body):
    with pytest.raises(HandshakeError) as caught:
        connect(at(serve(site), path))
    assert (caught.value.status, caught.value.body) == (status, body)
    headers = dict(caught.value.headers)
    assert headers.get("WWW-Authenticate") == ("Basic" if path == "/refuse" else None)
    assert headers.get("Location") == ("/elsewhere" if path == "/redirect" else None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed the connection without a response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.1 4403 Forbidden\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.1 000 Nothing\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.\xb9 403 Forbidden\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "lacks Upgrade: websocket"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", "lacks Connection: Upgrade"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "Sec-WebSocket-Accept",
        ),
        (b"HTTP/1.1 200 O\nK\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.1 101 X\r\nno colon\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: \x1echunked\r\n\r\n", "malformed header"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "a head of more than"),
    ],
)
def test_an_answer_that_is_none_fails(lie, answer, why):
    with pytest.raises(HandshakeError, match=why):
        connect(lie(lambda sock, head: sock.sendall(answer)))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Sec-WebSocket-Extensions: x-unheard-of", "extension that was not offered"),
        ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7", "from 8 to 15"),
        ("Sec-WebSocket-Extensions: ;", "not an extension"),
        ("Sec-WebSocket-Protocol: chat", "subprotocol that was not offered"),
    ],
)
def test_an_answer_with_what_was_not_offered_fails(lie, line, why):
    with pytest.raises(HandshakeError, match=why):
        connect(lie(lambda sock, head: sock.sendall(accepting(head, line))))


def test_an_extension_that_was_not_offered_fails(lie):
    line = "Sec-WebSocket-Extensions: permessage-deflate"
    with pytest.raises(HandshakeError, match="extension that was not offered"):
        connect(lie(lambda sock, head: sock.sendall(accepting(head, line))), compression=False)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Content-Length: 5\r\n\r\nhello and more", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense", b"hello"),
        (b"\r\nhello", b"hello"),
        (b"Content-Length: 99\r\n\r\nhello", b"hello"),
        (CHUNKED + b"5\r\nhel", b"hel"),
        (CHUNKED + b"5\r\nhello\r\n" + b"9" * 100_000, b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n" + b"Trailer: x\r\n" * 100_000, b"hello"),
        (CHUNKED + b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n", b""),
        (CHUNKED + b"f" * 1000 + b"\r\nhello", b"hello"),
        (CHUNKED, b""),
        (b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nhello", b"hello"),
        (b"Content-Length: " + b"9" * 10_000 + b"\r\n\r\nhello", b"hello"),
        (b"Content-Length: -1\r\n\r\nhello", b"hello"),
        (b"Content-Length: \xb2\r\n\r\nhello", b"hello"),
        (b"\r\n" + b"x" * (2 * MEBIBYTE), b"x" * MEBIBYTE),
    ],
)
def test_the_body_of_a_refusal_is_read_as_far_as_it_comes(lie, answer, body):
    url = lie(lambda sock, head: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" + answer))
    with pytest.raises(HandshakeError) as caught:
        connect(url)
    # What has come with the head may be more than is waited for.
    assert caught.value.body[:MEBIBYTE] == body
    assert len(caught.value.body) < 1.1 * MEBIBYTE


@pytest.mark.parametrize("size", [b"-1", b"0x10", b"1_0", b"+5", b"", b" ", b"-" + b"f" * 9999])
def test_the_size_of_a_chunk_that_is_none_costs_a_mebibyte_at_most(lie, size):
    answer = b"HTTP/1.1 400 Bad Request\r\n" + CHUNKED + size + b"\r\n" + b"x" * (4 * MEBIBYTE)

    def refuse(sock, head):
        with contextlib.suppress(OSError):
            sock.sendall(answer)

    with pytest.raises(HandshakeError, match="400 Bad Request") as caught:
        connect(lie(refuse))
    assert len(caught.value.body) < 1.1 * MEBIBYTE


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("rest", [b"Content-Length: 5\r\n\r\n", CHUNKED + b"5\r\nhello\r\n"])
def test_an_answer_without_a_body_is_not_waited_for(lie, status, rest):
    def refuse(sock, head):
        sock.sendall(b"HTTP/1.1 " + status + b"\r\n" + rest)
        sock.recv(1)  # until the client leaves

    with pytest.raises(HandshakeError, match=status.decode()) as caught:
        connect(lie(refuse), open_timeout=SECONDS)
    assert caught.value.body == b""


def test_the_body_of_a_refusal_is_waited_for_no_longer_than_for_the_opening(lie):
    def refuse(sock, head):
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\nno entry")
        sock.recv(1)

    with pytest.raises(HandshakeError, match="403 Forbidden") as caught:
        connect(lie(refuse), open_timeout=0.2)
    assert caught.value.body == b"no entry"


@contextlib.contextmanager
def others_run():
    """See that no other greenlet waits for more than a quarter of a second of computing.

    The clock is that of the thread: what other processes do costs this one no time.
    """
    gaps = [0.0]

    def tick():
        last = time.thread_time()
        while True:
            gevent.sleep(0.001)
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    ticking = gevent.spawn(tick)
    gevent.sleep(0)
    try:
        yield
    finally:
        gevent.sleep(0)
        ticking.kill()
    assert max(gaps) < 0.25


def test_a_refusal_in_chunks_of_one_byte_keeps_nobody_waiting(lie):
    answer = b"HTTP/1.1 400 Bad Request\r\n" + CHUNKED + b"1\r\nx\r\n" * 200_000

    def refuse(sock, head):
        with contextlib.suppress(OSError):
            sock.sendall(answer)

    url = lie(refuse)
    with others_run(), pytest.raises(HandshakeError) as caught:
        connect(url, open_timeout=5 * SECONDS)
    assert MEBIBYTE // 6 - 1000 < len(caught.value.body) < MEBIBYTE // 5
    assert set(caught.value.body) == {ord("x")}


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    ],
)
def test_interim_responses_without_end_are_no_answer(lie, interim):
    def answer(sock, head):
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(interim * 1000)

    url = lie(answer)
    with others_run(), pytest.raises(HandshakeError, match="a head of more than 65536 bytes"):
        connect(url)


def test_the_head_of_an_answer_may_come_byte_by_byte(lie):
    def answer(sock, head):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        response = b"HTTP/1.1 103 X\r\n\r\n" + accepting(head, "X-Long: " + "x" * 5000)
        for byte in response + frame(TEXT, "hello", None):
            sock.sendall(bytes((byte,)))

    with connect(lie(answer), open_timeout=SECONDS) as ws:
        assert ws.receive() == "hello"


def test_a_server_that_does_not_answer_is_left_in_time(lie):
    gone = AsyncResult()
    url = lie(lambda sock, head: gone.set(sock.recv(1)))
    with pytest.raises(TimeoutError, match=r"not open after 0\.1 seconds"):
        connect(url, open_timeout=0.1)
    assert gone.get(timeout=SECONDS) == b""


def test_a_server_that_is_not_there_is_an_oserror():
    with plain_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            connect(f"ws://127.0.0.1:{sock.getsockname()[1]}/")


# ------------------------------------------------------------------------ closing


def test_no_descriptor_is_left_after_either_side_closes(serve):
    process = psutil.Process()
    server = serve(site)
    with connect(at(server)) as ws:
        ws.send("warm up")
    assert wait_for(lambda: not server.websockets)
    before = process.num_fds()
    for _ in range(10):
        assert list(connect(at(server, "/leave"))) == ["hello and goodbye"]
        connect(at(server)).close(1001)
        with connect(at(server, "/crash")) as ws:
            assert list(iter(ws.receive, None)) == ["about to fail"]
            assert ws.close_code == 1011
        with pytest.raises(HandshakeError):
            connect(at(server, "/refuse"))
    assert wait_for(lambda: process.num_fds() == before)


def test_a_server_that_never_closes_tcp_is_left_after_a_while(lie):
    gone = AsyncResult()

    def answer(sock, head):
        sock.sendall(accepting(head) + b"\x88\x02\x03\xe8")
        while sock.recv(65536):
            pass
        gone.set(True)

    # It is looked after as often as it would be pinged.
    ws = connect(lie(answer), ping_interval=0.25, close_timeout=0.25)
    assert ws.receive() is None
    assert gone.get(timeout=SECONDS)
    assert ws.close_code == 1000


def test_a_close_that_is_not_answered_ends_in_time(lie):
    def answer(sock, head):
        sock.sendall(accepting(head))
        while sock.recv(65536):
            pass

    with gevent.Timeout(SECONDS):
        connect(lie(answer), close_timeout=0.1).close()


# ---------------------------------------------------------------------------- TLS


def test_tls(serve, tls):
    certificate, key, context = tls
    server = serve(echo, certfile=certificate, keyfile=key)
    with connect(at(server, scheme="wss", host="localhost"), ssl_context=context) as ws:
        for message in ("grüß dich", bytes(MEBIBYTE)):
            ws.send(message)
            assert ws.receive() == message
    assert ws.close_code == 1000


def test_a_certificate_that_nobody_vouches_for_is_refused(serve, tls):
    certificate, key, _ = tls
    server = serve(echo, certfile=certificate, keyfile=key)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(at(server, scheme="wss", host="localhost"))


def test_a_certificate_for_another_host_is_refused(serve, tls):
    certificate, key, context = tls
    server = WebSocketServer(
        ("127.0.0.2", 0), echo, certfile=certificate, keyfile=key, log=None, error_log=None
    )
    server.start()
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            connect(at(server, scheme="wss", host="127.0.0.2"), ssl_context=context)
    finally:
        server.stop(1)


# ------------------------------------------------------------------------ proxies


@pytest.fixture
def proxy(monkeypatch):
    """An HTTP proxy: its URL, and what it was asked for."""
    for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    asked = []

    def pipe(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def handle(sock, address):
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        lines = head.decode().split("\r\n")
        asked.append(lines)
        if "Proxy-Authorization: Basic YWRhOnNlY3JldA==" not in lines:
            sock.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nWho?"
            )
            return
        host, _, port = lines[0].split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = gevent.spawn(pipe, there, sock)
            pipe(sock, there)
            back.join()

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    yield f"http://ada:secret@127.0.0.1:{server.server_port}", asked
    server.stop(1)


def test_through_a_proxy(serve, tls, proxy):
    url, asked = proxy
    certificate, key, context = tls
    server = serve(echo, certfile=certificate, keyfile=key)
    with connect(at(server, scheme="wss", host="localhost"), ssl_context=context, proxy=url) as ws:
        ws.send("through the tunnel")
        assert ws.receive() == "through the tunnel"
    assert asked[0][0] == f"CONNECT localhost:{server.server_port} HTTP/1.1"


def test_the_environment_says_which_proxy(serve, proxy, monkeypatch):
    url, asked = proxy
    server = serve(echo)
    monkeypatch.setenv("http_proxy", url)
    with connect(at(server)) as ws:
        ws.send("x")
        assert ws.receive() == "x"
    assert len(asked) == 1
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    connect(at(server)).close()
    monkeypatch.delenv("no_proxy")
    connect(at(server), proxy=None).close()
    assert len(asked) == 1


def test_a_token_in_the_url_of_a_proxy_is_sent_as_a_user_without_a_password(serve, proxy):
    url, asked = proxy
    with pytest.raises(HandshakeError, match="407"):
        connect(at(serve(echo)), proxy=url.replace("ada:secret", "token"))
    assert "Proxy-Authorization: Basic dG9rZW46" in asked[0]
    assert base64.b64decode("dG9rZW46") == b"token:"


def test_a_proxy_that_refuses(serve, proxy):
    url, _ = proxy
    with pytest.raises(HandshakeError) as caught:
        connect(at(serve(echo)), proxy=url.replace("secret", "wrong"))
    assert caught.value.status == "407 Proxy Authentication Required"
    assert caught.value.body == b"Who?"


# ------------------------------------------------------------ other people's servers


class InThread:
    """An asyncio server in a separate thread; ``url`` is its address."""

    def __init__(self, serve) -> None:
        self.loop = asyncio.new_event_loop()
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(serve,), daemon=True)
        self._thread.start()
        assert self._ready.wait(SECONDS)

    def _run(self, serve) -> None:
        async def main():
            self._stop = asyncio.Event()
            async with serve() as port:
                self.url = f"ws://127.0.0.1:{port}"
                self._ready.set()
                await self._stop.wait()

        self.loop.run_until_complete(main())
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)


class Websockets:
    """The server of websockets."""

    async def echo(self, ws):
        async for message in ws:
            if message == "close":
                await ws.close(4001, "not you")
                return
            await ws.send(message)

    def refuse(self, connection, request):
        return connection.respond(401, "Who are you?") if request.path == "/refuse" else None

    async def __aenter__(self):
        self._server = await websockets.asyncio.server.serve(
            self.echo,
            "127.0.0.1",
            0,
            process_request=self.refuse,
            max_size=32 * MEBIBYTE,
            subprotocols=["chat"],
        )
        return self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *exc_info):
        self._server.close()
        await self._server.wait_closed()


class Aiohttp:
    """The server of aiohttp."""

    async def echo(self, request):
        if request.path == "/refuse":
            return aiohttp.web.Response(status=401, text="Who are you?")
        ws = aiohttp.web.WebSocketResponse(protocols=["chat"], max_msg_size=32 * MEBIBYTE)
        await ws.prepare(request)
        async for message in ws:
            if message.data == "close":
                await ws.close(code=4001, message=b"not you")
            elif message.type == aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            else:
                await ws.send_bytes(message.data)
        return ws

    async def __aenter__(self):
        app = aiohttp.web.Application()
        app.router.add_get("/{path:.*}", self.echo)
        self._runner = aiohttp.web.AppRunner(app)
        await self._runner.setup()
        await aiohttp.web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self._runner.addresses[0][1]

    async def __aexit__(self, *exc_info):
        await self._runner.cleanup()


@pytest.fixture(scope="module", params=["websockets", "aiohttp", "ws"])
def foreign(request):
    """The URL of an echo server that nobody here wrote."""
    if request.param == "ws":
        request.getfixturevalue("node_modules")
        node = need("node", "apt-get install nodejs")
        with subprocess.Popen([node, NODE / "ws_server.cjs"], stdout=subprocess.PIPE) as process:
            try:
                yield process.stdout.readline().decode().strip()
            finally:
                process.terminate()
        return
    server = InThread({"websockets": Websockets, "aiohttp": Aiohttp}[request.param])
    yield server.url
    server.stop()


def test_a_foreign_server_echoes(foreign):
    with connect(foreign, subprotocols=["x", "chat"], max_message_size=32 * MEBIBYTE) as ws:
        assert ws.subprotocol == "chat"
        for message in ("grüß dich", b"\0\xff", "", b"", "x" * MEBIBYTE, bytes(16 * MEBIBYTE)):
            ws.send(message)
            assert ws.receive() == message
    assert ws.close_code == 1000


@pytest.mark.parametrize(
    "compression", [True, Deflate(server_context_takeover=True, client_context_takeover=True)]
)
def test_a_foreign_server_agrees_on_compression(foreign, compression):
    message = "to be or not to be, " * 1000
    with connect(foreign, subprotocols=["chat"], compression=compression) as ws:
        assert ws.extensions.startswith("permessage-deflate")
        for _ in range(3):
            ws.send(message)
            assert ws.receive() == message
    with connect(foreign, subprotocols=["chat"], compression=False) as ws:
        assert ws.extensions == ""
        ws.send(message)
        assert ws.receive() == message


def test_a_foreign_server_answers_pings(foreign):
    with connect(foreign, subprotocols=["chat"]) as ws:
        ws.ping("marco")
        ws.send("x")
        assert ws.receive() == "x"
        assert ws.latency > 0


def test_a_foreign_server_closes(foreign):
    with connect(foreign, subprotocols=["chat"]) as ws:
        ws.send("close")
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (4001, "not you")


def test_a_foreign_server_refuses(foreign):
    with pytest.raises(HandshakeError, match="Who are you") as caught:
        connect(f"{foreign}/refuse")
    assert caught.value.status.startswith("401")


# ------------------------------------------------------------------------- numbers


@pytest.fixture
def many_descriptors():
    """As many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 6000:
        pytest.skip(f"the system allows only {hard} descriptors (ulimit -Hn)")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_process_holds_two_thousand_connections(many_descriptors, tmp_path):
    arguments = "-m tests.support.serve server"
    with serving(arguments.split(), tmp_path / "log") as process:
        url = f"ws://127.0.0.1:{process.address[1]}/echo"
        opened: list[ClientWebSocket] = Pool(100).map(connect, [url] * 2000)
        for i, ws in enumerate(opened):
            ws.send(str(i))
        for i, ws in enumerate(opened):
            assert ws.receive(timeout=SECONDS) == str(i)
        closing = Pool(500)
        closing.map(ClientWebSocket.close, opened)
        assert {ws.close_code for ws in opened} == {1000}
