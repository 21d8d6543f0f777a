"""The first request of a connection, in whatever pieces it arrives."""

import _socket
import contextlib
import functools
import io
import os
import re
import socket
import time

import pytest
from gevent import getcurrent, sleep
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as gevent_socket

import geventws
from geventws import WebSocketHandler, WebSocketServer
from tests.support.client import TEXT, RawClient, frame, request
from tests.support.servers import compiled_on_linux, wait_until

FIRST_BYTES = [1, 40, len(request()) - 1]


def site(environ, start_response):
    """Echoes messages; other requests get their own target."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]
    for message in ws:
        ws.send(message)
    return []


def let_arrive(server):
    """Return when the server has read what was sent before: it serves connections in turn."""
    with server.client() as other:
        other.open()
        other.finish()


@pytest.mark.parametrize("size", FIRST_BYTES)
def test_a_request_in_two_pieces_opens_a_websocket(serve, size):
    server = serve(site)
    with server.client() as client:
        let_arrive(server)  # without a byte of this client
        client.send(request()[:size])
        let_arrive(server)
        client.send(request()[size:] + frame(TEXT, "behind"))
        assert client.read_head() == "101"
        assert client.read_frame() == (TEXT, b"behind")
        client.finish()


def test_frames_in_the_segment_of_the_request_are_received(serve):
    many = [frame(TEXT, f"{number}") for number in range(3_000)]  # more than one read takes
    with serve(site).client() as client:
        client.send(request() + b"".join(many))
        assert client.read_head() == "101"
        for number in range(len(many)):
            assert client.read_frame() == (TEXT, b"%d" % number)
        client.finish()


def test_requests_and_messages_that_are_ready_at_the_same_time_do_not_disturb_each_other(serve):
    server = serve(site)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(server.client().open()) for _ in range(10)]
        waiting = [stack.enter_context(server.client()) for _ in opened]
        let_arrive(server)
        for old, new in zip(opened, waiting, strict=True):
            old.send(frame(TEXT, "old"))
            new.send(request() + frame(TEXT, "new"))
        for old, new in zip(opened, waiting, strict=True):
            assert old.read_frame() == (TEXT, b"old")
            assert new.read_head() == "101"
            assert new.read_frame() == (TEXT, b"new")
        for client in opened + waiting:
            client.finish()


def test_small_messages_are_not_delayed_by_nagles_algorithm():
    def view(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws.send(str(ws._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        return []

    with gevent_socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        with RawClient(address) as early:  # as with systemd, which listens before the server
            server = WebSocketServer(listener, view, log=None)
            server.start()
            with RawClient(address) as late:
                for client in (early, late):
                    client.open()
                    assert client.read_frame() == (TEXT, b"1")
                    assert client.read_close() == (1000, "")
            server.stop(1)


def test_plain_requests_in_one_segment_are_answered_in_order(serve):
    with serve(site).client() as client:
        client.send(b"".join(request(f"/{each}", without="Upgrade") for each in "abc"))
        for each in "abc":
            assert client.read_response() == ("200", f"/{each}".encode())


def test_a_client_that_sends_nothing_is_dropped_in_time(serve):
    with serve(site, handshake_timeout=0.2).client() as client:
        assert client.read_to_end() == b""


def test_each_client_that_sends_nothing_has_its_own_time(serve):
    server = serve(site, handshake_timeout=1.0)
    with server.client() as early:
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() > begin + 0.6, "the next client")
        with server.client() as late:
            assert early.read_to_end() == b""
            late.open()
            late.finish()


@compiled_on_linux
def test_a_waiting_client_whose_descriptor_other_code_closes_is_no_harm_to_others(serve):
    server = serve(site, handshake_timeout=0.5)
    with server.client() as lost, server.client() as silent:
        let_arrive(server)
        port = lost.sock.getsockname()[1]
        os.close(next(fd for fd in map(int, os.listdir("/proc/self/fd")) if peer_of(fd) == port))
        assert silent.read_to_end() == b""


def peer_of(descriptor):
    """The port of the peer; ``None`` for a descriptor that is no connection."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return sock.getpeername()[1]
    except (OSError, IndexError):
        return None
    finally:
        sock.detach()


