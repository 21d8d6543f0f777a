"""The ways to a server: unix sockets, sockets of the caller, and names for TLS."""

import socket as plain_socket
import ssl
import threading
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import AsyncResult

from geventws import HandshakeError, WebSocketServer, connect
from tests.support.apps import echo, site
from tests.support.certificates import make

SECONDS = 10  # nothing here takes so long


@pytest.fixture
def unix_server(tmp_path, tls):
    """``unix_server(app, secure=False)``: the path of a unix socket that a server listens on."""
    servers = []

    def start(app, secure=False):
        path = str(tmp_path / f"{len(servers)}.socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        options = {"certfile": tls[0], "keyfile": tls[1]} if secure else {}
        server = WebSocketServer(listener, app, log=None, error_log=None, **options)
        servers.append(server)
        server.start()
        return path

    yield start
    for server in servers:
        server.stop(1)


def talk(ws):
    with ws:
        ws.send("hello")
        assert ws.receive(timeout=SECONDS) == "hello"


# ------------------------------------------------------------------------- unix sockets


@pytest.mark.parametrize("kind", [str, Path, str.encode])
def test_a_unix_socket_is_used_in_place_of_the_host_of_the_url(kind, unix_server):
    hosts = []

    def app(environ, start_response):
        hosts.append(environ["HTTP_HOST"])
        return echo(environ, start_response)

    talk(connect("ws://nowhere.example:81/", unix_socket=kind(unix_server(app))))
    assert hosts == ["nowhere.example:81"]


def test_tls_on_a_unix_socket_checks_the_name_of_the_url(unix_server, tls):
    path = unix_server(echo, secure=True)
    talk(connect("wss://localhost/", unix_socket=path, ssl_context=tls[2]))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("wss://other.example/", unix_socket=path, ssl_context=tls[2])


def test_a_unix_socket_needs_no_proxy_of_the_environment(unix_server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    talk(connect("ws://nowhere.example/", unix_socket=unix_server(echo)))


@pytest.mark.parametrize("is_there", [True, False])
def test_the_error_of_a_unix_socket_names_its_path(is_there, tmp_path):
    path = tmp_path / "socket"
    if is_there:
        with plain_socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))  # nobody listens any more
    error = ConnectionRefusedError if is_there else FileNotFoundError
    with pytest.raises(error, match=f"cannot connect to {path}: "):
        connect("ws://localhost/", unix_socket=path)


def test_the_full_queue_of_a_unix_socket_is_waited_for_within_the_limit(tmp_path):
    path = str(tmp_path / "socket")
    with plain_socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with plain_socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(TimeoutError, match=r"not open after 0\.2 seconds"):
                connect("ws://localhost/", unix_socket=path, open_timeout=0.2)


# ------------------------------------------------------------------ sockets of the caller


def test_a_socket_of_the_caller_is_used_and_closed(serve):
    server = serve(echo)
    sock = socket.create_connection(("127.0.0.1", server.server_port), timeout=0.5)
    ws = connect("ws://nowhere.example/", sock=sock)
    talk(ws)
    assert sock.fileno() == -1


def test_tls_is_started_on_a_socket_of_the_caller(serve, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    sock = socket.create_connection(("127.0.0.1", server.server_port))
    talk(connect("wss://localhost/", sock=sock, ssl_context=tls[2]))


def test_a_socket_of_the_caller_may_have_tls_already(serve, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])

    def secure_socket():
        sock = socket.create_connection(("127.0.0.1", server.server_port))
        return tls[2].wrap_socket(sock, server_hostname="localhost")

    talk(connect("ws://localhost/", sock=secure_socket()))
    with secure_socket() as sock, pytest.raises(ValueError, match="has TLS already"):
        connect("wss://localhost/", sock=sock)


def test_a_socket_pair_is_a_connected_socket():
    seen = AsyncResult()
    ours, theirs = socket.socketpair()
    opening = gevent.spawn(connect, "ws://pair.example/x", sock=ours)
    with theirs:
        seen.set(theirs.recv(65536))
        theirs.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        with pytest.raises(HandshakeError, match="403 Forbidden: no"):
            opening.get(timeout=SECONDS)
    assert seen.get().startswith(b"GET /x HTTP/1.1\r\nHost: pair.example\r\n")
    assert ours.fileno() == -1


