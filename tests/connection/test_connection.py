"""The contract of the WebSocket object, with a real server and client in one process."""

import contextlib
import ctypes
import gc
import inspect
import operator
import random
import ssl
import zlib
from array import array

import gevent
import gevent.select
import gevent.socket
import greenlet
import psutil
import pytest
from gevent.event import AsyncResult, Event
from gevent.exceptions import ConcurrentObjectUseError

from geventws import Broadcast, ConnectionClosed, Deflate, WebSocket, WebSocketError
from tests.support.apps import echo
from tests.support.client import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    are_sent_away,
    close_frame,
    frame,
    request,
)
from tests.support.servers import SECONDS, wait_until

# ------------------------------------------------------------------ receiving


def test_text_is_str_and_binary_is_bytes(run):
    client, result = run(list)
    client.send(frame(TEXT, "é") + frame(BINARY, b"\xff") + frame(TEXT) + frame(BINARY))
    client.finish()
    assert result.get(timeout=SECONDS) == ["é", b"\xff", "", b""]


def test_the_end_is_none_once_and_then_raises(run):
    def view(ws):
        assert ws.receive() is None
        assert ws.closed
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive()
        assert list(ws) == []
        return caught.value

    client, result = run(view)
    client.send(close_frame(3000, "done"))
    error = result.get(timeout=SECONDS)
    assert (error.code, error.reason, error.by_peer) == (3000, "done", True)
    assert str(error) == "connection closed by the peer with code 3000: done"
    assert isinstance(error, WebSocketError)
    assert isinstance(error, OSError)


def test_messages_before_the_close_are_received_before_the_end(run):
    go = Event()

    def view(ws):
        ws.accept()
        go.wait(SECONDS)
        assert ws.closed
        return [ws.receive(), ws.receive(), ws.receive()]

    client, result = run(view)
    client.send(frame(TEXT, "1") + frame(TEXT, "2") + close_frame(1001))
    assert client.read_close() == (1001, "")
    go.set()
    assert result.get(timeout=SECONDS) == ["1", "2", None]


def test_receive_times_out_and_goes_on(run):
    def view(ws):
        for seconds in (0, 0.01):
            with pytest.raises(TimeoutError, match="no message within"):
                ws.receive(timeout=seconds)
        ws.send("still here")
        return ws.receive(timeout=SECONDS)

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"still here")
    client.send(frame(TEXT, "in time"))
    assert result.get(timeout=SECONDS) == "in time"


@pytest.mark.parametrize("wait", ["receive", "receive_json", "wait_closed"])
@pytest.mark.parametrize(
    ("timeout", "problem"), [(float("nan"), ValueError), ("nan", TypeError), ([], TypeError)]
)
def test_a_timeout_that_is_not_a_number_stops_no_timer_and_sends_no_101(
    serve, wait, timeout, problem
):
    def view(environ, start_response):
        with pytest.raises(problem):
            getattr(environ["wsgi.websocket"], wait)(timeout)
        gevent.sleep(0.001)  # ends only if the loop still calls timers
        start_response("403 Forbidden", [])
        return [b""]

    with serve(view).client() as client:
        client.send(request())
        assert client.read_head() == "403"


def test_nothing_is_lost_when_a_gevent_timeout_is_thrown_into_receive(run):
    count = 300

    def view(ws):
        received = []
        while len(received) < count:
            with gevent.Timeout(random.random() / 500, False):
                while len(received) < count:
                    received.append(ws.receive())
        return received

    client, result = run(view)
    for i in range(count):
        client.send(frame(TEXT, str(i)))
        gevent.sleep(0)
    assert result.get(timeout=SECONDS) == [str(i) for i in range(count)]


def test_a_receiver_may_be_killed_and_another_goes_on(run):
    def view(ws):
        ws.accept()
        first = gevent.spawn(ws.receive)
        gevent.sleep(0)
        first.kill()
        ws.send("killed")
        return ws.receive()

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"killed")
    client.send(frame(TEXT, "for the second"))
    assert result.get(timeout=SECONDS) == "for the second"


def test_a_message_that_arrives_while_its_receiver_is_being_killed_stays(run):
    def view(ws):
        ws.accept()
        receiver = gevent.spawn(ws.receive)
        gevent.sleep(0)
        ws.send("ready")
        gevent.select.select([ws._sock], [], [], SECONDS)
        # The message is in the kernel, the hub has not read it: whichever comes first counts.
        receiver.kill()
        return ws.receive() if isinstance(receiver.value, gevent.GreenletExit) else receiver.value

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"ready")
    client.send(frame(TEXT, "precious"))
    assert result.get(timeout=SECONDS) == "precious"


