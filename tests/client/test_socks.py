"""SOCKS proxies: a real one for the tests, for RFC 1928, RFC 1929 and SOCKS 4."""

import ipaddress
import struct
import subprocess
import sys

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from geventws import HandshakeError, connect
from tests.support.apps import echo
from tests.support.servers import ROOT

SECONDS = 10  # nothing here takes so long


class SocksServer:
    """A SOCKS proxy. It connects every name to 127.0.0.1."""

    def __init__(self) -> None:
        #: (version, user, password, kind of address, address) of each request
        self.requests = []
        #: The code of the answer, if it refuses.
        self.refusal = 0
        self._server = StreamServer(("127.0.0.1", 0), self.handle)
        self._server.start()
        self.place = f"127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(1)

    def handle(self, sock, address) -> None:
        sock.settimeout(SECONDS)
        stream = sock.makefile("rb")
        try:
            port = self.version_5(sock, stream) if stream.read(1) == b"\5" else self.four(stream)
        except ConnectionError:
            return
        version, *_ = self.requests[-1]
        if version == 5:
            sock.sendall(bytes((5, self.refusal, 0, 1)) + bytes(6))
        else:
            sock.sendall(bytes((0, self.refusal or 0x5A)) + bytes(6))
        if not self.refusal:
            with socket.create_connection(("127.0.0.1", port)) as there:
                back = gevent.spawn(pipe, there, sock)
                pipe(sock, there)
                back.join()

    def version_5(self, sock, stream) -> int:
        methods = stream.read(stream.read(1)[0])
        user = password = b""
        if 2 in methods:
            sock.sendall(b"\5\2")
            assert stream.read(1) == b"\1"
            user = stream.read(stream.read(1)[0])
            password = stream.read(stream.read(1)[0])
            is_right = password != b"wrong"
            sock.sendall(bytes((1, not is_right)))
            if not is_right:
                raise ConnectionError
        else:
            sock.sendall(b"\5\0")
        assert stream.read(3) == b"\5\1\0"
        kind = stream.read(1)[0]
        if kind == 3:
            host = stream.read(stream.read(1)[0]).decode()
        else:
            host = str(ipaddress.ip_address(stream.read({1: 4, 4: 16}[kind])))
        self.requests.append((5, user.decode(), password.decode(), kind, host))
        return struct.unpack("!H", stream.read(2))[0]

    def four(self, stream) -> int:
        assert stream.read(1) == b"\1"
        (port,) = struct.unpack("!H", stream.read(2))
        packed = stream.read(4)
        user = read_text(stream)
        kind, host = 1, str(ipaddress.ip_address(packed))
        if packed[:3] == b"\0\0\0":  # SOCKS 4A
            kind, host = 3, read_text(stream)
        self.requests.append((4, user, "", kind, host))
        return port


def read_text(stream) -> str:
    return b"".join(iter(lambda: stream.read(1), b"\0")).decode()


def pipe(source, sink) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has left


@pytest.fixture
def socks(monkeypatch):
    for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = SocksServer()
    yield server
    server.stop()


def talk(url, **options):
    with connect(url, **options) as ws:
        ws.send("hello")
        assert ws.receive(timeout=SECONDS) == "hello"


@pytest.mark.parametrize(
    ("scheme", "request_of_proxy"),
    [
        ("socks5h", (5, "", "", 3, "localhost")),
        ("socks4a", (4, "", "", 3, "localhost")),
        ("socks4", (4, "", "", 1, "127.0.0.1")),
    ],
)
def test_the_scheme_says_who_looks_the_name_up(scheme, request_of_proxy, serve, socks):
    talk(f"ws://localhost:{serve(echo).server_port}/", proxy=f"{scheme}://{socks.place}")
    assert socks.requests == [request_of_proxy]


def test_with_socks5_the_client_looks_the_name_up(serve, socks):
    talk(f"ws://localhost:{serve(echo).server_port}/", proxy=f"socks5://{socks.place}")
    assert socks.requests[0][3:] in {(1, "127.0.0.1"), (4, "::1")}


def test_a_name_that_only_the_proxy_knows(serve, socks):
    url = f"ws://bücher.internal:{serve(echo).server_port}/"
    talk(url, proxy=f"socks5h://{socks.place}")
    assert socks.requests == [(5, "", "", 3, "xn--bcher-kva.internal")]
    with pytest.raises(socket.gaierror):
        connect(url, proxy=f"socks5://{socks.place}")


