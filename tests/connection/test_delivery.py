"""What send() has accepted arrives as long as the peer reads: deadlines count progress."""

import contextlib
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import geventws
from geventws import ConnectionClosed, WebSocketError
from tests.support.apps import echo
from tests.support.client import BINARY, CLOSE, PING, TEXT, RawClient, close_frame, frame, request
from tests.support.servers import SECONDS, wait_until

#: More than the kernel takes with the small buffers below, and more than one buffer of ours.
LARGE = bytes(range(256)) * 8_000
#: A third of a second's worth of a slow reader, twenty times a second.
PIECE = 32 << 10
PAUSE = 0.02


@pytest.fixture
def slow_client(tls):
    """``slow_client(server, secure)``: a client with a small receive buffer."""
    clients = []

    def connect(server, secure=False, path="/") -> RawClient:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", server.server_port))
        client = RawClient.__new__(RawClient)
        client.sock = tls[2].wrap_socket(sock, server_hostname="localhost") if secure else sock
        client.buffer, client.headers = b"", {}
        clients.append(client)
        return client.open(path)

    yield connect
    for client in clients:
        client.sock.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def serve_view(request, serve, tls):
    """``serve_view(view, **options)``: a server, plain and with TLS, with a small send buffer."""
    secure = request.param
    certificates = {"certfile": tls[0], "keyfile": tls[1]} if secure else {}

    def start(view, **options):
        def application(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.accept()
            ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
            view(ws)
            return []

        server = serve(application, **certificates, **options)
        server.secure = secure
        return server

    return start


def read_slowly(client, size: int) -> bytes:
    """Read so many bytes at some 1.5 MB a second."""
    data = client.read(0)
    while len(data) < size:
        data += client.read(min(PIECE, size - len(data)))
        gevent.sleep(PAUSE)  # slowness is what this is about
    return data


def read_message_slowly(client) -> tuple[int, bytes]:
    first, size = client.read(2)
    assert size == 127
    size = int.from_bytes(client.read(8), "big")
    return first, read_slowly(client, size)


def send_and_return(ws) -> None:
    ws.send(LARGE)


def send_and_close(ws) -> None:
    ws.send(LARGE)
    ws.close(4000, "done")


@pytest.mark.parametrize(
    ("view", "code"), [(send_and_return, (1000, "")), (send_and_close, (4000, "done"))]
)
def test_a_large_message_before_the_end_reaches_a_slow_reader(serve_view, slow_client, view, code):
    # Reading takes much longer than either time limit.
    server = serve_view(view, close_timeout=0.5, send_timeout=0.5, max_send_buffer=4 << 20)
    client = slow_client(server, server.secure)
    assert read_message_slowly(client) == (BINARY, LARGE)
    assert client.read_close() == code
    client.send(close_frame(code[0]))
    assert client.read_to_end() == b""


def test_a_peer_that_closes_first_still_gets_what_was_sent(serve_view, slow_client):
    server = serve_view(send_and_return, close_timeout=0.5, max_send_buffer=4 << 20)
    client = slow_client(server, server.secure)
    client.send(close_frame(1001, "leaving"))
    assert read_message_slowly(client) == (BINARY, LARGE)
    code = client.read_close()
    assert code in {(1000, ""), (1001, "leaving")}
    assert client.read_to_end() == b""


def test_a_peer_that_stops_reading_while_closing_is_let_go_with_a_line_in_the_log(
    serve_view, slow_client, caplog
):
    caplog.set_level("INFO", "geventws")
    server = serve_view(send_and_return, close_timeout=0.3, max_send_buffer=4 << 20)
    client = slow_client(server, server.secure)
    client.read(100_000)
    wait_until(server.is_idle)
    (record,) = caplog.records
    assert "did not read for 0.3 seconds while closing" in record.getMessage()
    assert "bytes were not delivered" in record.getMessage()
    assert server.stats().slow_consumers_dropped == 1


def test_send_waits_as_long_as_the_peer_reads(serve_view, slow_client):
    def view(ws):
        for _ in range(3):
            ws.send(LARGE)

    server = serve_view(view, send_timeout=0.5, close_timeout=0.5)
    client = slow_client(server, server.secure)
    for _ in range(3):
        assert read_message_slowly(client) == (BINARY, LARGE)
    assert client.read_close() == (1000, "")


def test_a_large_send_waits_for_room_after_it_was_queued(serve_view, slow_client):
    sent = Event()

    def view(ws):
        ws.send(LARGE)
        assert ws._buffered.unsent < (64 << 10)
        sent.set()

    server = serve_view(view, max_send_buffer=64 << 10)
    client = slow_client(server, server.secure)
    gevent.sleep(0.1)
    assert not sent.is_set()
    assert read_message_slowly(client) == (BINARY, LARGE)
    assert sent.wait(SECONDS)


def test_a_peer_that_reads_nothing_is_dropped_by_send_in_time(serve_view, slow_client):
    dropped = []

    def view(ws):
        started = time.monotonic()
        with pytest.raises(ConnectionClosed):
            ws.send(LARGE)
        dropped.append(time.monotonic() - started)

    server = serve_view(view, send_timeout=0.4)
    slow_client(server, server.secure)
    wait_until(server.is_idle)
    assert dropped[0] < SECONDS / 2
    assert server.stats().slow_consumers_dropped == 1


def test_keepalive_does_not_drop_a_peer_that_reads_what_is_streamed(serve_view, slow_client):
    def view(ws):
        for _ in range(3):
            ws.send(LARGE)

    server = serve_view(view, ping_interval=0.25, ping_timeout=0.5)
    client = slow_client(server, server.secure)
    messages = 0
    while messages < 3:
        first, size = client.read(2)
        if first == PING:
            client.read(size)  # and does not answer
            continue
        assert (first, size) == (BINARY, 127)
        assert read_slowly(client, int.from_bytes(client.read(8), "big")) == LARGE
        messages += 1


def test_keepalive_drops_a_peer_that_neither_reads_nor_answers(serve_view, slow_client, caplog):
    caplog.set_level("INFO", "geventws")
    server = serve_view(
        lambda ws: ws.send(LARGE),
        ping_interval=0.25,
        ping_timeout=0.25,
        send_timeout=SECONDS,
    )
    slow_client(server, server.secure)
    wait_until(server.is_idle)
    (record,) = caplog.records
    assert "did not answer a ping within 0.25 seconds" in record.getMessage()


def test_small_messages_that_wait_are_joined(serve, slow_client):
    weights = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        while ws._buffered.unsent < 100_000:
            ws.send("x")
        weights.append(len(ws._output._pieces))
        return []

    client = slow_client(serve(application))
    wait_until(lambda: weights)
    assert weights[0] < 50
    for _ in range(33_000):
        assert client.read_frame() == (TEXT, b"x")


# ------------------------------------------------------------------------ our client


def test_the_client_delivers_a_large_message_when_its_block_ends(serve):
    received = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        for message in ws:
            received.append(len(message))
            gevent.sleep(0.05)  # slowness is what this is about
        received.append(ws.close_code)
        return []

    server = serve(application, max_queued_messages=1, max_queued_bytes=1000, max_message_size=None)
    with geventws.connect(
        f"ws://127.0.0.1:{server.server_port}/",
        close_timeout=0.5,
        compression=False,
        max_send_buffer=32 << 20,
    ) as ws:
        for _ in range(20):
            ws.send(bytes(1_000_000))
    wait_until(lambda: received[-1:] == [1000])
    assert received == [1_000_000] * 20 + [1000]


# ------------------------------------------------------------------------- closing


def test_the_peers_close_is_answered_with_its_code_and_its_reason(way_in):
    with way_in.client().open() as client:
        client.send(close_frame(3001, "grüß Gott"))
        assert client.read_close() == (3001, "grüß Gott")
        assert client.read_to_end() == b""


def test_a_close_notify_is_answered(serve, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    with server.client(context=tls[2]).open("/") as client:
        client.send(frame(TEXT, "x"))
        assert client.read_frame() == (TEXT, b"x")
        plain = client.sock.unwrap()  # raises if the server's own does not come
        plain.close()


# -------------------------------------------------------- a view that does not answer


def late_view(answer):
    """A view that waits before its first use of the WebSocket."""

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        assert go.wait(SECONDS)
        return answer(ws, start_response)

    go = Event()
    application.go = go
    return application


def test_a_view_that_waits_first_is_accepted_by_itself(serve, caplog):
    application = late_view(lambda ws, _: ws.send("at last") or [])
    server = serve(application, accept_after=0.25)
    with server.client() as client:
        client.send(request())
        assert client.read_head() == "101"
        (record,) = caplog.records
        assert "The view of /echo has neither accepted nor refused" in record.getMessage()
        assert "ws.accept()" in record.getMessage()
        application.go.set()
        assert client.read_frame() == (TEXT, b"at last")
        assert client.read_close() == (1000, "")


@pytest.mark.parametrize(
    ("status", "code"),
    [("401 Unauthorized", 1008), ("302 Found", 1008), ("500 Oops", 1011), ("200 OK", 1000)],
)
def test_what_such_a_view_answers_later_becomes_a_close_code(serve, caplog, status, code):
    application = late_view(lambda ws, start_response: start_response(status, []) and [b"body"])
    with serve(application, accept_after=0.25).client() as client:
        client.send(request())
        assert client.read_head() == "101"
        application.go.set()
        assert client.read_close() == (code, "" if code == 1000 else status)
    messages = [record.getMessage() for record in caplog.records]
    is_logged = any(status in message and str(code) in message for message in messages)
    assert is_logged == (code != 1000)


def test_accept_is_not_an_error_after_the_101_has_gone_out_by_itself(serve):
    def answer(ws, start_response):
        ws.accept()
        with pytest.raises(WebSocketError, match="accepted already"):
            ws.accept()
        ws.send("fine")
        return []

    application = late_view(answer)
    with serve(application, accept_after=0.25).client() as client:
        client.send(request())
        assert client.read_head() == "101"
        application.go.set()
        assert client.read_frame() == (TEXT, b"fine")


def test_headers_for_a_101_that_has_gone_out_by_itself_are_a_line_in_the_log(serve, caplog):
    def answer(ws, start_response):
        ws.accept(headers=[("X-Too", "late")])
        assert "They are not sent" in caplog.records[-1].getMessage()
        ws.send("fine")
        return []

    application = late_view(answer)
    with serve(application, accept_after=0.25).client() as client:
        client.send(request())
        assert client.read_head() == "101"
        application.go.set()
        assert client.read_frame() == (TEXT, b"fine")


def test_a_view_that_answers_in_time_is_not_accepted(serve, caplog):
    def application(environ, start_response):
        start_response("403 Forbidden", [])
        gevent.sleep(0.6)  # the answer is known, and its body takes its time
        yield b"no"

    with serve(application, accept_after=0.25).client() as client:
        client.send(request())
        assert client.read_response() == ("403", b"no")
    assert not caplog.records


def test_without_accept_after_a_view_may_take_its_time(serve):
    application = late_view(
        lambda ws, start_response: start_response("401 Unauthorized", []) and []
    )
    with serve(application, accept_after=None).client() as client:
        client.send(request())
        gevent.sleep(0.6)  # the clock is what this is about
        application.go.set()
        assert client.read_head() == "401"


def test_a_client_that_leaves_before_it_is_accepted_costs_nothing(serve, caplog):
    def use(ws, start_response):
        with pytest.raises(ConnectionClosed):
            ws.send("x")
        return []

    application = late_view(use)
    server = serve(application, accept_after=0.5)
    client = server.client()
    client.send(request())
    wait_until(lambda: server.websockets)
    client.vanish()
    wait_until(lambda: caplog.records)
    gevent.sleep(0)
    application.go.set()
    wait_until(server.is_idle)
    assert not server.websockets


def test_the_late_101_works_on_every_way_in(way_in):
    with way_in.client() as client:
        client.send(request("/wait-then-send"))
        assert client.read_head() == "101"
        assert client.read_frame() == (TEXT, b"at last")
        first, _ = client.read_frame()
        assert first == CLOSE
    way_in.wait_for("The view of /wait-then-send has neither accepted nor refused")


def test_a_peer_that_closes_and_shuts_down_its_side_still_gets_what_was_sent(serve, slow_client):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        ws.send(LARGE)
        return []

    client = slow_client(serve(application, max_send_buffer=4 << 20))
    client.send(close_frame(1001))
    client.sock.shutdown(socket.SHUT_WR)
    assert read_message_slowly(client) == (BINARY, LARGE)
    assert client.read_close()[0] in {1000, 1001}


def test_a_peer_that_goes_before_it_has_everything_is_a_line_in_the_log(serve, caplog):
    caplog.set_level("INFO", "geventws")

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        with contextlib.suppress(ConnectionClosed):
            ws.send(LARGE * 8)
        return []

    server = serve(application)
    with server.client().open() as client:
        client.sock.shutdown(socket.SHUT_WR)
        wait_until(server.is_idle)
    (record,) = caplog.records
    assert "bytes were not delivered" in record.getMessage()