def test_a_stray_switch_into_receive_does_no_harm(run):
    def view(ws):
        ws.accept()
        receiver = gevent.spawn(ws.receive)
        gevent.sleep(0)
        gevent.get_hub().loop.run_callback(receiver.switch, "nonsense")
        gevent.sleep(0.01)
        assert not receiver.dead
        ws.send("go")
        return receiver.get(timeout=SECONDS)

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"go")
    client.send(frame(TEXT, "sense"))
    assert result.get(timeout=SECONDS) == "sense"


def test_two_greenlets_cannot_receive_at_once(run):
    def view(ws):
        ws.accept()
        first = gevent.spawn(ws.receive)
        gevent.sleep(0)
        with pytest.raises(ConcurrentObjectUseError):
            ws.receive()
        ws.send("ready")
        return first.get(timeout=SECONDS)

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"ready")
    client.send(frame(TEXT, "for the first"))
    assert result.get(timeout=SECONDS) == "for the first"


def test_a_peer_that_floods_a_view_that_does_not_receive_is_not_read_from(run):
    go = Event()

    def view(ws):
        ws.accept()
        go.wait(SECONDS)
        return sum(len(message) for message in ws)

    client, result = run(view, max_queued_messages=4)
    before = psutil.Process().memory_info().rss
    client.sock.settimeout(0.2)
    sent = 0
    message = frame(BINARY, bytes(10000), b"\0\0\0\0")
    try:
        while sent < 500 << 20:
            client.send(message)
            sent += 1
    except TimeoutError:
        pass  # the kernel's buffers are full, on both sides
    else:
        raise AssertionError("the server took everything")
    assert psutil.Process().memory_info().rss - before < 100 << 20
    client.sock.settimeout(SECONDS)
    go.set()
    # Where the last frame was cut is unknown; what came before it must be there.
    client.sock.shutdown(1)
    assert result.get(timeout=SECONDS) >= sent * 10000


def test_the_peers_end_is_noticed_even_when_it_is_not_read_from(run):
    def view(ws):
        ws.accept()
        wait_until(lambda: ws.closed, "the end")
        return ws.close_code

    client, result = run(view, max_queued_messages=2)
    client.send(b"".join(frame(TEXT, "unread") for _ in range(100)))
    client.sock.close()
    assert result.get(timeout=SECONDS) == 1006


def test_pings_are_answered_though_nobody_receives(run):
    client, _ = run(lambda ws: (ws.accept(), gevent.sleep(SECONDS)))
    client.send(frame(TEXT, "unread") + frame(PING, "there?"))
    assert client.read_frame() == (PONG, b"there?")


def test_other_greenlets_run_while_one_connection_floods(run):
    turns = []

    def other():
        while True:
            turns.append(1)
            gevent.sleep(0)

    def view(ws):
        ws.receive()
        runner = gevent.spawn(other)
        for _ in range(100):
            ws.receive()
            for _ in range(20_000):
                pass
        runner.kill()
        return len(turns)

    client, result = run(view)
    client.send(b"".join(frame(TEXT, "now") for _ in range(101)))
    assert result.get(timeout=SECONDS) >= 10


# -------------------------------------------------------------------- sending


@pytest.mark.parametrize(
    ("data", "binary", "expected"),
    [
        ("é", None, (TEXT, b"\xc3\xa9")),
        ("é", True, (BINARY, b"\xc3\xa9")),
        ("é", False, (TEXT, b"\xc3\xa9")),
        (b"\xff", None, (BINARY, b"\xff")),
        (b"ok", False, (TEXT, b"ok")),
        (bytearray(b"ab"), None, (BINARY, b"ab")),
        (memoryview(b"abcd")[::2], None, (BINARY, b"ac")),
        (array("B", [1, 2]), None, (BINARY, b"\1\2")),
        (array("B", b"text"), False, (TEXT, b"text")),
        ((ctypes.c_char * 3)(b"a", b"b", b"c"), None, (BINARY, b"abc")),
        ("", None, (TEXT, b"")),
        (b"", None, (BINARY, b"")),
        (b"x" * 70000, None, (BINARY, b"x" * 70000)),
    ],
)
def test_what_is_sent_as_what(run, data, binary, expected):
    client, _ = run(lambda ws: ws.send(data, binary=binary))
    assert client.read_frame() == expected


@pytest.mark.parametrize(("data", "error"), [(None, TypeError), (5, TypeError), ([], TypeError)])
def test_what_is_no_message_is_refused(run, data, error):
    def view(ws):
        with pytest.raises(error, match="str or bytes-like"):
            ws.send(data)
        with pytest.raises(ValueError, match="UTF-8"):
            ws.send(b"\xff", binary=False)
        ws.send("unharmed")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b"unharmed")


def test_what_receive_returns_at_the_end_may_be_sent_back_as_old_loops_do(run):
    def view(ws):
        while not ws.closed:
            message = ws.receive()
            ws.send(message)

    client, result = run(view)
    client.send(frame(TEXT, "echo"))
    assert client.read_frame() == (TEXT, b"echo")
    client.finish()
    with pytest.raises(ConnectionClosed):
        result.get(timeout=SECONDS)


