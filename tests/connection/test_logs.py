"""What a peer can make the log say: one line, no forgery, no flood."""

import contextlib
import logging
import resource
import signal

import gevent
import pytest
from gevent import socket

from geventws.connection import logs
from geventws.connection.logs import Throttle, printable
from tests.support.apps import site
from tests.support.client import TEXT, RawClient, frame, request
from tests.support.servers import Process, arguments_of, serving, wait_until

NOISE = [
    b"\r\n\r\n",
    b"\0" * 100,
    b"GET\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
    b"GET / HTTP/1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/one.one\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nno header\r\n\r\n",
    b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xff\xfe\xfd\r\n\r\n",
    b"POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    request() + b"\xff" * 100,
    request() + frame(0x83),
    request() + frame(TEXT, b"\xff"),
    request()[:50],
]


@pytest.mark.parametrize("data", NOISE, ids=range(len(NOISE)))
@pytest.mark.parametrize("goodbye", ["politely", "with a reset"])
def test_whatever_a_client_sends_there_is_at_most_one_line(serve, caplog, capfd, data, goodbye):
    caplog.set_level("INFO", "geventws")
    server = serve(site)
    with server.client() as client:
        client.send(data)
        if goodbye == "with a reset":
            client.vanish()
        else:
            client.sock.shutdown(socket.SHUT_WR)
            with pytest.raises((EOFError, ConnectionResetError)):
                client.read(1 << 30)
    wait_until(server.is_idle)
    assert capfd.readouterr().err == ""
    assert len(caplog.records) <= 1
    for record in caplog.records:
        assert record.exc_info is None
        assert record.levelno <= logging.INFO
        assert len(record.getMessage()) < 500
        assert record.getMessage().isprintable()


def test_tls_on_a_plain_port_and_the_reverse_are_named(serve, tls, caplog):
    caplog.set_level("INFO", "geventws")
    with serve(site).client() as client:
        client.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc")  # an incomplete ClientHello
        assert client.read_head() == "400"
    with serve(site, certfile=tls[0], keyfile=tls[1]).client() as client:
        client.send(request())
        with contextlib.suppress(ConnectionResetError):
            client.read_to_end()
    wait_until(lambda: len(caplog.records) == 2)
    plain, secure = (record.getMessage() for record in caplog.records)
    assert plain.startswith("Bad request from 127.0.0.1: this looks like TLS on a plain port.")
    assert secure.startswith("No TLS with 127.0.0.1: this looks like plain HTTP on a TLS port.")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 500, b"\x16\x03\x01"])
def test_a_client_that_does_not_speak_tls_is_one_line(serve, tls, caplog, capfd, data):
    caplog.set_level("INFO", "geventws")
    server = serve(site, certfile=tls[0], keyfile=tls[1])
    with server.client() as client:
        client.send(data)
        client.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            client.read_to_end()
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage().startswith("No TLS with 127.0.0.1: ")
    assert record.exc_info is None
    assert capfd.readouterr().err == ""


def test_a_client_that_vanishes_during_the_tls_handshake_is_no_traceback(serve, tls, capfd):
    server = serve(site, certfile=tls[0], keyfile=tls[1])
    for data in (b"", b"\x16\x03\x01\x02"):
        client = server.client()
        client.send(data)
        client.vanish()
    with server.client(context=tls[2]).open() as client:
        client.finish()
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------------- no forgery

ESCAPES = "%0d%0aFAKE%1b%5b2J"


def test_a_path_cannot_forge_a_line_of_the_log(serve, caplog):
    with serve(site).client() as client:
        client.send(request(f"/crash/..%2f..{ESCAPES}"))
        client.read_head()

    def crash(environ, start_response):
        environ["wsgi.websocket"].accept()
        raise ZeroDivisionError

    with serve(crash).client().open(f"/{ESCAPES}") as client:
        assert client.read_close() == (1011, "")
    wait_until(lambda: caplog.records)
    assert (
        caplog.records[-1].getMessage().startswith(r"Exception in the view of /\r\nFAKE\x1b[2J [")
    )


@pytest.mark.parametrize("origin", ["http://a\x1b[2Jb", "x" * 5000, "http://é\x85\xa0"])
def test_an_origin_cannot_forge_or_fill_a_line(serve, caplog, origin):
    with serve(site).client() as client:
        client.send(request(headers=[("Origin", origin)]))
        assert client.read_head() in {"400", "403"}
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1000


def test_the_access_log_has_one_printable_line_a_request(tmp_path):
    with serving(arguments_of("server"), tmp_path / "log") as process:
        with process.client() as client:
            client.send(b"GET /\x1b[2J\x0bFAKE\x7f HTTP/1.1\r\nHost: h\r\n\r\n")
            client.read_head()
        process.wait_for("FAKE")
        assert all(line.isprintable() for line in process.output.split("\n"))


def test_printable_leaves_plain_text_alone_and_escapes_the_rest():
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("a\r\nb\x1b\x00") == r"a\r\nb\x1b\x00"
    assert printable("x" * 300) == "x" * 200 + "..."


# ------------------------------------------------------------------------ no flood


def test_lines_of_one_kind_are_held_back_and_counted(caplog):
    caplog.set_level("INFO", "geventws")
    throttle = Throttle(burst=3, rate=20.0)
    for i in range(103):
        throttle.log(logging.INFO, "%s did it", i)
    throttle.log(logging.INFO, "another kind")
    assert [record.getMessage() for record in caplog.records] == [
        "0 did it",
        "1 did it",
        "2 did it",
        "another kind",
    ]
    gevent.sleep(0.1)  # the clock is what this is about
    throttle.log(logging.INFO, "%s did it", "he")
    assert caplog.records[-1].getMessage() == "he did it (and 100 more)"


def test_what_is_not_logged_is_not_counted(caplog):
    caplog.set_level("WARNING", "geventws")
    throttle = Throttle(burst=1)
    for _ in range(10):
        throttle.log(logging.INFO, "quiet")
    assert throttle._kinds == {}


def test_a_thousand_refused_pages_are_a_few_lines(serve, caplog):
    server = serve(site)
    for _ in range(200):
        with server.client() as client:
            client.send(request(headers=[("Origin", "http://evil.example")]))
            assert client.read_head() == "403"
    assert logs.BURST <= len(caplog.records) < 100


def test_a_server_without_descriptors_waits_and_says_so_without_a_traceback(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        process = Process(arguments_of("server"), tmp_path / "log")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    clients = []
    try:
        clients = [RawClient(process.address) for _ in range(80)]
        process.wait_for("Cannot accept connections for now: Too many open files")
        for client in clients[10:]:
            client.sock.close()
        clients[0].open().finish()
        with process.client().open() as client:
            client.finish()
        assert "Traceback" not in process.output
    finally:
        for client in clients:
            client.sock.close()
        process.stop(signal.SIGKILL)


def test_a_tls_client_that_goes_before_its_response_is_no_traceback(serve, tls, capfd):
    certificate, key, context = tls
    server = serve(site, certfile=certificate, keyfile=key)
    for path in ("/plain", "/refuse"):
        for _ in range(5):
            with server.client(context=context) as client:
                client.send(request(path, without="Upgrade" if path == "/plain" else ""))
                client.vanish()
    wait_until(server.is_idle)
    assert "Traceback" not in capfd.readouterr().err
