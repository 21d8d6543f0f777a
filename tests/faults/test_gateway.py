"""The gateway fails in the way that it is told to."""

import contextlib

import pytest
from gevent import socket
from gevent.server import StreamServer

from tests.faults import gateway as gateways
from tests.faults.gateway import Gateway


def answer(sock, _):
    """Answer each command, as a server would."""
    with contextlib.suppress(OSError):
        while data := sock.recv(100):
            sock.sendall(b"pong" if data == b"PING" else data.lower())


@pytest.fixture
def gateway():
    server = StreamServer(("127.0.0.1", 0), answer)
    server.start()
    gateway = Gateway(server.server_port)
    gateway.start()
    yield gateway
    gateway.close_all()
    server.stop(1)


@pytest.fixture
def connect(gateway):
    socks = []

    def start():
        sock = socket.create_connection(("127.0.0.1", gateway.server_port), timeout=5)
        socks.append(sock)
        return sock

    yield start
    for sock in socks:
        sock.close()


def ask(sock, command):
    """Return the reply; empty if the connection ends."""
    sock.sendall(command)
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


def test_it_passes_data_on(connect):
    assert ask(connect(), b"GET") == b"get"


def test_it_cuts_existing_connections_only(gateway, connect):
    before = connect()
    assert ask(before, b"GET") == b"get"
    gateway.cut()
    assert before.recv(1) == b""
    assert ask(connect(), b"GET") == b"get"
    assert gateway.affected == 1


def test_it_refuses_connections_in_a_block(gateway, connect):
    with gateway.refusing():
        assert ask(connect(), b"GET") == b""
    assert ask(connect(), b"GET") == b"get"


@pytest.mark.parametrize("direction", [gateways.TO_REDIS, gateways.TO_WORKERS])
def test_it_loses_data_without_closing(gateway, connect, direction):
    before = connect()
    assert ask(before, b"GET") == b"get"
    gateway.lose(direction)
    before.settimeout(0.1)
    with pytest.raises(TimeoutError):
        ask(before, b"GET")
    assert ask(connect(), b"GET") == b"get"


def test_it_loses_data_of_subscribers_only(gateway, connect):
    subscriber, other = connect(), connect()
    assert ask(subscriber, b"SUBSCRIBE") == b"subscribe"
    assert ask(other, b"GET") == b"get"
    gateway.lose(gateways.TO_WORKERS, only_subscribers=True)
    subscriber.settimeout(0.1)
    with pytest.raises(TimeoutError):
        ask(subscriber, b"PING")
    assert ask(other, b"GET") == b"get"


def test_it_holds_replies_and_passes_them_on_later(gateway, connect):
    sock = connect()
    sock.settimeout(0.1)
    with gateway.holding_replies(), pytest.raises(TimeoutError):
        ask(sock, b"GET")
    sock.settimeout(5)
    assert sock.recv(100) == b"get"


def test_it_cuts_before_the_history_but_not_before_the_answer_to_a_publication(gateway, connect):
    with gateway.cutting(1, before=gateways.reads_history):
        for publishing in (b"EVAL XADD PUBLISH", b"EVALSHA 0a1b PUBLISH"):
            assert ask(connect(), publishing) == publishing.lower()
        assert ask(connect(), b"XRANGE") == b""
        assert ask(connect(), b"XRANGE") == b"xrange"  # that was the only time
    assert gateway.affected == 1


def test_it_cuts_after_the_confirmation_of_a_subscription(gateway, connect):
    sock = connect()
    with gateway.cutting(1, after=gateways.confirms_subscription):
        confirmation = b"*3\r\n$9\r\nsubscribe\r\n"
        assert ask(sock, confirmation.upper()) == confirmation
        assert sock.recv(1) == b""


def test_it_cuts_before_the_answer_to_a_ping_of_a_subscriber(gateway, connect):
    subscriber, other = connect(), connect()
    with gateway.cutting(1, before=gateways.is_pong):
        assert ask(other, b"PING") == b"pong"
        assert ask(subscriber, b"SUBSCRIBE") == b"subscribe"
        assert ask(subscriber, b"PING") == b""