def test_the_time_for_the_head_begins_with_the_connection(serve):
    server = serve(site, handshake_timeout=0.5)
    with server.client() as client:
        let_arrive(server)
        client.send(request()[:-2])
        assert client.read_response() == ("408", b"")


def test_clients_that_leave_without_a_request_leave_nothing_behind(serve):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    server = serve(site)
    let_arrive(server)
    before = descriptors()
    for _ in range(5):
        server.client().sock.close()  # perhaps before the server has accepted it
        client = server.client()
        let_arrive(server)
        client.sock.close()
    wait_until(lambda: descriptors() <= before, "the end of all descriptors")


@compiled_on_linux
@pytest.mark.parametrize("is_late", [False, True])
def test_an_open_websocket_is_served_between_the_slow_views_of_requests_that_came_together(
    serve, is_late
):
    events = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        if environ["PATH_INFO"] == "/slow":
            if not events:
                opened.send(frame(TEXT, "message"))
            events.append("view")
            time.sleep(0.003)  # as a computation: the event loop stands still
        events.extend(ws)
        return []

    server = serve(application)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(server.client().open())
        connect_together(stack, server, 20, is_late=is_late)
        wait_until(lambda: len(events) == 21, "all views and the message")
        opened.finish()
    assert events.index("message") < 5


@compiled_on_linux
@pytest.mark.parametrize("is_late", [False, True])
def test_connections_are_closed_if_the_server_stops_before_the_turn_of_their_requests(
    serve, is_late
):
    stopped = []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            assert not stopped
            time.sleep(0.003)  # the others have their turn later
            server.close()
            stopped.append(None)
        return site(environ, start_response)

    server = serve(application)
    with contextlib.ExitStack() as stack:
        clients = connect_together(stack, server, 10, is_late=is_late)
        wait_until(lambda: stopped, "the first view")
        for client in clients[1:]:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
    assert len(stopped) == 1


def connect_together(stack, server, count, *, is_late=False):
    """Send requests while no greenlet can run, so that the server serves them in groups.

    :param is_late: whether the server has accepted the connections before.
    """
    clients = []
    for _ in range(3):  # it has fast views
        with server.client().open() as client:
            client.finish()
    for _ in range(count):
        client = stack.enter_context(contextlib.closing(_socket.socket()))
        client.settimeout(10)
        client.connect(server.address)
        clients.append(client)
    if is_late:
        let_arrive(server)
    for client in clients:
        client.send(request("/slow"))
    return clients


def test_a_view_runs_in_a_greenlet_and_a_view_that_ends_the_server_is_no_harm(serve):
    seen = []

    def stop_at_once(environ, start_response):
        seen.append(getcurrent())
        server.close()
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    server = serve(stop_at_once)
    clients = [server.client() for _ in range(3)]
    clients[0].send(request())
    assert clients[0].read_head() == "403"
    for client in clients:
        client.sock.close()
    assert len(seen) == 1
    assert seen[0].parent is not None


# ------------------------------------------------------------------- who accepts connections


class CountsSockets(WebSocketServer):
    accepted = 0

    def do_read(self):
        found = super().do_read()
        if found is not None:
            self.accepted += 1
        return found


class Blocks(WebSocketServer):
    def get_environ(self):
        sleep(0.001)
        return super().get_environ()


class OfAnotherType(WebSocketServer):
    class Environ(dict):
        """Not what PEP 3333 asks for."""

    def get_environ(self):
        return self.Environ(super().get_environ())


class RaisesOnce(WebSocketServer):
    has_raised = False

    def get_environ(self):
        if not self.has_raised:
            self.has_raised = True
            raise LookupError("no environ")
        return super().get_environ()


class LogsMore(WebSocketHandler):
    def format_request(self):
        return f"{super().format_request()} {self.command} {self.path}"


class SkipsALine(WebSocketHandler):
    """As handlers for the PROXY protocol do."""

    def handle(self):
        while self.socket.recv(1) != b"\n":
            pass
        super().handle()


