"""No peer keeps anything for longer than it may: each wait has its limit."""

import contextlib

import gevent
import pytest
from gevent import socket
from gevent.event import AsyncResult
from gevent.pywsgi import WSGIServer

from geventws import ConnectionClosed, WebSocketHandler
from tests.support.apps import site
from tests.support.client import BINARY, CLOSE, PING, TEXT, RawClient, close_frame, frame, request
from tests.support.servers import SECONDS, arguments_of, serving, wait_until

PLAIN = request("/plain", [("Connection", "keep-alive")], without="Upgrade")
CUT_OFF = [
    request()[:1],
    request()[:10],
    request()[:-2],
    request()[: -len("\r\n\r\n")] + b"\r\nX-More: ",
    b"POST /plain HTTP/1.1\r\n",
]


# ------------------------------------------------------------ the opening handshake


@pytest.mark.parametrize("head", CUT_OFF)
def test_a_request_that_is_not_finished_in_time_is_a_408(serve, caplog, head):
    caplog.set_level("INFO", "geventws")
    with serve(site, handshake_timeout=0.2).client() as client:
        client.send(head)
        assert client.read_head() == "408"
        assert client.headers["connection"] == "close"
        assert client.read_to_end() == b""
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == "Bad request from 127.0.0.1: the request did not arrive in time"


def test_a_client_that_says_nothing_is_dropped_without_a_word(serve, caplog):
    caplog.set_level("INFO", "geventws")
    with serve(site, handshake_timeout=0.2).client() as client:
        assert client.read_to_end() == b""
    assert caplog.records == []


def test_bytes_that_trickle_in_do_not_extend_the_time(serve):
    with serve(site, handshake_timeout=0.5).client() as client:

        def trickle():
            with contextlib.suppress(OSError):
                for byte in request() * 20:
                    client.send(bytes((byte,)))
                    gevent.sleep(0.05)  # slowness is what this is about

        attack = gevent.spawn(trickle)
        assert client.read_head() == "408"
        attack.kill()


def test_a_request_that_is_cut_off_does_not_reach_the_application(serve):
    asked = []
    server = serve(lambda environ, _: asked.append(environ) or [], handshake_timeout=0.2)
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        assert client.read_head() == "408"
    assert asked == []


def test_the_time_ends_with_the_head_and_not_with_the_view(serve):
    with serve(site, handshake_timeout=0.2).client().open() as client:
        gevent.sleep(0.6)  # the clock is what this is about
        client.send(frame(TEXT, "still here"))
        assert client.read_frame() == (TEXT, b"still here")
        client.finish()


def test_a_connection_that_is_kept_alive_is_dropped_when_nothing_follows(serve):
    server = serve(site, handshake_timeout=30, keep_alive_timeout=0.2)
    with server.client() as client:
        for _ in range(2):
            client.send(PLAIN)
            assert client.read_response() == ("200", b"plain")
        assert client.read_to_end() == b""


def test_a_later_request_has_its_time_too(serve):
    with serve(site, handshake_timeout=30, keep_alive_timeout=0.3).client() as client:
        client.send(PLAIN)
        assert client.read_response() == ("200", b"plain")
        client.send(PLAIN[:20])
        assert client.read_head() == "408"


def test_without_limits_a_client_may_take_its_time(serve):
    with serve(site, handshake_timeout=None, keep_alive_timeout=None).client() as client:
        client.send(PLAIN)
        assert client.read_response() == ("200", b"plain")
        client.send(PLAIN[:20])
        gevent.sleep(0.3)
        client.send(PLAIN[20:])
        assert client.read_response() == ("200", b"plain")


def test_the_handler_alone_has_the_deadlines_too():
    class Handler(WebSocketHandler):
        handshake_timeout = 0.2

    server = WSGIServer(("127.0.0.1", 0), site, handler_class=Handler, log=None)
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)) as client:
            client.send(CUT_OFF[1])
            assert client.read_head() == "408"
    finally:
        server.stop()


@pytest.fixture
def serve_tls(serve, tls):
    certificate, key, _ = tls

    def start(**options):
        return serve(site, certfile=certificate, keyfile=key, **options)

    return start


