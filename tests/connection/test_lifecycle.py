"""Every way to the end of a connection, and the transition table that they follow."""

import contextlib
import os
import socket
import struct
import warnings

import gevent
import gevent.ssl
import pytest
from gevent.event import Event as Happened

import geventws
from geventws import ConnectionClosed
from geventws.connection.lifecycle import TCP, End
from geventws.connection.tcp import bytes_sent
from geventws.protocol.endpoint import Endpoint
from geventws.protocol.frames import CloseCode
from geventws.protocol.state import TRANSITIONS, Event, State
from tests.support.client import CLOSE, TEXT, close_frame, frame, request
from tests.support.servers import SECONDS, wait_until

# ------------------------------------------------------------------------------- the table

STEPS = {
    Event.ACCEPT: lambda endpoint: endpoint.open(1000, None),
    Event.REFUSE: lambda endpoint: endpoint.refuse(),
    Event.SEND_CLOSE: lambda endpoint: endpoint.close(4000),
    Event.RECEIVE_CLOSE: lambda endpoint: receive(endpoint, close_frame(4001)),
    Event.FAIL: lambda endpoint: receive(endpoint, b"\x81\x00"),
    Event.END_TRANSPORT: lambda endpoint: endpoint.end_transport(),
}
#: Events that lead to each state.
WAYS = {
    State.PENDING: [],
    State.OPEN: [Event.ACCEPT],
    State.CLOSING: [Event.ACCEPT, Event.SEND_CLOSE],
    State.DRAINING: [Event.ACCEPT, Event.RECEIVE_CLOSE],
    State.CLOSED: [Event.ACCEPT, Event.END_TRANSPORT],
}


def receive(endpoint, data):
    endpoint.receive_data(data)
    assert endpoint.next_message() is None


def endpoint_in(state):
    endpoint = Endpoint()
    for event in WAYS[state]:
        STEPS[event](endpoint)
    assert endpoint.state is state
    return endpoint


@pytest.mark.parametrize(
    ("state", "event"), [(state, event) for state in State for event in TRANSITIONS[state]]
)
def test_every_row_of_the_table_is_taken(state, event):
    endpoint = endpoint_in(state)
    STEPS[event](endpoint)
    assert endpoint.state is TRANSITIONS[state][event]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (state, event)
        for state in State
        for event in Event
        if event not in TRANSITIONS[state] and event is not Event.ACCEPT
    ],
)
def test_an_event_that_a_state_does_not_allow_changes_nothing(state, event):
    endpoint = endpoint_in(state)
    STEPS[event](endpoint)
    assert endpoint.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.PENDING])
def test_a_connection_opens_only_once(state):
    with pytest.raises(AssertionError, match=f"ACCEPT in the state {state.name}"):
        endpoint_in(state).open(1000, None)


def test_a_connection_only_moves_forward():
    for state, row in TRANSITIONS.items():
        assert all(following > state for following in row.values())


# -------------------------------------------------------------------------- with a server


@pytest.fixture
def ended(serve):
    """Serve a view, let a client do something, and return the WebSocket after its end."""

    def run(view, client_does, **options):
        seen = []

        def application(environ, start_response):
            ws = environ["wsgi.websocket"]
            seen.append(ws)
            ws.accept()
            return view(ws) or []

        server = serve(application, **options)
        with server.client().open() as client:
            with contextlib.suppress(OSError):
                client_does(client)
            wait_until(lambda: not server.websockets)
        (ws,) = seen
        assert ws._endpoint.state is State.CLOSED
        return ws

    return run


def until_closed(ws):
    assert all(message is not None for message in ws)


def test_by_the_peers_close_frame(ended):
    ws = ended(until_closed, lambda client: client.send(close_frame(4001, "bye")))
    assert (ws.close_code, ws.close_reason) == (4001, "bye")
    assert ws._endpoint.closed_by_peer


def test_by_our_close_frame(ended):
    def answer(client):
        assert client.read_close() == (4002, "done")
        client.send(close_frame(4002))

    ws = ended(lambda ws: ws.close(4002, "done"), answer)
    assert (ws.close_code, ws._endpoint.closed_by_peer) == (4002, False)