@pytest.mark.parametrize(
    ("scheme", "address", "kind"),
    [("socks5", "127.0.0.1", 1), ("socks5h", "127.0.0.1", 1), ("socks5h", "::1", 4)],
)
def test_an_address_is_sent_as_an_address(scheme, address, kind, serve, socks):
    host = f"[{address}]" if ":" in address else address
    talk(f"ws://{host}:{serve(echo).server_port}/", proxy=f"{scheme}://{socks.place}")
    assert socks.requests == [(5, "", "", kind, address)]


def test_tls_is_end_to_end_through_a_socks_proxy(serve, socks, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    url = f"wss://localhost:{server.server_port}/"
    talk(url, proxy=f"socks5h://{socks.place}", ssl_context=tls[2])
    assert len(socks.requests) == 1


def test_the_user_and_the_password_of_the_url_are_sent(serve, socks):
    url = f"ws://localhost:{serve(echo).server_port}/"
    talk(url, proxy=f"socks5h://ada:s%3Acret@{socks.place}")
    talk(url, proxy=f"socks4a://ada@{socks.place}")
    assert [request[:3] for request in socks.requests] == [(5, "ada", "s:cret"), (4, "ada", "")]


@pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY", "http_proxy", "ws_proxy"])
def test_the_environment_may_set_a_socks_proxy(name, serve, socks, monkeypatch):
    monkeypatch.setenv(name, f"socks5h://{socks.place}")
    url = f"ws://127.0.0.1:{serve(echo).server_port}/"
    talk(url)
    assert len(socks.requests) == 1
    talk(url, proxy=None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    talk(url)
    assert len(socks.requests) == 1


def test_the_proxy_for_a_scheme_takes_precedence_over_all_proxy(serve, socks, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", f"socks5h://{socks.place}")
    talk(f"ws://127.0.0.1:{serve(echo).server_port}/")
    assert len(socks.requests) == 1


@pytest.mark.parametrize(
    ("scheme", "code", "why"),
    [
        ("socks5h", 2, "Connection not allowed by ruleset"),
        ("socks5h", 5, "Connection refused by destination host"),
        ("socks5h", 99, "Invalid reply code"),
        ("socks4", 0x5B, "Request rejected or failed"),
    ],
)
def test_a_refusal_of_the_proxy_has_its_reason(scheme, code, why, serve, socks):
    socks.refusal = code
    with pytest.raises(HandshakeError, match=f"the SOCKS proxy does not connect: {why}") as caught:
        connect(f"ws://127.0.0.1:{serve(echo).server_port}/", proxy=f"{scheme}://{socks.place}")
    assert caught.value.status == ""


def test_a_wrong_password_is_refused(serve, socks):
    with pytest.raises(HandshakeError, match="Username and password authentication failure"):
        connect("ws://127.0.0.1:1/", proxy=f"socks5://ada:wrong@{socks.place}")


@pytest.mark.parametrize("answer", [b"", b"\5", b"HTTP/1.1 400 Bad", b"\5\2\1\0", b"\5\0\5\0\0\7"])
@pytest.mark.parametrize("scheme", ["socks5", "socks4"])
def test_what_is_no_socks_is_a_handshake_error(scheme, answer):
    def handle(sock, address):
        sock.recv(1)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    try:
        with pytest.raises(HandshakeError, match="the SOCKS proxy does not connect"):
            connect("ws://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{server.server_port}")
    finally:
        server.stop(1)


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("socks5://ada@a", "needs a user name and a password"),
        ("socks5h://:secret@a", "needs a user name and a password"),
        ("socks4://ada:secret@a", "SOCKS 4 has no passwords"),
        ("socks5://gr%C3%BC%C3%9F:x@a", "must be ASCII"),
        ("socks5://ada:" + "x" * 256 + "@a", "at most 255"),
        ("socks4://a%00b@a", "must be ASCII"),
        ("socks6://a", "is not the URL of a proxy"),
        ("socks://a", "is not the URL of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_asked_is_refused_at_once(proxy, why):
    with pytest.raises(ValueError, match=why):
        connect("ws://127.0.0.1:1/", proxy=proxy)


def test_a_proxy_that_is_not_there_is_an_oserror():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            connect("ws://a.example/", proxy=f"socks5h://127.0.0.1:{sock.getsockname()[1]}")


def test_without_the_package_the_error_names_the_command():
    program = """
import sys
sys.modules["python_socks"] = None
from geventws import connect
try:
    connect("ws://127.0.0.1:1/", proxy="socks5://127.0.0.1:2")
except ImportError as problem:
    print(problem)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    expected = "SOCKS proxies need the package python-socks: pip install geventws[socks]\n"
    assert done.stdout == expected, done.stderr