def test_a_loop_until_closed_gets_everything_before_a_close_that_has_overtaken_it(run):
    def view(ws):
        heard = []
        while not ws.closed:
            heard.append(ws.receive())
            gevent.sleep(0.01)
        return heard

    client, result = run(view)
    client.send(b"".join(frame(TEXT, str(i)) for i in range(50)) + close_frame(1000))
    heard = result.get(timeout=SECONDS)
    assert heard[:50] == [str(i) for i in range(50)]
    assert heard[50:] in ([], [None])


def test_closed_is_true_at_once_after_close(run):
    def view(ws):
        assert ws.receive() == "0"
        gevent.sleep(0.01)
        ws.close()
        return ws.closed

    client, result = run(view)
    client.send(b"".join(frame(TEXT, str(i)) for i in range(5)))
    assert client.read_close() == (1000, "")
    client.send(close_frame(1000))
    assert result.get(timeout=SECONDS) is True


def test_a_buffer_may_be_used_again_after_send(run):
    def view(ws):
        buffer = bytearray(b"x" * 1_000_000)
        for letter in b"abc":
            buffer[:] = bytes((letter,)) * len(buffer)
            ws.send(buffer)
        buffer[:] = bytes(len(buffer))

    client, _ = run(view)
    for letter in (b"a", b"b", b"c"):
        assert client.read_frame() == (BINARY, letter * 1_000_000)


def size_of(letter, i):
    return 1 + (letter * 7919 + i * 104_729) % 30_000


def test_fifty_senders_and_a_slow_reader_tear_no_frame(run):
    def view(ws):
        ws.accept()

        def sender(letter):
            for i in range(20):
                ws.send(bytes((letter,)) * size_of(letter, i))

        gevent.joinall([gevent.spawn(sender, letter) for letter in range(50)], raise_error=True)

    client, result = run(view, max_send_buffer=65536)
    counts = dict.fromkeys(range(50), 0)
    for _ in range(1000):
        gevent.sleep(0)
        first, payload = client.read_frame()
        letter = payload[0]
        assert first == BINARY
        assert payload == bytes((letter,)) * size_of(letter, counts[letter])
        counts[letter] += 1
    result.get(timeout=SECONDS)
    assert client.read_close() == (1000, "")


def test_send_blocks_while_the_peer_does_not_read_and_others_run(run):
    progress = []

    def view(ws):
        for i in range(400):
            ws.send(bytes(100_000))
            progress.append(i)
        return len(progress)

    client, result = run(view, max_send_buffer=1 << 20)
    stuck = -1
    while len(progress) != stuck or not progress:
        stuck = len(progress)
        gevent.sleep(0.1)
    assert stuck < 400
    for _ in range(400):
        assert client.read_frame() == (BINARY, bytes(100_000))
    assert result.get(timeout=SECONDS) == 400


def test_a_peer_that_never_reads_is_dropped_after_send_timeout(run):
    def view(ws):
        try:
            while True:
                ws.send(bytes(1_000_000))
        except ConnectionClosed as error:
            return error.code, ws.closed

    client, result = run(view, send_timeout=0.2)
    assert result.get(timeout=SECONDS) == (1011, True)
    with pytest.raises(ConnectionResetError):
        client.read_to_end()


def test_send_after_the_end_raises(run):
    def view(ws):
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("too late")
        return caught.value.code

    client, result = run(view)
    client.send(close_frame(1001))
    assert result.get(timeout=SECONDS) == 1001


def test_messages_sent_in_a_batch_keep_their_order(run):
    def view(ws):
        for message in ws:
            ws.send(message)
            ws.send(message * 2)

    client, _ = run(view)
    client.send(b"".join(frame(TEXT, f"{i} ") + frame(PING, str(i)) for i in range(500)))
    texts, pongs = [], []
    while len(texts) < 1000 or len(pongs) < 500:
        first, payload = client.read_frame()
        (texts if first == TEXT else pongs).append(payload.decode())
    assert texts == [f"{i} " * n for i in range(500) for n in (1, 2)]
    assert pongs == [str(i) for i in range(500)]


def test_a_pong_goes_before_the_answer_to_the_message_behind_its_ping(run):
    def view(ws):
        for message in ws:
            ws.send(message)

    client, _ = run(view)
    client.send(frame(0x01, "a") + frame(PING, "p") + frame(0x80, "b"))
    assert client.read_frame() == (PONG, b"p")
    assert client.read_frame() == (TEXT, b"ab")


def test_a_large_message_makes_the_round_trip(run):
    message = random.Random(1).randbytes(16 << 20)

    def view(ws):
        for received in ws:
            ws.send(received)

    client, _ = run(view, max_message_size=16 << 20)
    sender = gevent.spawn(client.send, frame(BINARY, message, b"\0\0\0\0"))
    assert client.read_frame() == (BINARY, message)
    sender.get(timeout=SECONDS)