def test_a_server_that_reads_accepted_sockets_itself_gets_all_of_them():
    server = CountsSockets(("127.0.0.1", 0), site, log=None)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.open()
            client.finish()
        assert server.accepted == 1
    finally:
        server.stop(1)


def access_log_of(path, **options):
    """The line of the access log for a WebSocket that a client closes."""
    log = io.StringIO()
    server = WebSocketServer(("127.0.0.1", 0), site, log=log, **options)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.open(path)
            client.finish()
        wait_until(log.getvalue)
    finally:
        server.stop(1)
    return log.getvalue()


LINE = (
    r"127\.0\.0\.1 - - \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "
    r'"GET /a\?b HTTP/1\.1" 101 129 \d\.\d{6}'
)


def test_the_access_log_has_the_line_of_gevents_server():
    assert re.fullmatch(LINE + "\n", access_log_of("/a?b"))


def test_a_handler_that_formats_the_access_log_itself_is_used():
    line = access_log_of("/a?b", handler_class=LogsMore)
    assert re.fullmatch(LINE + r" GET /a\?b\n", line)


def test_a_handler_with_a_wrapper_around_a_method_is_used():
    calls = []

    @functools.wraps(WebSocketHandler.log_request)
    def log_request(handler):
        calls.append(handler.requestline)
        WebSocketHandler.log_request(handler)

    handler = type("Handler", (WebSocketHandler,), {"log_request": log_request})
    assert access_log_of("/a?b", handler_class=handler)
    assert calls == ["GET /a?b HTTP/1.1"]


@pytest.mark.parametrize("server_class", [Blocks, OfAnotherType])
def test_a_server_with_an_environ_of_its_own_is_served(server_class):
    server = server_class(("127.0.0.1", 0), site, log=None)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.open()
            client.finish()
    finally:
        server.stop(1)


def test_a_server_that_cannot_make_an_environ_loses_this_connection_only():
    server = RaisesOnce(("127.0.0.1", 0), site, log=None)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.send(request())
            assert client.read_to_end() == b""
        with RawClient(server.address) as client:
            client.open()
            client.finish()
    finally:
        server.stop(1)


def test_the_socket_in_a_copy_of_the_environ_does_not_end_a_detached_websocket(serve):
    def view(environ, start_response):
        copied = dict(environ)  # as middlewares do
        ws = environ["wsgi.websocket"]
        ws.accept()
        assert copied["wsgi.input"].raw._sock.fileno() >= 0
        ws.detach(lambda ws, message: ws.send(message))
        return []

    with serve(view).client() as client:
        client.open()
        client.send(frame(TEXT, "still open"))
        assert client.read_frame() == (TEXT, b"still open")
        client.finish()


@pytest.mark.skipif(geventws.__core__ == "python", reason="only the compiled core has it")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_socket_that_is_forgotten_does_not_close_a_descriptor_twice():
    from geventws.connection._arrivals import DirectSocket

    for use in (DirectSocket.fileno, lambda sock: sock.gettimeout):
        descriptor = socket.socket().detach()
        sock = DirectSocket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        inner = use(sock)  # a method of the socket inside is a reference to it
        del sock
        if callable(inner):
            os.fstat(descriptor)  # the socket inside closes it
            del inner
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("server_class", [WebSocketServer, WSGIServer])
def test_a_handler_that_reads_from_the_socket_first_gets_all_bytes(server_class):
    server = server_class(("127.0.0.1", 0), site, log=None, handler_class=SkipsALine)
    server.start()
    try:
        with RawClient(server.address) as client:
            client.send(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + request())
            assert client.read_head() == "101"
            client.finish()
    finally:
        server.stop(1)


@pytest.mark.skipif(geventws.__core__ == "python", reason="gevent's server accepts there")
def test_no_greenlet_waits_for_the_first_bytes(serve):
    server = serve(site)
    with server.client() as silent:
        let_arrive(server)
        wait_until(server.is_idle)
        silent.open()
        assert not server.is_idle()
        silent.finish()