def test_by_the_end_of_the_view(ended):
    def answer(client):
        assert client.read_close() == (1000, "")
        client.send(close_frame(1000))

    assert ended(lambda ws: None, answer).close_code == CloseCode.NORMAL_CLOSURE


def test_by_a_fault_of_the_peer(ended):
    def break_the_protocol(client):
        client.send(b"\x81\x00")  # without a mask
        assert client.read_close()[0] == 1002
        client.sock.close()  # the server discards input until then

    ws = ended(until_closed, break_the_protocol)
    assert ws.close_code == CloseCode.PROTOCOL_ERROR


def test_by_a_fault_of_the_view(ended, caplog):
    def view(ws):
        raise ZeroDivisionError

    def answer(client):
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))

    assert ended(view, answer).close_code == CloseCode.INTERNAL_ERROR


def test_by_the_loss_of_tcp(ended):
    def reset(client):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()

    ws = ended(until_closed, reset)
    assert (ws.close_code, ws._endpoint.closed_by_peer) == (1006, True)


def test_by_the_end_of_the_peers_side_of_tcp(ended):
    ws = ended(until_closed, lambda client: client.sock.shutdown(socket.SHUT_WR))
    assert (ws.close_code, ws._endpoint.closed_by_peer) == (1006, True)


def test_by_a_deadline(ended):
    def be_silent(client):
        with contextlib.suppress(OSError, EOFError):
            while client.read_frame()[0] != CLOSE:
                pass

    ws = ended(until_closed, be_silent, ping_interval=0.25, ping_timeout=0.25)
    assert ws.close_code == CloseCode.INTERNAL_ERROR


def test_by_an_answer_to_our_close_that_does_not_come(ended):
    ws = ended(lambda ws: ws.close(4003), lambda client: gevent.sleep(0.5), close_timeout=0.25)
    assert ws.close_code == 4003


def test_by_a_drain(serve):
    opened = Happened()
    seen = []

    def application(environ, start_response):
        seen.append(environ["wsgi.websocket"])
        seen[0].accept()
        opened.set()
        until_closed(seen[0])
        return []

    server = serve(application)
    with server.client().open() as client:
        assert opened.wait(SECONDS)
        stopping = gevent.spawn(server.stop)
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        stopping.get(timeout=SECONDS)
    assert (seen[0].close_code, seen[0]._endpoint.state) == (1001, State.CLOSED)


def test_by_the_kill_of_the_view(ended):
    def view(ws):
        gevent.spawn(gevent.getcurrent().kill)
        ws.receive()

    assert ended(view, lambda client: client.read_close()).close_code == CloseCode.GOING_AWAY


def test_by_an_exception_in_the_hub(ended, monkeypatch):
    def fail(self):
        raise ZeroDivisionError

    monkeypatch.setattr("geventws.connection.connection.Connection._input_parsed", fail)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *arguments: None)
    ws = ended(until_closed, lambda client: client.send(frame(0x89, "ping")))
    assert ws.close_code == CloseCode.ABNORMAL_CLOSURE


def test_by_another_owner_of_the_descriptor(ended):
    def view(ws):
        ws._transport_ended(End.DESCRIPTOR)
        assert ws._sock.fileno() == -1

    assert ended(view, lambda client: None).close_code == CloseCode.ABNORMAL_CLOSURE


def test_by_a_fork(serve):
    """The child's connection is closed; the parent's goes on."""
    opened = Happened()
    seen = []

    def application(environ, start_response):
        seen.append(environ["wsgi.websocket"])
        for message in seen[0]:
            opened.set()
            seen[0].send(message)
        return []

    server = serve(application)
    with server.client().open() as client:
        client.send(frame(0x81, "before"))
        assert client.read_frame() == (0x81, b"before")
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
            child = os.fork()
        if not child:
            os.write(writing, seen[0]._endpoint.state.name.encode())
            os._exit(0)
        assert os.read(reading, 100) == b"CLOSED"
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        client.send(frame(0x81, "after"))
        assert client.read_frame() == (0x81, b"after")


