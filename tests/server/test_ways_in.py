"""Every way in does the same; each test runs against real servers in processes of their own."""

import platform

import pytest

from tests.support.client import BINARY, PING, PONG, TEXT, close_frame, frame, request

GREETING = frame(TEXT, "about to fail")


@pytest.fixture(scope="module", autouse=True)
def noise_before(way_in) -> int:
    """How much the server had printed when the tests of this module began."""
    return len(way_in.output)


def test_a_message_comes_back(way_in):
    with way_in.client().open() as client:
        client.send(frame(TEXT, "Grüße"))
        assert client.read_frame() == (TEXT, "Grüße".encode())
        client.send(frame(BINARY, b"\x00\xff"))
        assert client.read_frame() == (BINARY, b"\x00\xff")
        client.finish()


def test_frames_in_the_segment_of_the_handshake_arrive(way_in):
    early = frame(TEXT, "first") + frame(PING, "p") + frame(BINARY, b"x" * 5000)
    with way_in.client().open(early=early) as client:
        assert client.read_frame() == (TEXT, b"first")
        assert client.read_frame() == (PONG, b"p")
        assert client.read_frame() == (BINARY, b"x" * 5000)
        client.finish()


def test_a_large_message_begun_with_the_handshake_arrives(way_in):
    message = bytes(range(256)) * 2000
    with way_in.client().open(early=frame(BINARY, message, b"\0\0\0\0")) as client:
        assert client.read_frame() == (BINARY, message)
        client.finish()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_our_own_processes_keep_the_memory_of_large_messages(way_in):
    with way_in.client().open("/page-faults") as client:
        faults = int(client.read_frame()[1])
        client.finish()
    if way_in.way in ("cli", "gunicorn-worker"):
        assert faults < 1000
    else:
        assert faults > 2000  # the process belongs to the application


def test_our_own_processes_do_not_collect_what_lives_as_long_as_they(way_in):
    with way_in.client().open("/frozen") as client:
        frozen = int(client.read_frame()[1])
        client.finish()
    assert (frozen > 10_000) == (way_in.way in ("cli", "gunicorn-worker"))


def test_frames_that_come_one_byte_at_a_time_arrive(way_in):
    with way_in.client().open() as client:
        for byte in frame(TEXT, "a byte at a time") + frame(PING, "?") + frame(BINARY, b"y" * 200):
            client.send(bytes((byte,)))
        assert client.read_frame() == (TEXT, b"a byte at a time")
        assert client.read_frame() == (PONG, b"?")
        assert client.read_frame() == (BINARY, b"y" * 200)
        client.finish()


def test_a_hundred_frames_in_one_segment_arrive_in_order(way_in):
    with way_in.client().open() as client:
        client.send(b"".join(frame(TEXT, str(i)) for i in range(100)))
        for i in range(100):
            assert client.read_frame() == (TEXT, str(i).encode())
        client.finish()


def test_the_close_frame_is_answered_and_the_server_closes_first(way_in):
    with way_in.client().open() as client:
        client.send(close_frame(4000, "enough"))
        assert client.read_close() == (4000, "enough")
        assert client.read_to_end() == b""


def test_the_view_closes_with_its_code_and_reason(way_in):
    with way_in.client().open("/close") as client:
        assert client.read_close() == (4001, "not you")
        client.send(close_frame(4001))
        assert client.read_to_end() == b""


def test_a_view_that_returns_closes_with_1000(way_in):
    with way_in.client().open("/leave") as client:
        assert client.read_frame() == (TEXT, b"hello and goodbye")
        assert client.read_close() == (1000, "")
        client.send(close_frame(1000))
        assert client.read_to_end() == b""


def test_a_view_that_touches_nothing_accepts_and_closes(way_in):
    with way_in.client().open("/untouched") as client:
        assert client.read_close() == (1000, "")


def test_a_view_may_be_a_generator(way_in):
    with way_in.client().open("/generator") as client:
        client.send(frame(TEXT, "lazily"))
        assert client.read_frame() == (TEXT, b"lazily")
        client.finish()


def test_a_detached_websocket_stays_open_after_its_view(way_in):
    early = frame(TEXT, "early")
    with way_in.client().open("/detached?unique", early=early) as client:
        way_in.wait_for(r'"GET /detached\?unique HTTP/1.1" 101')  # the request has ended
        assert client.read_frame() == (TEXT, b"early")
        client.send(frame(TEXT, "wait") + frame(TEXT, "x" * 100_000))
        assert client.read_frame() == (TEXT, b"wait")
        assert client.read_frame() == (TEXT, b"x" * 100_000)
        client.send(close_frame(4001))
        assert client.read_close() == (4001, "")
        assert client.read_to_end() == b""
    way_in.wait_for("detached, ended with 4001")


def test_detached_websockets_do_not_share_descriptors_with_others(way_in):
    with way_in.client().open("/detached") as detached:
        for _ in range(20):
            with way_in.client().open() as client:
                client.send(frame(TEXT, "x"))
                assert client.read_frame() == (TEXT, b"x")
                client.finish()
            with way_in.client() as client:
                client.send(request("/plain", without="Upgrade"))
                assert client.read_response() == ("200", b"plain")
        detached.send(frame(TEXT, "still here"))
        assert detached.read_frame() == (TEXT, b"still here")


def test_a_callback_that_fails_closes_with_1011(way_in):
    with way_in.client().open("/detached") as client:
        client.send(frame(TEXT, "fail"))
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))
        assert client.read_to_end() == b""
    way_in.wait_for("(?s)Exception in a callback of /detached.*ZeroDivisionError")


