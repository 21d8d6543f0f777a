"""What is special to :class:`geventws.WebSocketServer`."""

import _socket
import contextlib
import socket
import subprocess
import sys

import gevent
import pytest

from geventws import WebSocketServer
from tests.support.apps import site
from tests.support.client import request
from tests.support.servers import SECONDS, serving, wait_until


@pytest.mark.parametrize("warns", [True, False])
def test_serve_forever_warns_once_in_a_program_that_is_not_patched(caplog, warns):
    class Server(WebSocketServer):
        warns_if_unpatched = warns

    server = Server(("127.0.0.1", 0), site, log=None)
    server.start()
    assert caplog.text == ""
    serving = gevent.spawn(server.serve_forever)
    gevent.idle()
    server.stop()
    serving.get(timeout=SECONDS)
    assert caplog.text.count("monkey.patch_all()") == warns


def test_serve_forever_is_silent_in_a_patched_program():
    program = (
        "from gevent import monkey; monkey.patch_all(); import gevent, geventws;"
        "server = geventws.WebSocketServer(('127.0.0.1', 0), None);"
        "server.start(); gevent.spawn(server.stop); server.serve_forever()"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("has_tls", [False, True])
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_a_listening_socket_that_blocks_does_not_stop_the_loop(family, has_tls, tls, tmp_path):
    *files, context = tls
    options = dict(zip(["certfile", "keyfile"], files, strict=True)) if has_tls else {}
    address = ("127.0.0.1", 0) if family == "AF_INET" else str(tmp_path / "socket")
    program = (
        "import geventws, socket; from tests.support.apps import site;"
        f"listener = socket.socket(socket.{family}); listener.bind({address!r});"
        "listener.listen();"
        f"server = geventws.WebSocketServer(listener, site, log=None, **{options});"
        "server.start(); name = listener.getsockname();"
        "print(f'unix:{name}' if isinstance(name, str) else 'http://%s:%d' % name);"
        "server.serve_forever()"
    )
    with serving(["-c", program], tmp_path / "log") as process:
        for _ in range(2):
            with process.client(context=context if has_tls else None) as client:
                client.open().finish()


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_socket_that_does_not_listen_is_refused(kind):
    with socket.socket(type=getattr(socket, kind)) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"does not listen: call its method listen\(\)"):
            WebSocketServer(sock, site).start()


def test_an_unknown_option_of_a_server_names_a_similar_one():
    with pytest.raises(TypeError, match="no option 'ping_intervall'; did you mean 'ping_interval'"):
        WebSocketServer(("127.0.0.1", 0), site, ping_intervall=5)


def test_a_client_that_must_wait_for_a_greenlet_is_logged(serve, caplog):
    server = serve(site, spawn=1)
    with server.client().open() as client, server.client() as other:
        other.send(request())
        wait_until(lambda: caplog.records)
        assert "has 1 connections, the maximum (spawn). Others wait" in caplog.text
        client.finish()
        assert other.read_head() == "101"
        other.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep fewer connections")
def test_clients_that_connect_at_once_wait_in_the_kernel(serve):
    server = serve(site)
    with contextlib.ExitStack() as clients:
        for _ in range(300):
            # The server does not run while a socket of the system blocks.
            client = clients.enter_context(contextlib.closing(_socket.socket()))
            client.settimeout(0.5)  # a packet that was dropped is sent again after a second
            client.connect(server.address)