@pytest.mark.parametrize("hello", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_a_tls_handshake_that_is_not_finished_in_time_is_dropped(serve_tls, hello, caplog, capfd):
    caplog.set_level("INFO", "geventws")
    with serve_tls(handshake_timeout=0.2).client() as client:
        client.send(hello)
        assert client.read_to_end() == b""
    (record,) = caplog.records
    assert record.getMessage() == "No TLS with 127.0.0.1: too slow"
    assert capfd.readouterr().err == ""


def test_a_request_over_tls_has_its_time_too(serve_tls, tls, capfd):
    with serve_tls(handshake_timeout=0.3).client(context=tls[2]) as client:
        client.send(CUT_OFF[2])
        # OpenSSL takes the end of the input for a truncation, and will not say anything more.
        with pytest.raises((OSError, EOFError)):
            client.read_head()
    assert capfd.readouterr().err == ""


def test_gunicorn_gives_a_request_the_time_of_its_keep_alive(tmp_path):
    arguments = [*arguments_of("gunicorn-worker"), "--keep-alive", "1"]
    with serving(arguments, tmp_path / "log") as process:
        clients = [process.client() for _ in CUT_OFF]
        for client, head in zip(clients, [b"", *CUT_OFF[1:]], strict=True):
            client.send(head)
        for client in clients:
            assert client.read_to_end() == b""
            client.sock.close()


# ------------------------------------------------------------------------- messages

MESSAGE = frame(BINARY, bytes(1000))
UNFINISHED = {
    "a byte": MESSAGE[:1],
    "a head": MESSAGE[:8],
    "a payload": MESSAGE[:500],
    "fragments": frame(0x01, "begun") + frame(PING, "?") + frame(0x00, "so on"),
    "a control frame": frame(PING, "unfinished")[:-1],
}


@pytest.mark.parametrize("data", UNFINISHED.values(), ids=UNFINISHED)
def test_a_message_that_is_not_finished_in_time_closes_with_1008(run, caplog, data):
    caplog.set_level("INFO", "geventws")
    client, result = run(list, message_timeout=0.25)
    client.send(frame(TEXT, "whole") + data)
    first, payload = client.read_frame()
    if first == 0x8A:
        first, payload = client.read_frame()
    assert (first, payload) == (CLOSE, b"\x03\xf0message timeout")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.read_to_end() == b""
    assert result.get(timeout=SECONDS) == ["whole"]
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"127.0.0.1 did not finish a message within 0.25 seconds [{record.connection_id}]"
    )


def test_a_message_that_trickles_in_is_not_finished_in_time(run):
    client, _ = run(list, message_timeout=0.5, ping_interval=0.25)

    def trickle():
        with contextlib.suppress(OSError):
            for byte in MESSAGE:
                client.send(bytes((byte,)))
                gevent.sleep(0.02)  # slowness is what this is about

    attack = gevent.spawn(trickle)
    while (received := client.read_frame())[0] == PING:
        pass
    attack.kill()
    assert received == (CLOSE, b"\x03\xf0message timeout")


def test_a_peer_that_is_always_in_the_middle_of_another_message_may_go_on(run):
    client, _ = run(list, message_timeout=0.25)
    pieces = frame(TEXT, "x" * 10) * 100
    for i in range(0, len(pieces), 11):  # each piece ends within a frame of 16 bytes
        client.send(pieces[i : i + 11])
        gevent.sleep(0.01)
    client.finish()


def test_a_peer_that_the_view_does_not_read_from_is_not_to_blame(run):
    def view(ws):
        ws.accept()
        gevent.sleep(1)
        return sum(map(len, ws))

    client, result = run(view, message_timeout=0.25, max_queued_messages=2)
    client.send(MESSAGE * 1000)
    client.finish()
    assert result.get(timeout=SECONDS) == 1_000_000


def test_keepalive_does_not_discard_what_a_lost_peer_has_sent_before(run):
    def view(ws):
        ws.accept()
        with pytest.raises(ConnectionClosed):
            ws.send(bytes(8 << 20))
        gevent.sleep(1)
        return sum(map(len, ws)), ws.close_code

    client, result = run(view, max_queued_messages=2, ping_interval=0.25, ping_timeout=0.25)
    client.send(MESSAGE * 20 + close_frame(4000))
    client.read(1)  # the server sends, and has read: its queue is full
    client.vanish()
    assert result.get(timeout=SECONDS) == (20_000, 4000)