def test_a_protocol_error_closes_with_1002_and_without_a_reset(way_in):
    with way_in.client().open() as client:
        client.send(frame(TEXT, "unmasked", mask=None) + b"z" * 100_000)
        assert client.read_close() == (1002, "a frame without a mask")
        client.sock.shutdown(1)
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", "401", b"Who are you?\n"),
        ("/refuse-in-pieces", "404", b"Nothing here\n"),
        ("/refuse-by-write", "403", b"Go away\n"),
        ("/redirect", "302", b""),
    ],
)
def test_a_view_may_answer_with_http_and_the_connection_ends(way_in, path, status, body):
    with way_in.client() as client:
        # What follows a refused upgrade must not be served: a proxy may think it a WebSocket.
        client.send(request(path) + request("/plain", without="Upgrade"))
        assert client.read_response() == (status, body)
        assert "upgrade" not in client.headers
        assert client.read_to_end() == b""


def test_a_refusal_has_the_headers_of_the_view(way_in):
    with way_in.client() as client:
        client.send(request("/refuse"))
        client.read_response()
        assert client.headers["www-authenticate"] == "Basic"


def test_a_view_that_fails_before_the_upgrade_is_a_500(way_in):
    with way_in.client() as client:
        client.send(request("/crash-early"))
        assert client.read_head() == "500"
    way_in.wait_for("ZeroDivisionError: the view's fault")


@pytest.mark.parametrize("path", ["/crash", "/framework-crash"])
def test_a_view_that_fails_after_the_upgrade_closes_with_1011(way_in, path):
    with way_in.client().open(path) as client:
        assert client.read_frame() == (TEXT, b"about to fail")
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))
        assert client.read_to_end() == b""
    if path == "/crash":  # the other exception is the framework's to log
        way_in.wait_for("Exception in the view of /crash")


def test_the_view_chooses_subprotocol_and_headers(way_in):
    offer = [("Sec-WebSocket-Protocol", "chat.v1, chat.v2")]
    with way_in.client().open("/accept", offer) as client:
        assert client.headers["sec-websocket-protocol"] == "chat.v2"
        assert client.headers["set-cookie"] == "seen=1"
        assert client.read_frame() == (TEXT, b"chat.v2")


def test_the_101_has_nothing_of_a_response_with_a_body(way_in):
    with way_in.client().open() as client:
        assert client.headers["upgrade"].lower() == "websocket"
        assert client.headers["connection"].lower() == "upgrade"
        assert "content-length" not in client.headers
        assert "transfer-encoding" not in client.headers
        client.finish()


def test_firefox_is_welcome(way_in):
    with way_in.client().open(headers=[("Connection", "keep-alive, Upgrade")]) as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()


def test_closed_turns_true_when_the_peer_vanishes_though_nobody_receives(way_in):
    before = way_in.output.count("noticed the end")
    way_in.client().open("/never-receive").vanish()
    with way_in.client().open("/never-receive") as client:
        client.send(frame(TEXT, "unread") + close_frame(1001))
        assert client.read_close() == (1001, "")
    way_in.wait_for(f"(?s)(noticed the end.*){{{before + 2}}}")


def test_the_access_log_has_one_line_with_status_101(way_in):
    with way_in.client().open("/echo?unique") as client:
        client.finish()
    way_in.wait_for(r'"GET /echo\?unique HTTP/1.1" 101')
    assert way_in.output.count("/echo?unique") == 1


def test_another_upgrade_is_left_to_the_application(way_in):
    with way_in.client() as client:
        client.send(request("/plain", [("Upgrade", "something-else")]))
        assert client.read_response() == ("200", b"plain")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"http": "HTTP/1.0"}, r"HTTP/1\.0, .* proxy_http_version 1\.1"),
        ({"without": "Connection"}, "Connection: Upgrade is missing"),
        ({"method": "POST"}, "The request is POST"),
    ],
)
def test_an_upgrade_that_http_ignores_is_left_to_the_application_with_its_body(
    way_in, changes, hint
):
    with way_in.client() as client:
        head = request("/upload", [("Content-Length", "5")], **changes)
        client.send(head + b"hello" + request("/plain", without="Upgrade"))
        assert client.read_response() == ("200", b"5")
        assert client.headers["connection"] == "close"
        assert client.read_to_end() == b""
    way_in.wait_for(rf"Ignored the header Upgrade: websocket of a request from 127\S+: .*{hint}")


def test_plain_requests_keep_the_connection_open(way_in):
    with way_in.client() as client:
        for _ in range(3):
            client.send(request("/plain", [("Connection", "keep-alive")], without="Upgrade"))
            assert client.read_response() == ("200", b"plain")


def test_chunked_responses_and_downloads_are_whole(way_in):
    with way_in.client() as client:
        client.send(request("/chunked", [("Connection", "keep-alive")], without="Upgrade"))
        assert client.read_response() == ("200", b"piece 0\npiece 1\npiece 2\n")
        client.send(request("/download", [("Connection", "close")], without="Upgrade"))
        assert client.read_response() == ("200", bytes(range(256)) * 1000)


def test_a_chunked_upload_is_read(way_in):
    with way_in.client() as client:
        head = request(
            "/upload",
            [("Connection", "close"), ("Transfer-Encoding", "chunked")],
            without="Upgrade",
            method="POST",
        )
        client.send(head + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        assert client.read_response() == ("200", b"11")


def test_nothing_was_logged_but_requests_and_the_views_own_faults(way_in, noise_before):
    noise = way_in.output[noise_before:]
    for word in ("StopIteration", "EBADF", "Bad file descriptor", "Invalid", "invalid", "Warning"):
        assert word not in noise
    tracebacks = noise.count("Traceback")
    assert tracebacks == noise.count("ZeroDivisionError: the view's fault")
