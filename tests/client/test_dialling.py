"""Connecting by the first address that answers (RFC 8305), within a limit that always holds."""

import contextlib
import os
import socket as plain_socket
import time
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from geventws import HandshakeError, connect
from geventws.client.dialling import time_limit
from tests.support.apps import echo
from tests.support.servers import wait_until

SECONDS = 10  # nothing here takes so long


@pytest.fixture
def resolve(monkeypatch):
    """``resolve(*addresses)`` sets the answer of the name server, or a function that answers.

    Only the hub's resolver is another one: all of the library runs as it is.
    """
    hub = gevent.get_hub()

    class Resolver(type(hub.resolver)):
        def getaddrinfo(self, host, port, *arguments):
            if host != "test.example":
                return super().getaddrinfo(host, port, *arguments)
            answer = self.answer() if callable(self.answer) else self.answer
            return [
                (
                    family_of(address),
                    socket.SOCK_STREAM,
                    6,
                    "",
                    (address, port, 0, 0) if ":" in address else (address, port),
                )
                for address in answer
            ]

    resolver = Resolver(hub)
    monkeypatch.setattr(hub, "_resolver", resolver)

    def answer(*addresses):
        resolver.answer = addresses[0] if callable(addresses[0]) else addresses

    return answer


def family_of(address):
    if address == "unknown":
        return 255
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
def make_dead():
    """``make_dead(address, port)``: a listener that never answers, not even with a RST."""
    with contextlib.ExitStack() as stack:

        def make(address, port):
            """A queue of connections that is full: Linux ignores all others."""
            listener = stack.enter_context(plain_socket.socket())
            listener.bind((address, port))
            listener.listen(0)
            for _ in range(2):
                client = stack.enter_context(plain_socket.socket())
                client.setblocking(False)
                client.connect_ex((address, port))

        yield make


@pytest.fixture(autouse=True)
def tight():
    """No socket is left."""
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before, "the end of all sockets")