def test_every_reason_says_what_becomes_of_tcp():
    assert {end.tcp for end in End} == set(TCP)


def test_closed_stays_false_while_the_kernel_holds_messages_of_a_peer_that_hung_up(run):
    count = 60

    def view(ws):
        ws.accept()
        got = [ws.receive()]
        wait_until(lambda: ws._hung_up)
        while not ws.closed:
            got.append(ws.receive())
        return len([message for message in got if message is not None])

    client, result = run(view)
    for _ in range(count):
        client.send(frame(TEXT, "x" * 1700, b"\0\0\0\0"))
    client.sock.shutdown(1)
    assert result.get(timeout=10) == count


def test_a_descriptor_that_was_closed_while_reading_was_paused_ends_the_connection(run):
    def view(ws):
        ws.accept()
        wait_until(lambda: ws._paused)
        ws._raw.close()
        return len([message for message in ws if message]), ws.closed, ws.close_code

    client, result = run(view)
    for _ in range(64):
        client.send(frame(TEXT, "x" * 3000, b"\0\0\0\0"))
    received, closed, code = result.get(timeout=10)
    assert received >= 21
    assert (closed, code) == (True, 1006)


def test_a_client_that_left_before_the_automatic_101_is_the_one_who_closed(serve):
    seen = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        wait_until(lambda: ws.closed)
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x")
        seen.append((ws.close_code, caught.value.code, caught.value.by_peer))
        return []

    client = serve(app, accept_after=0.3).client()
    client.send(request())
    gevent.sleep(0.05)
    client.vanish()
    wait_until(lambda: seen)
    assert seen == [(1006, 1006, True)]


def test_no_response_follows_a_part_of_the_101(serve):
    answered = Happened()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        large = [(f"X-Large-{number}", "x" * 60_000) for number in range(300)]
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.3):
            ws.accept(headers=large)
        start_response("500 Internal Server Error", [])
        answered.set()
        return [b"a body"]

    with serve(app).client() as client:
        client.send(request())
        assert answered.wait(SECONDS)
        received = client.read_to_end()
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"500 Internal" not in received
    assert b"a body" not in received


def test_a_tls_socket_that_other_code_closes_while_reading_is_paused_ends_the_connection(
    serve, tls
):
    results = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        wait_until(lambda: ws._paused)
        ws._sock.close()
        results.append((len(list(ws)), ws.closed, ws.close_code))
        return []

    server = serve(app, certfile=tls[0], keyfile=tls[1])
    ws = geventws.connect(f"wss://localhost:{server.server_port}/", ssl_context=context_of(tls))
    for _ in range(64):
        ws.send("x" * 3000)
    wait_until(lambda: results)
    ((received, closed, code),) = results
    assert received >= 21
    assert (closed, code) == (True, 1006)
    ws.close()


def test_a_large_message_on_a_tls_socket_that_other_code_has_closed_raises(serve, tls):
    results = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.close()
        with pytest.raises(ConnectionClosed):
            ws.send("x" * 100_000)
        results.append(ws.close_code)
        return []

    server = serve(app, certfile=tls[0], keyfile=tls[1])
    ws = geventws.connect(f"wss://localhost:{server.server_port}/", ssl_context=context_of(tls))
    wait_until(lambda: results)
    assert results == [1006]
    ws.close()


def context_of(tls):
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls[0])
    return context


def test_bytes_that_any_code_sends_on_a_connection_are_counted(serve):
    counts = []

    def app(environ, start_response):
        sock = environ["wsgi.input"].raw._sock
        counts.append(bytes_sent(sock))
        sock.sendall(b"x" * 1000)
        counts.append(bytes_sent(sock))
        start_response("204 No Content", [])
        return []

    with serve(app).client() as client:
        client.send(request())
        client.read(1000)
    wait_until(lambda: len(counts) == 2)
    assert counts in ([0, 1000], [None, None])  # None where the system does not count