def test_without_a_limit_a_message_may_take_its_time(run):
    client, result = run(list, message_timeout=None, ping_interval=None)
    client.send(MESSAGE[:10])
    gevent.sleep(0.6)
    client.send(MESSAGE[10:])
    client.finish()
    assert result.get(timeout=SECONDS) == [bytes(1000)]


# ---------------------------------------------------------------- sending and closing


def test_a_peer_that_does_not_read_is_dropped_with_a_line_in_the_log(run, caplog):
    caplog.set_level("INFO", "geventws")

    def view(ws):
        while True:
            ws.send(bytes(1_000_000))

    _, result = run(view, send_timeout=0.2)
    with pytest.raises(ConnectionClosed):
        result.get(timeout=SECONDS)
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"127.0.0.1 did not read for 0.2 seconds [{record.connection_id}]"
    )


def test_a_peer_that_goes_on_after_its_fault_is_cut_off_even_if_the_view_stays(run):
    client, _ = run(
        lambda ws: (ws.accept(), gevent.sleep(SECONDS)),
        close_timeout=0.25,
        message_timeout=0.25,
    )
    client.send(frame(0x83))
    assert client.read_close()[0] == 1002

    def flood():
        while True:
            client.send(frame(TEXT, "I do not care"))
            gevent.sleep(0.02)

    with gevent.Timeout(SECONDS), pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        flood()


def test_a_peer_that_does_not_answer_the_close_is_cut_off(run):
    client, result = run(lambda ws: ws.close(4000), close_timeout=0.1)
    assert client.read_close() == (4000, "")
    assert client.read_to_end() == b""
    result.get(timeout=SECONDS)


def test_a_peer_that_answers_half_of_the_close_is_cut_off(run):
    client, result = run(lambda ws: ws.close(4000), close_timeout=0.1)
    client.send(close_frame(4000)[:3])
    assert client.read_close() == (4000, "")
    assert client.read_to_end() == b""
    result.get(timeout=SECONDS)


# ------------------------------------------------------- plain requests and responses

BODIES = {
    "sized": (b"Content-Length: 1000", b"x" * 1000),
    "chunked": (
        b"Transfer-Encoding: chunked",
        b"7d0;x=y\r\n" + b"x" * 2000 + b"\r\n0\r\nA: b\r\n\r\n",
    ),
}
NEXT = b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n"


def post(framing, path=b"/upload"):
    return b"POST " + path + b" HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n"


@pytest.fixture(params=["server", "handler", "tls"])
def serve_plain(request, serve, tls):
    """``serve_plain(app, **options)``: what serves plain HTTP; ``connect()`` it."""
    started = []

    def start(app, **options):
        if request.param == "handler":
            handler = type("Handler", (WebSocketHandler,), options)
            server = WSGIServer(("127.0.0.1", 0), app, handler_class=handler, log=None)
            server.start()
            server.connect = lambda: RawClient(("127.0.0.1", server.server_port))
            started.append(server)
            return server
        context = None
        if request.param == "tls":
            options.update(certfile=tls[0], keyfile=tls[1])
            context = tls[2]
        server = serve(app, **options)
        server.connect = lambda: server.client(context=context)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.mark.parametrize("framing", BODIES)
def test_a_body_that_stops_is_a_408_and_nothing_of_it_a_request(
    serve_plain, caplog, capfd, framing
):
    caplog.set_level("INFO", "geventws")
    header, body = BODIES[framing]
    server = serve_plain(site, body_timeout=0.2)
    for end in (0, 1, 500, -1):
        caplog.clear()
        with server.connect() as client:
            client.send(post(header) + body[:end])
            assert client.read_head() == "408"
            assert client.headers["connection"] == "close"
            with contextlib.suppress(OSError):
                client.send(NEXT)
                assert client.read_to_end() == b""
        (record,) = caplog.records
        assert record.getMessage() == "Bad request from 127.0.0.1: the body did not arrive in time"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("framing", BODIES)
def test_a_body_that_nobody_reads_has_its_time_too(serve_plain, caplog, capfd, framing):
    caplog.set_level("INFO", "geventws")
    header, body = BODIES[framing]
    with serve_plain(site, body_timeout=0.2).connect() as client:
        client.send(post(header, b"/plain") + body[:500])
        assert client.read_response() == ("200", b"plain")
        with contextlib.suppress(OSError):
            assert client.read_to_end() == b""
    (record,) = caplog.records
    assert record.getMessage() == "Bad request from 127.0.0.1: the body did not arrive in time"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("framing", BODIES)
