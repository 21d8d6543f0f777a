"""The opening handshake, fed with whatever a client may send, through the real handler."""

import logging
import re
import socket
from http import HTTPStatus

import gevent
from gevent.socket import socketpair

from geventws import WebSocketServer
from geventws.connection import logs
from geventws.exceptions import HandshakeError
from geventws.options import Options
from geventws.protocol.server_handshake import check_request, is_websocket_request, response_headers

ADDRESS = ("127.0.0.1", 1)
OPTIONS = [
    Options(),
    Options(allowed_origins="*"),
    Options(allowed_origins=["https://*.example.com"]),
    Options(trusted_proxies=["127.0.0.0/8"], subprotocols=["chat"]),
]
_KEY = re.compile(r"[ \t]*[A-Za-z0-9+/]{22}==[ \t]*")


class Host:
    """Fails in the test whatever goes wrong in the server."""

    def __init__(self) -> None:
        self.server = WebSocketServer(("127.0.0.1", 0), self.application, log=None)
        self.server.init_socket()
        self.problems = []
        #: The number of plain requests of the latest client.
        self.plain_requests = 0
        logs.logger.setLevel(logging.CRITICAL)
        gevent.get_hub().handle_error = self.note

    def application(self, environ, start_response):
        """Echoes, and counts plain requests."""
        ws = environ.get("wsgi.websocket")
        if ws is None:
            self.plain_requests += 1
            start_response("200 OK", [])
            return [b"<an ordinary response>"]
        for message in ws:
            ws.send(message)
        return []

    def note(self, context, kind, value, traceback) -> None:
        self.problems.append(value)

    def answer(self, data: bytes) -> bytes:
        """All that the server answers to a client that sends this and leaves."""
        self.plain_requests = 0
        client, server = socketpair()
        with client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            with server:
                self.server.handle(server, ADDRESS)
            received = b""
            try:
                while piece := client.recv(1 << 16):
                    received += piece
            except ConnectionResetError:
                pass  # what it had not read
        if self.problems:
            raise self.problems.pop()
        assert not self.server.websockets
        return received


_host = None


def check_served(data: bytes) -> None:
    """The response is HTTP, or a WebSocket if the request asked for one."""
    global _host  # noqa: PLW0603 - one server for a million requests
    if _host is None:
        _host = Host()
    data = data[:60_000]  # what a socket takes at once
    received = _host.answer(data)
    if not received or b" HTTP/0.9" in data:
        return
    head, _, rest = received.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.1 (\d{3})", head)
    assert status, received
    HTTPStatus(int(status[1]))
    if status[1] == b"101":
        asked = data.partition(b"\r\n\r\n")[0].lower()
        for word in (b"upgrade", b"websocket", b"sec-websocket-key", b"13"):
            assert word in asked, (word, data)
        assert re.search(rb"HTTP/1\.[1-9]", data), data
        assert not _host.plain_requests, data
    if b"connection: close" in head.lower():
        # A body may repeat parts of the request, such as its Origin.
        length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        behind = rest[int(length[1]) if length else 0 :]
        assert not re.search(rb"HTTP/1\.1 \d{3} ", behind), received


def environ_of(data: bytes) -> dict:
    """An environ of lines NAME=value."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "REMOTE_ADDR": "127.0.0.1",
    }
    for line in data.decode("latin-1").split("\n"):
        name, _, value = line.partition("=")
        environ[name] = value
    return environ


def check_environ(data: bytes) -> None:
    """A request is refused with an HTTP status or has all that RFC 6455 section 4.2.1 wants."""
    environ = environ_of(data)
    if not is_websocket_request(environ):
        return
    for options in OPTIONS:
        try:
            check_request(environ, options.allowed_origins, options.trusted_proxies)
        except HandshakeError as refusal:
            if refusal.status[:3] not in {"400", "403", "426"} or not refusal.body.isascii():
                raise
            continue
        assert environ["REQUEST_METHOD"] == "GET"
        assert environ["HTTP_HOST"]
        assert _KEY.fullmatch(environ["HTTP_SEC_WEBSOCKET_KEY"])
        assert environ["HTTP_SEC_WEBSOCKET_VERSION"].strip(" \t") == "13"
        assert "upgrade" in environ["HTTP_CONNECTION"].lower()
        try:
            headers = response_headers(environ, extra=[("X-Value", data.decode("latin-1"))])
        except ValueError:
            continue
        for name, value in headers:
            assert not set("\r\n\0") & set(name + value), headers