# ------------------------------------------------------------- ping and close


def test_the_pong_tells_the_latency(run):
    def view(ws):
        assert ws.latency is None
        ws.ping("tag")
        ws.receive()
        return ws.latency

    client, result = run(view)
    assert client.read_frame() == (PING, b"tag")
    client.send(frame(PONG, "another") + frame(PONG, "tag") + frame(TEXT, "done"))
    assert 0 < result.get(timeout=SECONDS) < SECONDS


def test_a_silent_peer_is_pinged_and_its_pong_tells_the_latency(run):
    def view(ws):
        ws.receive()
        return ws.latency

    client, result = run(view, ping_interval=0.25, ping_timeout=SECONDS)
    first, payload = client.read_frame()
    assert first == PING
    client.send(frame(PONG, payload) + frame(TEXT, "done"))
    assert 0 < result.get(timeout=SECONDS) < SECONDS


def test_a_peer_that_answers_pings_is_pinged_at_every_interval_however_long_it_may_take(run):
    client, _ = run(list, ping_interval=0.25, ping_timeout=4 * SECONDS)
    for _ in range(3):
        first, payload = client.read_frame()
        assert first == PING
        client.send(frame(PONG, payload))
    client.finish()


def test_a_peer_that_does_not_answer_is_given_up(run, caplog):
    caplog.set_level("INFO", "geventws")

    def view(ws):
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive()
        return str(caught.value)

    client, result = run(view, ping_interval=0.25, ping_timeout=0.25)
    assert client.read_frame()[0] == PING
    assert result.get(timeout=SECONDS) == (
        "connection closed by this side with code 1011: keepalive ping timeout"
    )
    with contextlib.suppress(ConnectionResetError):
        assert client.read_to_end() == b""
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"127.0.0.1 did not answer a ping within 0.25 seconds [{record.connection_id}]"
    )


def test_a_peer_that_answers_every_ping_stays(run):
    client, _ = run(list, ping_interval=0.25, ping_timeout=0.25)
    for _ in range(3):
        first, payload = client.read_frame()
        assert first == PING
        client.send(frame(PONG, payload))
    client.finish()


def test_traffic_is_a_sign_of_life_and_spares_the_ping(run):
    def view(ws):
        for message in ws:
            ws.send(message)

    client, _ = run(view, ping_interval=0.25, ping_timeout=0.25)
    for i in range(20):
        client.send(frame(TEXT, str(i)))
        assert client.read_frame() == (TEXT, str(i).encode())
        gevent.sleep(0.05)  # the clock is what this is about
    client.finish()


def test_without_an_interval_nobody_is_pinged(run):
    client, _ = run(list, ping_interval=None)
    client.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        client.read_frame()


def test_what_a_peer_has_sent_before_its_end_is_received_though_it_was_not_read_from(run):
    go = Event()

    def view(ws):
        ws.accept()
        wait_until(lambda: ws.closed, "the end")
        go.set()
        return list(ws)

    client, result = run(view, max_queued_messages=2)
    client.send(b"".join(frame(TEXT, str(i)) for i in range(100)))
    client.sock.close()
    assert go.wait(SECONDS)
    assert result.get(timeout=SECONDS) == [str(i) for i in range(100)]


@pytest.mark.parametrize(
    ("end", "code"), [(close_frame(4000), 4000), (b"", 1006)], ids=["Close frame", "none"]
)
def test_what_a_peer_has_sent_before_its_reset_is_received_though_a_send_fails(run, end, code):
    go = Event()

    def view(ws):
        ws.accept()
        go.wait()
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("into the void")
        assert (caught.value.code, caught.value.by_peer) == (1006, True)
        with pytest.raises(ConnectionClosed):
            ws.send("again")
        return list(ws), ws.close_code

    client, result = run(view)
    client.send(frame(TEXT, "a") + frame(TEXT, "b") + end)
    client.vanish()
    go.set()  # the view runs before the loop sees what has arrived
    assert result.get(timeout=SECONDS) == (["a", "b"], code)


def test_what_a_full_queue_keeps_back_is_received_though_a_blocked_send_fails(run):
    def view(ws):
        ws.accept()
        sender = gevent.spawn(ws.send, bytes(8 << 20))
        assert ws.wait_closed(SECONDS)
        with pytest.raises(ConnectionClosed):
            sender.get(timeout=SECONDS)
        return list(ws)

    client, result = run(view, max_queued_messages=2)
    client.send(b"".join(frame(TEXT, str(i)) for i in range(100)))
    client.read(1)  # the server sends, and has read: its queue is full
    client.vanish()
    assert result.get(timeout=SECONDS) == [str(i) for i in range(100)]