def test_a_body_that_comes_steadily_has_as_long_as_it_needs(serve_plain, framing):
    header, body = BODIES[framing]
    size = "1000" if framing == "sized" else "2000"
    with serve_plain(site, body_timeout=1).connect() as client:
        client.send(post(header))
        for i in range(0, len(body), 200):
            client.send(body[i : i + 200])
            gevent.sleep(0.25)  # slowness is what this is about
        assert client.read_response() == ("200", size.encode())
        client.send(NEXT)
        assert client.read_response() == ("200", b"plain")


def test_a_view_may_take_its_time_before_and_after_it_reads_the_body(serve_plain):
    def app(environ, start_response):
        gevent.sleep(0.5)
        body = environ["wsgi.input"].read()
        gevent.sleep(0.5)
        start_response("200 OK", [("Content-Length", "5")])
        return [body]

    with serve_plain(app, body_timeout=0.2).connect() as client:
        client.send(post(b"Content-Length: 5") + b"hello")
        assert client.read_response() == ("200", b"hello")


def test_a_view_that_has_begun_its_answer_is_cut_off_with_the_body(serve_plain):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        yield environ["wsgi.input"].read()

    with serve_plain(app, body_timeout=0.2).connect() as client:
        client.send(post(b"Content-Length: 5") + b"hell")
        assert client.read_head() == "200"
        with contextlib.suppress(OSError):
            assert client.read_to_end() == b"5\r\nbegun\r\n"


def test_a_view_that_catches_the_error_answers_and_the_connection_ends(serve_plain):
    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except TimeoutError as problem:
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [str(problem).encode()]

    with serve_plain(app, body_timeout=0.2).connect() as client:
        client.send(post(b"Content-Length: 5") + b"hell")
        assert client.read_response() == ("400", b"the body did not arrive in time")
        with contextlib.suppress(OSError):
            client.send(NEXT)
            assert client.read_to_end() == b""


def test_a_client_that_leaves_in_its_body_costs_no_line_in_the_log(serve_plain, caplog, capfd):
    caplog.set_level("INFO", "geventws")
    begun, ended = AsyncResult(), AsyncResult()

    def app(environ, start_response):
        begun.set(environ["wsgi.input"].read(1))
        try:
            environ["wsgi.input"].read()
        except OSError as problem:
            ended.set(problem)
            raise

    with serve_plain(app).connect() as client:
        client.send(post(b"Content-Length: 5") + b"hell")
        assert begun.get(timeout=SECONDS) == b"h"
        client.vanish()
    ended.get(timeout=SECONDS)
    gevent.sleep(0)
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def test_without_a_limit_a_body_may_take_its_time(serve_plain):
    with serve_plain(site, body_timeout=None).connect() as client:
        client.send(post(b"Content-Length: 5") + b"hell")
        gevent.sleep(0.5)
        client.send(b"o")
        assert client.read_response() == ("200", b"5")


@pytest.mark.parametrize("chunked", [True, False])
def test_a_response_that_nobody_reads_is_given_up(serve_plain, caplog, capfd, chunked):
    caplog.set_level("INFO", "geventws")
    ended = AsyncResult()

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Endless() if chunked else [bytes(50_000_000)]

    class Endless:
        def __iter__(self):
            while True:
                yield bytes(100_000)

        def close(self):
            ended.set(True)

    with serve_plain(app, send_timeout=0.3).connect() as client:
        client.send(NEXT)
        wait_until(lambda: caplog.records)
        (record,) = caplog.records
        assert record.getMessage() == "127.0.0.1 did not read a response in time"
        if chunked:
            assert ended.get(timeout=SECONDS)
    assert capfd.readouterr().err == ""


def test_a_response_that_is_read_slowly_and_steadily_arrives(serve_plain):
    """The kernel does not say so while a third of its buffer is not free."""
    size = 8_000_000

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [bytes(size)]

    with serve_plain(app, send_timeout=0.3).connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        client.send(NEXT)
        assert client.read_head() == "200"
        for _ in range(20):  # in two seconds, less than the kernel waits for
            client.read(100_000)
            gevent.sleep(0.1)  # slowness is what this is about
        assert len(client.read(size - 20 * 100_000)) == size - 20 * 100_000
