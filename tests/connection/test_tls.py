"""TLS with every kind of context, in programs that gevent has patched and in others."""

import ssl
import subprocess
import sys

import gevent.ssl
import pytest
from gevent.socket import socket

from geventws import WebSocketServer, connect
from geventws.connection.tls import cooperative_context
from tests.support.apps import echo
from tests.support.servers import ROOT

SECONDS = 10  # nothing here takes so long


def server_context(make, tls):
    context = make()
    context.load_cert_chain(tls[0], tls[1])
    return context


#: This process is not patched: only the last one of these returns a context of gevent.
SERVERS = {
    "ssl.SSLContext": lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
    "ssl.create_default_context": lambda: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
    "gevent.ssl.create_default_context": lambda: gevent.ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH
    ),
    "gevent.ssl.SSLContext": lambda: gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
}
CLIENTS = {
    "ssl.SSLContext": lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    "ssl.create_default_context": ssl.create_default_context,
    "gevent.ssl.create_default_context": gevent.ssl.create_default_context,
    "gevent.ssl.SSLContext": lambda: gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
}


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
def test_a_server_with_any_context_serves_several_clients_at_once(make, serve, tls):
    server = serve(echo, ssl_context=server_context(make, tls))
    url = f"wss://localhost:{server.server_port}/echo"
    with connect(url, ssl_context=tls[2]) as first, connect(url, ssl_context=tls[2]) as second:
        for ws in (first, second):
            ws.send("x" * 100_000)
        for ws in (first, second):
            assert ws.receive(timeout=SECONDS) == "x" * 100_000


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_client_with_any_context_does_not_block_the_server_in_its_thread(make, serve, tls):
    context = make()
    context.load_verify_locations(tls[0])
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    with connect(f"wss://localhost:{server.server_port}/", ssl_context=context) as ws:
        ws.send("x" * 100_000)
        assert ws.receive(timeout=SECONDS) == "x" * 100_000


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_every_context_verifies_the_certificate(make, serve, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(f"wss://localhost:{server.server_port}/", ssl_context=make())


def test_a_context_of_the_standard_library_remains_usable_for_its_own_sockets(serve, tls):
    context = ssl.create_default_context(cafile=tls[0])
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    connect(f"wss://localhost:{server.server_port}/", ssl_context=context).close()
    assert context.sslsocket_class is ssl.SSLSocket


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
def test_a_callback_for_the_name_of_the_server_may_choose_the_certificate(make, serve, tls):
    calls = []
    context = make()  # without a certificate
    chosen = server_context(make, tls)

    def choose(sock, name, given):
        calls.append((type(sock), name, given is context))
        sock.context = chosen

    context.sni_callback = choose
    server = serve(echo, ssl_context=context)
    with connect(f"wss://localhost:{server.server_port}/", ssl_context=tls[2]) as ws:
        ws.send("hello")
        assert ws.receive(timeout=SECONDS) == "hello"
    assert calls == [(gevent.ssl.SSLSocket, "localhost", True)]


class OwnSockets(ssl.SSLContext):
    """A subclass whose settings do not say what it verifies, as that of truststore."""

    def wrap_socket(self, *args, **kwargs):
        raise AssertionError("it must not be called")


@pytest.mark.parametrize(
    ("context", "error", "why"),
    [
        (object(), TypeError, "must be an ssl.SSLContext, not object"),
        ("certificate.pem", TypeError, "must be an ssl.SSLContext, not str"),
        (OwnSockets(ssl.PROTOCOL_TLS_CLIENT), TypeError, r"OwnSockets has its own wrap_socket\(\)"),
    ],
)
def test_a_context_that_cannot_work_is_refused_at_once(context, error, why):
    with pytest.raises(error, match=why):
        connect("wss://localhost:1/", ssl_context=context)


@pytest.mark.parametrize(
    ("context", "why"),
    [
        (object(), "must be an ssl.SSLContext, not object"),
        (OwnSockets(ssl.PROTOCOL_TLS_SERVER), r"OwnSockets has its own wrap_socket\(\)"),
    ],
)
def test_a_server_with_a_context_that_cannot_work_is_refused_at_once(context, why):
    with pytest.raises(TypeError, match=why):
        WebSocketServer(("127.0.0.1", 0), echo, ssl_context=context)


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_server_refuses_a_context_for_clients(make):
    with pytest.raises(ValueError, match="is for clients"):
        WebSocketServer(("127.0.0.1", 0), echo, ssl_context=make())


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS)
def test_a_client_refuses_a_context_for_servers(make):
    with pytest.raises(ValueError, match="is for servers"):
        connect("wss://localhost:1/", ssl_context=make())


def test_a_context_for_both_sides_serves_both():
    with pytest.warns(DeprecationWarning, match="PROTOCOL_TLS"):
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS)
    for server_side in (False, True):
        assert cooperative_context(context, server_side=server_side) is context


PATCHED = """
import ssl
early = ssl.create_default_context(cafile={certificate!r})
from gevent import monkey
monkey.patch_all()
from geventws import WebSocketServer, connect
from tests.support.apps import echo

late = ssl.create_default_context(cafile={certificate!r})
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain({certificate!r}, {key!r})
server = WebSocketServer(("127.0.0.1", 0), echo, ssl_context=context, log=None)
server.start()
for chosen in (early, late):
    with connect(f"wss://localhost:{{server.server_port}}/", ssl_context=chosen) as ws:
        ws.send("hello")
        print(ws.receive(timeout=10))
server.stop()
"""


def test_in_a_patched_program_contexts_from_before_and_after_the_patching_work(tls):
    program = PATCHED.format(certificate=tls[0], key=tls[1])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "hello\nhello\n", done.stderr


def test_this_process_is_not_patched():
    assert not gevent.monkey.is_module_patched("ssl")
    assert ssl.SSLContext is not gevent.ssl.SSLContext
    assert socket is gevent.socket.socket