def test_nothing_more_is_sent_to_a_lost_peer_while_a_full_queue_waits_for_the_view(run):
    broadcast = Broadcast()

    def view(ws):
        broadcast.subscribe("news", ws)
        for send in (lambda: ws.send(bytes(8 << 20)), ws.ping):
            with pytest.raises(ConnectionClosed) as caught:
                send()
            assert (caught.value.code, caught.value.by_peer) == (1006, True)
        broadcast.publish("news", "late")
        assert broadcast.subscribers("news") == 0
        return list(ws), ws.close_code

    client, result = run(view, max_queued_messages=2)
    messages = [str(i) for i in range(100)]
    client.send(b"".join(frame(TEXT, each) for each in messages) + close_frame(4000))
    client.read(1)  # the server sends, and has read: its queue is full
    client.vanish()
    assert result.get(timeout=SECONDS) == (messages, 4000)


def test_what_came_before_a_truncation_of_tls_is_received_though_no_pong_can_be_sent(serve, tls):
    result = AsyncResult()

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        result.set((list(ws), ws.close_code))
        return []

    server = serve(application, certfile=tls[0], keyfile=tls[1])
    with server.client(context=tls[2]).open() as client:
        client.send(frame(PING) + frame(TEXT, "a") + frame(TEXT, "b") + close_frame(4000))
        client.sock._sock.shutdown(gevent.socket.SHUT_WR)  # without a close_notify
        assert result.get(timeout=SECONDS) == (["a", "b"], 4000)


def test_a_ping_has_at_most_125_bytes(run):
    def view(ws):
        with pytest.raises(ValueError, match="125"):
            ws.ping(bytes(126))
        ws.ping(bytes(125))

    client, _ = run(view)
    assert client.read_frame() == (PING, bytes(125))


def test_close_from_another_greenlet_wakes_the_receiver(run):
    def view(ws):
        ws.accept()
        gevent.spawn(ws.close, 4000, "by another")
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive()
        return caught.value

    client, result = run(view)
    assert client.read_close() == (4000, "by another")
    client.send(close_frame(4000))
    assert client.read_to_end() == b""
    error = result.get(timeout=SECONDS)
    assert (error.code, error.reason, error.by_peer) == (4000, "by another", False)


def test_close_wakes_blocked_senders(run):
    def view(ws):
        ws.accept()

        def sender():
            while True:
                ws.send(bytes(1_000_000))

        senders = [gevent.spawn(sender) for _ in range(3)]
        wait_until(lambda: ws._buffered.unsent >= 65536, "back pressure")
        ws.close(1001)
        gevent.joinall(senders, timeout=SECONDS)
        return [type(each.exception) for each in senders]

    client, result = run(view, max_send_buffer=65536, close_timeout=0.1)
    assert result.get(timeout=SECONDS) == [ConnectionClosed] * 3
    del client


def test_close_is_idempotent_and_the_first_code_counts(run):
    def view(ws):
        ws.close(3001, "first")
        ws.close(3002, "second")
        ws.close(1000)
        return ws.close_code, ws.close_reason, ws.closed

    client, result = run(view)
    assert client.read_close() == (3001, "first")
    client.send(close_frame(3001))
    assert client.read_to_end() == b""
    assert result.get(timeout=SECONDS) == (3001, "first", True)


def test_a_wrong_code_or_reason_is_an_error_and_nothing_happens(run):
    def view(ws):
        for code, reason in ((1005, ""), (999, ""), (1000, "x" * 124)):
            with pytest.raises(ValueError, match=r"carry|at most"):
                ws.close(code, reason)
        ws.send("still open")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b"still open")


def test_close_waits_for_the_peer_at_most_close_timeout(run):
    client, result = run(lambda ws: ws.close(), close_timeout=0.05)
    result.get(timeout=SECONDS)
    assert client.read_close() == (1000, "")
    assert client.read_to_end() == b""


def test_close_in_the_middle_of_a_batch_discards_the_rest(run):
    def view(ws):
        assert ws.receive() == "first"
        ws.send("answer")
        ws.close(4000)
        return list(ws)

    client, result = run(view)
    client.send(b"".join(frame(TEXT, word) for word in ("first", "second", "third")))
    assert client.read_frame() == (TEXT, b"answer")
    assert client.read_close() == (4000, "")
    client.send(close_frame(4000))
    assert client.read_to_end() == b""
    assert result.get(timeout=SECONDS) == []


def test_a_server_that_closes_a_flooding_client_does_not_reset_it(run):
    client, result = run(list, max_message_size=1000)
    client.send(frame(BINARY, bytes(5000)) + bytes(3_000_000))
    assert client.read_close() == (1009, "a message of more than 1000 bytes")
    client.sock.shutdown(1)
    assert client.read_to_end() == b""
    assert result.get(timeout=SECONDS) == []


