"""What SECURITY.md promises, threat by threat, with real bytes against real servers."""

import contextlib
import re

import gevent
import psutil
import pytest
from gevent import socket
from gevent.event import AsyncResult

from tests.support.apps import echo, site
from tests.support.client import BINARY, TEXT, close_frame, frame, request
from tests.support.servers import SECONDS, wait_until

PLAIN = request("/plain", without="Upgrade")
UPGRADED = frame(TEXT, "hello")


def answers(client) -> bytes:
    """All that the server says until it closes; a RST ends it, too."""
    received = client.buffer
    with contextlib.suppress(OSError):
        client.sock.shutdown(socket.SHUT_WR)
        while data := client.sock.recv(65536):
            received += data
    return received


def statuses(received: bytes) -> list[bytes]:
    """Return the status codes of all responses."""
    return re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)


# ------------------------------------------- cross-site WebSocket hijacking, 6455 section 10.2


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://test.example",
        "http://test.example:81",
        "null",
        "http://test.example.evil.example",
        "http://evil.example/test.example",
    ],
)
def test_a_page_of_another_origin_is_refused(serve, origin):
    with serve(site).client() as client:
        client.send(request(headers=[("Origin", origin), ("Cookie", "session=1")]))
        assert client.read_head() == "403"


def test_a_rebound_name_is_refused_only_if_the_pages_are_named(serve):
    rebound = request(headers=[("Origin", "http://evil.example"), ("Host", "evil.example")])
    for options, status in (({}, "101"), ({"allowed_origins": ["http://test.example"]}, "403")):
        with serve(echo, **options).client() as client:
            client.send(rebound)
            assert client.read_head() == status


FORWARDED = [
    ("Origin", "https://public.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public.example"),
]


def test_what_anybody_forwards_is_not_believed(serve):
    for options in ({}, {"trusted_proxies": ["192.0.2.1"]}):
        with serve(site, **options).client() as client:
            client.send(request(headers=FORWARDED))
            assert client.read_head() == "403"


def test_what_a_trusted_proxy_forwards_is_believed(serve):
    with serve(site, trusted_proxies=["127.0.0.0/8"]).client() as client:
        client.open(headers=FORWARDED)


# ------------------------------------------------------- request smuggling around Upgrade

REFUSED = {
    "key": request(without="Sec-WebSocket-Key"),
    "version": request(headers=[("Sec-WebSocket-Version", "8")]),
    "origin": request(headers=[("Origin", "http://evil.example")]),
    "method": request(method="POST"),
    "http/1.0": request(http="HTTP/1.0", headers=[("Connection", "keep-alive, Upgrade")]),
    "view": request("/refuse", [("Connection", "keep-alive, Upgrade")]),
    "length": request(headers=[("Content-Length", str(len(PLAIN)))]),
    "chunked": request(headers=[("Transfer-Encoding", "chunked")]),
    "post": request(method="POST", headers=[("Content-Length", "0")]),
}


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED)
def test_what_follows_a_refused_upgrade_is_not_served(way_in, head):
    with way_in.client() as client:
        client.send(head + PLAIN + PLAIN)
        received = answers(client)
    assert len(statuses(received)) == 1
    assert b"plain" not in received.partition(b"\r\n\r\n")[2]


def test_what_follows_an_upgrade_is_frames_and_not_requests(way_in):
    with way_in.client().open(early=PLAIN) as client:
        assert client.read_close()[0] == 1002
        assert b"HTTP/1.1" not in answers(client)


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", str(len(PLAIN)))],
        [("Transfer-Encoding", "chunked")],
    ],
    ids=["length", "chunked"],
)
def test_the_body_of_another_upgrade_is_not_served(way_in, headers):
    body = (
        PLAIN
        if headers[0][0] == "Content-Length"
        else b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN)
    )
    head = request("/echo", [("Upgrade", "h2c"), *headers], method="POST")
    with way_in.client() as client:
        client.send(head + body)
        received = answers(client)
    assert statuses(received) == [b"400"]


def test_two_lengths_or_a_folded_upgrade_make_no_websocket(way_in):
    for extra in (b"Content-Length: 0\r\nContent-Length: 5\r\n", b"X: y\r\n Upgrade: h2c\r\n"):
        with way_in.client() as client:
            head = request(without="Upgrade")[:-2] + extra
            client.send(head + b"Upgrade:\r\n websocket\r\n\r\n" + UPGRADED)
            received = answers(client)
            assert not received.startswith(b"HTTP/1.1 101") or b"hello" in received


# ------------------------------------------------------- cache poisoning, 6455 section 10.3


def test_frames_that_are_not_masked_are_not_taken(way_in):
    with way_in.client().open() as client:
        client.send(frame(TEXT, "GET /script.js HTTP/1.1\r\nHost: victim.example\r\n\r\n", None))
        assert client.read_close() == (1002, "a frame without a mask")


# ------------------------------------------------------- response splitting


@pytest.mark.parametrize(
    "header",
    [
        ("X-Name", "a\r\nSet-Cookie: evil=1"),
        ("X-Name", "a\nSet-Cookie: evil=1"),
        ("X\r\nSet-Cookie", "evil=1"),
        ("X-Name", "a\0b"),
        ("Sec-WebSocket-Accept", "mine"),
    ],
)
def test_a_view_cannot_be_made_to_split_the_101(serve, header):
    failed = AsyncResult()

    def view(environ, start_response):
        try:
            environ["wsgi.websocket"].accept(headers=[header])
        except ValueError as problem:
            failed.set(str(problem))
        start_response("400 Bad Request", [("Content-Length", "0")])
        return []

    with serve(view).client() as client:
        client.send(request())
        assert client.read_head() == "400"
        assert "set-cookie" not in client.headers
        assert "header" in failed.get(timeout=SECONDS)