def sockets():
    """The sockets of this process."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith("socket:")}


def url_of(server):
    return f"ws://test.example:{server.server_port}/"


def opened(url, **options):
    """How many seconds it takes to open a WebSocket that works."""
    started = time.monotonic()
    with connect(url, proxy=None, **options) as ws:
        seconds = time.monotonic() - started
        ws.send("hello")
        assert ws.receive() == "hello"
    return seconds


def test_a_dead_address_costs_a_quarter_of_a_second(serve, resolve, make_dead):
    server = serve(echo)
    make_dead("127.0.0.2", server.server_port)
    resolve("127.0.0.2", "127.0.0.1")
    assert 0.2 < opened(url_of(server), open_timeout=2) < 1.5


def test_an_address_that_refuses_costs_nothing(serve, resolve):
    server = serve(echo)
    resolve(*(f"127.0.0.{number}" for number in range(2, 20)), "127.0.0.1")
    assert opened(url_of(server)) < 0.2


def test_a_family_that_the_system_does_not_have_is_passed_over(serve, resolve):
    server = serve(echo)
    resolve("unknown", "unknown", "127.0.0.1")
    assert opened(url_of(server)) < 0.2


def test_families_take_turns(serve, resolve, make_dead):
    server = serve(echo)
    dead = [f"127.0.0.{number}" for number in range(2, 9)]
    for address in dead:
        make_dead(address, server.server_port)
    with plain_socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", server.server_port))
        except OSError:
            pytest.skip("there is no IPv6 here")
        probe.listen()
        other = StreamServer(socket.socket(fileno=plain_socket.dup(probe.fileno())), server.handle)
        other.start()
        try:
            resolve(*dead, "::1")
            assert opened(url_of(server)) < 1
        finally:
            other.stop()


def test_a_host_that_is_dead_is_given_up_in_time(resolve, make_dead, serve):
    port = serve(echo).server_port
    addresses = [f"127.0.0.{number}" for number in range(2, 7)]
    for address in addresses:
        make_dead(address, port)
    resolve(*addresses)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not open after 0\.6 seconds"):
        connect(f"ws://test.example:{port}/", proxy=None, open_timeout=0.6)
    assert 0.5 < time.monotonic() - started < 1.5


def test_if_all_addresses_fail_the_error_names_each(resolve):
    with plain_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        resolve("127.0.0.1", "127.0.0.2", "127.0.0.1")
        with pytest.raises(ConnectionRefusedError) as caught:
            connect(f"ws://test.example:{port}/", proxy=None)
    assert caught.value.strerror == (
        f"cannot connect to test.example port {port}: 127.0.0.1: Connection refused;"
        " 127.0.0.2: Connection refused"
    )


def test_a_name_without_an_address_is_an_oserror(resolve):
    resolve(list)
    with pytest.raises(OSError, match="it has no address"):
        connect("ws://test.example/", proxy=None)


def test_of_thousands_of_addresses_a_few_are_tried(resolve):
    resolve(*(f"127.{high}.{low}.1" for high in range(20) for low in range(1, 101)))
    with plain_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError) as caught:
            connect(f"ws://test.example:{sock.getsockname()[1]}/", proxy=None)
    assert str(caught.value).count("refused") == 32


def test_a_name_server_that_does_not_answer_is_left_in_time(resolve):
    resolve(lambda: gevent.sleep(SECONDS))
    with pytest.raises(TimeoutError, match=r"not open after 0\.1 seconds"):
        connect("ws://test.example/", proxy=None, open_timeout=0.1)


def test_a_limit_that_is_over_at_once(serve, resolve):
    server = serve(echo)
    resolve("127.0.0.1")
    for _ in range(20):
        with contextlib.suppress(TimeoutError):
            connect(url_of(server), proxy=None, open_timeout=0.0001).close()
    wait_until(lambda: not server.websockets)


@contextlib.contextmanager
def silent_server():
    """A server that accepts connections, reads all data, and never answers."""
    server = StreamServer(
        ("127.0.0.1", 0), lambda sock, address: list(iter(lambda: sock.recv(65536), b""))
    )
    server.start()
    try:
        yield server
    finally:
        server.stop(1)


@pytest.mark.parametrize(
    ("scheme", "proxy"),
    [
        *((scheme, proxy) for scheme in ("ws", "wss") for proxy in (None, "http", "socks5h")),
        ("ws", "https"),
    ],
)
def test_the_limit_holds_for_proxies_tls_and_the_handshake(scheme, proxy):
    with silent_server() as server:
        where = f"127.0.0.1:{server.server_port}"
        with pytest.raises(TimeoutError, match=r"not open after 0\.1 seconds"):
            connect(f"{scheme}://{where}/", proxy=proxy and f"{proxy}://{where}", open_timeout=0.1)


def test_tls_within_tls_is_refused_at_once(resolve):
    with pytest.raises(ValueError, match="TLS within TLS"):
        connect("wss://test.example/", proxy="https://proxy.example")


def test_a_proxy_whose_refusal_does_not_end_is_left_in_time():
    def refuse(sock, address):
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 407 Who are you?\r\nContent-Length: 99\r\n\r\nWho?")
        sock.recv(1)

    server = StreamServer(("127.0.0.1", 0), refuse)
    server.start()
    try:
        with pytest.raises(HandshakeError, match="407") as caught:
            connect(
                "ws://test.example/",
                proxy=f"http://127.0.0.1:{server.server_port}",
                open_timeout=0.2,
            )
        assert caught.value.body == b"Who?"
    finally:
        server.stop(1)


def test_a_timeout_from_outside_passes_through(resolve, make_dead, serve):
    port = serve(echo).server_port
    make_dead("127.0.0.2", port)
    resolve("127.0.0.2")
    with gevent.Timeout(0.1) as outer:
        with pytest.raises(gevent.Timeout) as caught:
            connect(f"ws://test.example:{port}/", proxy=None)
        assert caught.value is outer


def test_the_limit_is_not_swallowed_by_what_handles_oserrors():
    @time_limit(0.01)
    def stubborn():
        while True:
            with contextlib.suppress(OSError):
                gevent.sleep(SECONDS)

    with pytest.raises(TimeoutError):
        stubborn()


def test_of_two_limits_the_outer_one_is_told_from_the_inner():
    with pytest.raises(TimeoutError, match=r"0\.01 seconds"), time_limit(0.01), time_limit(5):
        gevent.sleep(SECONDS)


def test_a_killed_connect_leaves_nothing(resolve, make_dead, serve):
    port = serve(echo).server_port
    make_dead("127.0.0.2", port)
    resolve("127.0.0.2", "127.0.0.2")
    dialling = gevent.spawn(connect, f"ws://test.example:{port}/", proxy=None)
    gevent.sleep(0)
    dialling.kill(timeout=SECONDS)
    assert dialling.dead