# ------------------------------------------------------------------ handshake


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.accept(),
        lambda ws: ws.ping(),
        lambda ws: ws.send("x"),
        lambda ws: gevent.spawn(ws.receive),
        lambda ws: gevent.spawn(next, iter(ws)),
    ],
    ids=["accept", "ping", "send", "receive", "iteration"],
)
def test_the_first_use_sends_the_101(run, use):
    client, _ = run(lambda ws: (use(ws), gevent.sleep(0.01)))
    assert client.headers["upgrade"] == "websocket"


def test_a_debugger_that_reads_every_attribute_has_no_effect(serve):
    seen = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        seen.append(dict(inspect.getmembers(ws)))
        assert (ws.closed, ws.accepted) == (False, False)
        start_response("401 Unauthorized", [("Content-Length", "0")])
        seen.append(dict(inspect.getmembers(ws)))
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response() == ("401", b"")
    assert [members["accepted"] for members in seen] == [False, False]


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.send({"a": 1}),
        lambda ws: ws.send(b"\xff", binary=False),
        lambda ws: ws.close("1000"),
        lambda ws: ws.close(5000),
        lambda ws: ws.ping(b"x" * 126),
        lambda ws: ws.accept(headers={"a b": "c"}),
    ],
    ids=["send a dict", "send no text", "close text", "close 5000", "ping", "accept"],
)
def test_a_wrong_argument_does_not_send_the_101(serve, use):
    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        with pytest.raises((TypeError, ValueError)):
            use(ws)
        assert not ws.accepted
        start_response("401 Unauthorized", [("Content-Length", "0")])
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response() == ("401", b"")


def test_headers_of_the_101_may_be_a_mapping(run):
    client, _ = run(lambda ws: ws.accept(headers={"X-Room": "blue"}))
    assert client.headers["x-room"] == "blue"


def test_a_view_that_only_polls_closed_is_accepted_automatically(run, caplog):
    def view(ws):
        while not ws.closed:
            gevent.sleep(0.01)
        return ws.close_code

    client, result = run(view, accept_after=0.25)
    client.send(close_frame(1001))
    assert result.get(timeout=SECONDS) == 1001
    assert "neither accepted nor refused" in caplog.text


def test_attributes_that_tell_of_the_request_do_not_accept_it(serve):
    seen = AsyncResult()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        seen.set(
            (
                ws.path,
                ws.origin,
                ws.version,
                ws.requested_subprotocols,
                ws.subprotocol,
                ws.remote_address[0],
                ws.environ is environ,
                ws.close_code,
                ws.close_reason,
                ws.latency,
                repr(ws),
                bool(ws),
                environ["wsgi.websocket_version"],
            )
        )
        start_response("404 Not Found", [("Content-Length", "0")])
        return []

    client = serve(app).client()
    client.send(
        b"GET /a%20b?c HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Origin: http://h\r\nSec-WebSocket-Protocol: x, y\r\n\r\n"
    )
    assert client.read_head() == "404"
    assert seen.get(timeout=SECONDS) == (
        "/a b",
        "http://h",
        "13",
        ["x", "y"],
        None,
        "127.0.0.1",
        True,
        None,
        "",
        None,
        "<WebSocket /a b not accepted yet>",
        True,
        "13",
    )
    client.sock.close()


def test_the_server_chooses_a_subprotocol_by_its_own_order(run):
    offer = [("Sec-WebSocket-Protocol", "a, b, c")]
    client, result = run(
        lambda ws: (ws.accept(), ws.subprotocol)[1],
        headers=offer,
        subprotocols=["z", "c", "b"],
    )
    assert client.headers["sec-websocket-protocol"] == "c"
    assert result.get(timeout=SECONDS) == "c"


def test_accept_twice_is_an_error(run):
    def view(ws):
        ws.accept()
        with pytest.raises(WebSocketError, match="accepted already"):
            ws.accept()

    _, result = run(view)
    result.get(timeout=SECONDS)