def test_a_socket_of_the_caller_needs_no_proxy_of_the_environment(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    sock = socket.create_connection(("127.0.0.1", serve(echo).server_port))
    talk(connect("ws://nowhere.example/", sock=sock))


def test_a_socket_that_would_block_all_greenlets_is_refused_with_the_recipe(serve):
    address = ("127.0.0.1", serve(echo).server_port)
    with (
        plain_socket.create_connection(address) as sock,
        pytest.raises(TypeError, match=r"socket\.socket(.*)fileno=sock\.detach\(\)"),
    ):
        connect("ws://localhost/", sock=sock)
    # The recipe works:
    sock = plain_socket.create_connection(address)
    talk(connect("ws://localhost/", sock=socket.socket(fileno=sock.detach())))


def test_a_tls_socket_that_would_block_all_greenlets_is_refused_with_the_recipe():
    one, other = plain_socket.socketpair()
    context = ssl.create_default_context()
    with (
        other,
        context.wrap_socket(one, server_hostname="a", do_handshake_on_connect=False) as sock,
        pytest.raises(TypeError, match=r"ssl\.SSLSocket(.*)use a wss:// URL"),
    ):
        connect("ws://localhost/", sock=sock)


def test_what_is_no_connected_socket_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"sock is a builtins\.int"):
        connect("ws://localhost/", sock=5)
    with socket.socket() as sock, pytest.raises(ValueError, match="sock is not connected"):
        connect("ws://localhost/", sock=sock)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="not a stream socket"),
    ):
        connect("ws://localhost/", sock=sock)


def test_a_socket_of_another_thread_is_refused(serve):
    found = []
    address = ("127.0.0.1", serve(echo).server_port)
    is_open, is_refused = threading.Event(), threading.Event()

    def open_there():
        with socket.create_connection(address) as sock:
            found.append(sock)
            is_open.set()
            is_refused.wait(SECONDS)
        gevent.get_hub().destroy()

    thread = threading.Thread(target=open_there)
    thread.start()
    assert is_open.wait(SECONDS)
    try:
        with pytest.raises(ValueError, match="hub of another thread"):
            connect("ws://localhost/", sock=found[0])
    finally:
        is_refused.set()
        thread.join(SECONDS)


@pytest.mark.parametrize("other", [{"unix_socket": "/a"}, {"proxy": "http://a"}])
def test_a_socket_and_another_way_cannot_be_combined(other):
    one, two = socket.socketpair()
    with one, two:
        with pytest.raises(ValueError, match="cannot be combined"):
            connect("ws://localhost/", sock=one, **other)
        with pytest.raises(ValueError, match="cannot be combined"):
            connect("ws://localhost/", sock=one, max_redirects=1)


# ------------------------------------------------------------------------ names for TLS


def test_the_name_for_tls_is_sent_and_checked_if_the_url_has_an_address(serve, tls):
    server = WebSocketServer(
        ("127.0.0.2", 0), echo, certfile=tls[0], keyfile=tls[1], log=None, error_log=None
    )
    server.start()
    url = f"wss://127.0.0.2:{server.server_port}/"
    try:
        talk(connect(url, ssl_context=tls[2], server_hostname="localhost"))
        for name in (None, "other.example"):
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(url, ssl_context=tls[2], server_hostname=name)
    finally:
        server.stop(1)


@pytest.mark.parametrize(
    ("name", "sent"),
    [("LOCALHOST", "localhost"), ("bücher.example", "xn--bcher-kva.example"), ("::1", None)],
)
def test_the_name_for_tls_is_sent_in_ascii(name, sent, serve, tls):
    names = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls[0], tls[1])
    context.sni_callback = lambda sock, name, context: names.append(name)
    server = serve(site, ssl_context=context, error_log=None)
    client = ssl.create_default_context(cafile=tls[0])
    client.check_hostname = False
    url = f"wss://127.0.0.1:{server.server_port}/echo"
    talk(connect(url, ssl_context=client, server_hostname=name))
    assert names == [sent]


def test_a_name_with_a_final_dot_matches_the_certificate(serve, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    sock = socket.create_connection(("127.0.0.1", server.server_port))
    talk(connect("wss://localhost./", sock=sock, ssl_context=tls[2]))


def test_a_certificate_of_another_authority_is_refused_on_every_way(serve, tls, tmp_path):
    certificate, key = make(tmp_path)
    server = serve(echo, certfile=certificate, keyfile=key)
    sock = socket.create_connection(("127.0.0.1", server.server_port))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("wss://localhost/", sock=sock, ssl_context=tls[2])
    assert sock.fileno() == -1