@pytest.mark.parametrize("value", ["a\r\nb", "a b", "", "é", "a,b\0"])
def test_a_subprotocol_cannot_split_the_101(serve, value):
    def view(environ, start_response):
        with pytest.raises(ValueError, match="did not offer"):
            environ["wsgi.websocket"].accept(subprotocol=value)
        start_response("400 Bad Request", [("Content-Length", "0")])
        return []

    with serve(view).client() as client:
        client.send(request(headers=[("Sec-WebSocket-Protocol", "a, b")]))
        assert client.read_head() == "400"


# ------------------------------------------------------- too much of everything


def test_a_frame_that_claims_to_be_huge_costs_its_header(run):
    client, result = run(list)
    client.send(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0")
    assert client.read_close() == (1009, "a message of more than 1048576 bytes")
    client.sock.close()
    assert result.get(timeout=SECONDS) == []


def test_a_flood_of_empty_fragments_is_one_message_and_others_are_served(serve):
    server = serve(echo)
    with server.client().open() as attacker, server.client().open() as client:
        attacker.send(frame(0x01, "begun") + frame(0x00) * 200_000)
        client.send(UPGRADED)
        assert client.read_frame() == (TEXT, b"hello")
        attacker.send(frame(0x80, " and done"))
        assert attacker.read_frame() == (TEXT, b"begun and done")


def test_a_flood_of_pings_without_reading_the_pongs_is_bounded(serve):
    server = serve(echo, send_timeout=0.5)
    with server.client().open() as attacker, server.client().open() as client:
        attacker.sock.settimeout(1)
        with contextlib.suppress(OSError):
            attacker.send(frame(0x89, bytes(125)) * 100_000)
        (ws,) = (
            each
            for each in server.websockets
            if each.environ["REMOTE_PORT"] == str(attacker.sock.getsockname()[1])
        )
        assert ws._buffered.unsent <= (256 + 64) << 10  # the answers to one reading come on top
        client.send(UPGRADED)
        assert client.read_frame() == (TEXT, b"hello")


def test_one_websocket_more_than_may_be_is_a_503_and_room_is_used_again(serve, caplog):
    server = serve(echo, max_connections=2)
    with server.client().open() as first, server.client().open():
        with server.client() as third:
            third.send(request())
            status, body = third.read_response()
            assert (status, body) == ("503", b"Too many WebSockets are open (max_connections).\n")
            assert third.headers["retry-after"] == "5"
            assert third.read_to_end() == b""
        with server.client() as plain:
            plain.send(request("/", without="Upgrade"))
            assert plain.read_head() == "400"  # the application's answer
        first.finish()
        wait_until(lambda: len(server.websockets) == 1)
        with server.client().open() as third:
            third.finish()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "503 Service Unavailable" in record.getMessage()


def test_a_thousand_headers_and_endless_lines_are_refused(serve):
    server = serve(site)
    for data in (
        request(headers=[(f"X-{i}", "y") for i in range(1000)]),
        request(headers=[("X", "y" * 100_000)]),
        request("/" + "x" * 100_000),
    ):
        with server.client() as client:
            with contextlib.suppress(OSError):
                client.send(data)  # it may be refused before it is read
            received = answers(client)
            assert not received or received[9:12] in {b"400", b"414", b"431"}


def test_the_headers_of_a_websocket_request_are_limited_too(serve):
    with serve(site, max_header_size=1024).client() as client:
        client.send(request(headers=[("X", "y" * 5000)]))
        assert client.read_head() == "431"


def test_headers_are_limited_in_their_sum(serve):
    server = serve(site, max_header_size=2000)
    fields = [(f"X-{i}", "y" * 90) for i in range(30)]
    for count, status in ((10, "200"), (30, "431")):
        with server.client() as client:
            client.send(request("/plain", fields[:count], without="Upgrade"))
            assert client.read_head() == status


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Sec-WebSocket-Extensions", "x{}" + ";a" * 30_000),
        ("Sec-WebSocket-Protocol", "x{}" + ",a" * 30_000),
        ("Origin", "http://x{}" + "a" * 60_000),
        ("Host", "x{}" + "a" * 60_000),
        ("Connection", "upgrade,x{}" + ",a" * 30_000),
        ("Upgrade", "websocket,x{}" + ",a" * 30_000),
        ("X{}" + "a" * 60_000, "value"),
    ],
)
def test_requests_that_are_refused_leave_no_memory_behind(serve, name, value):
    server = serve(echo)

    def refuse(number):
        with server.client() as client:
            client.send(
                request(
                    headers=[
                        ("Origin", "http://evil.example"),
                        (name.format(number), value.format(number)),
                    ]
                )
            )
            assert client.read_head() in {"400", "403"}

    refuse(0)
    before = psutil.Process().memory_info().rss
    for number in range(1, 100):
        refuse(number)
    assert psutil.Process().memory_info().rss - before < 4 << 20


def test_two_hundred_slow_clients_do_not_keep_the_others_out(serve):
    server = serve(echo, handshake_timeout=1)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.client()) for _ in range(200)]
        for client in slow:
            client.send(request()[:-1])
        with server.client().open() as client:
            client.send(frame(BINARY, b"served"))
            assert client.read_frame() == (BINARY, b"served")
            client.send(close_frame(1000))
        for client in slow:
            assert client.read_head() == "408"
    with gevent.Timeout(SECONDS):
        wait_until(server.is_idle)