def test_a_websocket_is_of_no_use_after_an_http_answer(serve):
    kept = AsyncResult()

    def app(environ, start_response):
        kept.set(environ["wsgi.websocket"])
        start_response("401 Unauthorized", [("Content-Length", "0")])
        return []

    client = serve(app).client()
    client.send(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert client.read_head() == "401"
    with pytest.raises(WebSocketError, match="answered already: 401"):
        kept.get(timeout=SECONDS).send("x")
    client.sock.close()


# ---------------------------------------------------------------- around it


def test_an_exception_in_a_view_is_logged_with_its_traceback(run, caplog):
    def view(ws):
        ws.accept()
        raise ZeroDivisionError("a bug")

    client, _ = run(view, "/path")
    assert client.read_close() == (1011, "")
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == f"Exception in the view of /path [{record.connection_id}]"
    assert record.exc_info[0] is ZeroDivisionError


def test_a_connection_closed_that_escapes_is_a_normal_end(run, caplog):
    def view(ws):
        ws.receive()
        ws.send("too late")

    client, result = run(view)
    client.finish()
    with pytest.raises(ConnectionClosed):
        result.get(timeout=SECONDS)
    assert caplog.records == []


def test_a_client_that_leaves_before_the_first_use_is_a_normal_end(serve, caplog, capfd):
    asked, gone, ended = Event(), Event(), Event()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        asked.set()
        gone.wait(SECONDS)
        # A RST is in the kernel, but a first write may still be taken by it.
        wait_until(lambda: not psutil_connections(environ))
        try:
            return list(ws)
        finally:
            ended.set()

    client = serve(app).client()
    client.send(request("/"))
    assert asked.wait(SECONDS)
    client.vanish()
    gone.set()
    assert ended.wait(SECONDS)
    gevent.sleep(0.01)
    assert caplog.records == []
    assert "Traceback" not in capfd.readouterr().err


def psutil_connections(environ):
    port = int(environ["REMOTE_PORT"])
    return [
        each
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port
    ]


def test_a_peers_fault_is_one_line_without_a_traceback(run, caplog):
    caplog.set_level("INFO", "geventws")
    client, result = run(list)
    client.send(frame(0x83))
    assert client.read_close()[0] == 1002
    client.sock.close()
    assert result.get(timeout=SECONDS) == []
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == (
        "127.0.0.1 broke the protocol: the reserved opcode 0x3; closed with 1002"
        f" [{record.connection_id}]"
    )
    assert record.exc_info is None


def test_five_hundred_clients_that_vanish_leave_nothing(serve):
    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        for message in ws:
            ws.send(message)
        return []

    def census():
        gc.collect()
        return [
            sum(issubclass(type(each), kind) for each in gc.get_objects())
            for kind in (WebSocket, greenlet.greenlet)
        ] + [psutil.Process().num_fds()]

    server = serve(app)
    with server.client().open() as client:
        client.finish()
    wait_until(lambda: not server.websockets)
    before = census()
    for _ in range(5):
        clients = [server.client().open() for _ in range(100)]
        for i, client in enumerate(clients):
            if i % 2:
                client.send(frame(TEXT, "x") + frame(0x01, "begun"))
            client.vanish()
        del client, clients
    wait_until(lambda: not server.websockets, "the end of all views")
    # Less is possible: another test's greenlets have ended meanwhile.
    wait_until(lambda: all(map(operator.le, census(), before)), f"not more than before, {before}")


def test_it_works_over_tls(serve, tls):
    certificate, key, context = tls

    def app(environ, start_response):
        assert environ["wsgi.url_scheme"] == "https"
        ws = environ["wsgi.websocket"]
        for message in ws:
            ws.send(message)
        return []

    server = serve(app, certfile=certificate, keyfile=key)
    with server.client(context=context) as client:
        client.open(early=frame(TEXT, "early") + frame(BINARY, bytes(20_000), b"\0\0\0\0"))
        assert client.read_frame() == (TEXT, b"early")
        assert client.read_frame() == (BINARY, bytes(20_000))
        message = random.Random(2).randbytes(1 << 20)
        sender = gevent.spawn(client.send, frame(BINARY, message, b"\0\0\0\0"))
        assert client.read_frame() == (BINARY, message)
        sender.get(timeout=SECONDS)
        client.send(b"".join(frame(TEXT, str(i)) for i in range(5000)))
        for i in range(5000):
            assert client.read_frame() == (TEXT, str(i).encode())
        client.finish()


def test_it_works_over_a_unix_socket(serve, tmp_path):
    listener = gevent.socket.socket(gevent.socket.AF_UNIX)
    path = str(tmp_path / "socket")
    listener.bind(path)
    listener.listen()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        assert ws.remote_address is None
        for message in ws:
            ws.send(message)
        return []

    from geventws import WebSocketServer

    server = WebSocketServer(listener, app, log=None)
    server.start()
    try:
        with RawClient(path).open() as client:
            client.send(frame(TEXT, "local"))
            assert client.read_frame() == (TEXT, b"local")
            client.finish()
    finally:
        server.stop()


def test_stop_closes_every_websocket_with_1001(serve):
    def app(environ, start_response):
        for _ in environ["wsgi.websocket"]:
            pass
        return []

    server = serve(app)
    clients = [server.client().open() for _ in range(20)]
    stopping = gevent.spawn(server.stop, SECONDS)
    are_sent_away(clients)
    stopping.get(timeout=SECONDS)
    assert not server.websockets


def test_stop_drops_those_that_do_not_answer(serve):
    def app(environ, start_response):
        for _ in environ["wsgi.websocket"]:
            pass
        return []

    server = serve(app)
    client = server.client().open()
    server.stop(0.1)
    assert client.read_frame() == (CLOSE, b"\x03\xe9")
    assert client.read_to_end() == b""
    client.sock.close()


def test_a_client_that_goes_before_it_is_accepted_is_no_error(serve, caplog, capfd):
    entered, gone = Event(), Event()

    def app(environ, start_response):
        entered.set()
        assert gone.wait(SECONDS)
        return []

    server = serve(app)
    client = server.client()
    client.send(request())
    assert entered.wait(SECONDS)
    client.vanish()
    gone.set()
    wait_until(lambda: not server.websockets, "the end of the view")
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_a_misspelt_option_is_refused(serve):
    with pytest.raises(TypeError, match="max_mesage_size"):
        serve(lambda environ, start_response: [], max_mesage_size=5)


# ---------------------------------------------------------------- compression

OFFER = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def inflate(payload):
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def test_messages_are_compressed_both_ways_if_the_client_offers_it(run):
    def view(ws):
        heard = ws.receive()
        ws.send("long " * 100)
        return heard, ws.extensions

    client, result = run(view, headers=OFFER)
    assert client.headers["sec-websocket-extensions"] == AGREED
    client.send(frame(0xC1, b"\xf2\x48\xcd\xc9\xc9\x07\x00"))
    first, payload = client.read_frame()
    assert (first, inflate(payload)) == (0xC1, b"long " * 100)
    assert result.get(timeout=SECONDS) == ("Hello", AGREED)


@pytest.mark.parametrize("data", ["long " * 5000, b"long " * 5000])
def test_a_view_may_send_a_message_as_it_is(run, data):
    client, _ = run(lambda ws: ws.send(data, compress=False), headers=OFFER)
    assert client.read_frame()[0] in {TEXT, BINARY}


@pytest.mark.parametrize(
    ("view", "options"),
    [
        (lambda ws: ws.send("long " * 100), {"compression": False}),
        (lambda ws: (ws.accept(compression=False), ws.send("long " * 100)), {}),
    ],
)
def test_compression_is_declined_for_a_server_or_a_connection(run, view, options):
    client, _ = run(view, headers=OFFER, **options)
    assert "sec-websocket-extensions" not in client.headers
    assert client.read_frame()[0] == TEXT


def test_a_compressed_bomb_closes_with_1009(run):
    client, result = run(list, headers=OFFER)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(bytes(100 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    client.send(frame(0xC2, bomb[:-4]))
    assert client.read_close()[0] == 1009
    assert result.get(timeout=SECONDS) == []


def test_with_context_takeover_messages_refer_to_earlier_ones(run):
    deflate = Deflate(server_context_takeover=True, min_size=0)
    message = "".join(map(chr, range(65, 123))) * 2
    client, _ = run(
        lambda ws: [ws.send(message) for _ in range(3)],
        headers=OFFER,
        compression=deflate,
    )
    decompressor = zlib.decompressobj(-15)
    sizes = []
    for _ in range(3):
        payload = client.read_frame()[1]
        sizes.append(len(payload))
        assert decompressor.decompress(payload + b"\x00\x00\xff\xff").decode() == message
    assert sizes[1] < sizes[0] / 3


def test_an_extension_header_that_is_malformed_is_a_400(serve):
    client = serve(lambda environ, start_response: []).client()
    client.send(request(headers=[("Sec-WebSocket-Extensions", "permessage-deflate; =")]))
    status, body = client.read_response()
    assert status == "400"
    assert b"Sec-WebSocket-Extensions" in body
    client.sock.close()


def test_accepted_tells_without_sending_the_101(serve):
    seen = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        seen.append(ws.accepted)
        ws.send("x")
        seen.append(ws.accepted)
        return []

    with serve(application).client().open() as client:
        assert client.read_frame() == (TEXT, b"x")
        client.read_close()
    assert seen == [False, True]


@pytest.mark.parametrize(
    "frames",
    [
        # 64 KiB are read at once.
        pytest.param(
            [frame(PING)] * 200 + [frame(BINARY, b"b" * (65536 - 200 * 6 - 14))],
            id="an interrupted flood",
        ),
        pytest.param(
            [frame(BINARY, b"a" * (65536 - 111)), frame(BINARY, b"b" * 1000)],
            id="a part of a header",
        ),
    ],
)
def test_what_openssl_holds_back_is_read_after_what_was_read_before(serve, tls, frames):
    certificate, key, context = tls
    server = serve(echo, certfile=certificate, keyfile=key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    sock = gevent.socket.create_connection(("127.0.0.1", server.server_port), timeout=SECONDS)
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")

    def read_with(function, *arguments):
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))

    read_with(client.do_handshake)
    client.write(request("/"))
    assert read_with(client.read).startswith(b"HTTP/1.1 101")
    # A small record and larger ones, in one segment: more than is read at once.
    client.write(frame(BINARY, b"a" * 94))
    data = memoryview(b"".join(frames))
    while data:
        data = data[client.write(data) :]
    sock.sendall(outgoing.read())
    received = b""
    while b"b" * 1000 not in received:
        received += read_with(client.read)
    sock.close()
