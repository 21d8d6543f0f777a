"""Redirects of real servers that ``connect(max_redirects=…)`` follows."""

import socket as plain_socket

import psutil
import pytest
from gevent import socket

from geventws import HandshakeError, WebSocketServer, connect
from tests.support.apps import echo
from tests.support.servers import wait_until

SECONDS = 10  # nothing here takes so long


class Site:
    """An application that redirects by its path, and echoes at all other paths."""

    def __init__(self) -> None:
        #: The environ of each request.
        self.requests = []
        #: path: (status, Location)
        self.redirects = {}

    def __call__(self, environ, start_response):
        self.requests.append(dict(environ))
        redirect = self.redirects.get(environ["PATH_INFO"])
        if redirect is None:
            return echo(environ, start_response)
        status, location = redirect
        start_response(status, [("Location", location), ("Content-Type", "text/plain")])
        return [b"elsewhere\n"]

    @property
    def paths(self):
        return [environ["PATH_INFO"] for environ in self.requests]


@pytest.fixture
def first(serve):
    site = Site()
    site.port = serve(site, allowed_origins="*").server_port
    return site


@pytest.fixture
def second(serve):
    site = Site()
    site.port = serve(site, allowed_origins="*").server_port
    return site


def talk(ws):
    with ws:
        ws.send("hello")
        assert ws.receive(timeout=SECONDS) == "hello"
    return ws


@pytest.mark.parametrize(
    "status",
    [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ],
)
def test_a_redirect_is_followed_on_request(status, first):
    first.redirects["/"] = status, "/there?x=1"
    url = f"ws://127.0.0.1:{first.port}/"
    with pytest.raises(HandshakeError) as caught:
        connect(url)
    assert caught.value.status == status
    assert caught.value.body == b"elsewhere\n"
    ws = talk(connect(url, max_redirects=1))
    assert ws.path == "/there"
    assert first.paths == ["/", "/", "/there"]


def test_every_request_has_its_own_key_and_all_headers(first):
    first.redirects["/"] = "302 Found", "/there"
    url = f"ws://ada:secret@127.0.0.1:{first.port}/"
    talk(connect(url, max_redirects=1, cookies={"a": "1"}, headers={"Host": "v.example"}))
    one, two = first.requests
    assert one["HTTP_SEC_WEBSOCKET_KEY"] != two["HTTP_SEC_WEBSOCKET_KEY"]
    for environ in (one, two):
        assert environ["HTTP_AUTHORIZATION"] == "Basic YWRhOnNlY3JldA=="
        assert environ["HTTP_COOKIE"] == "a=1"
        assert environ["HTTP_HOST"] == "v.example"


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(
    "credentials", ["user", "header"], ids=["a user in the URL", "an Authorization header"]
)
def test_another_origin_gets_no_credentials(scheme, credentials, first, second):
    first.redirects["/"] = "302 Found", f"{scheme}://127.0.0.1:{second.port}/there"
    user = "ada:secret@" if credentials == "user" else ""
    headers = {"X-Kept": "1", "Host": "v.example", "Proxy-Authorization": "Basic x"}
    if credentials == "header":
        headers["Authorization"] = "Bearer x"
    ws = connect(
        f"ws://{user}127.0.0.1:{first.port}/",
        max_redirects=1,
        cookies={"a": "1"},
        headers=headers,
        origin="https://page.example",
    )
    assert talk(ws).remote_address == ("127.0.0.1", second.port)
    assert "HTTP_AUTHORIZATION" in first.requests[0]
    [environ] = second.requests
    for name in ("HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_PROXY_AUTHORIZATION"):
        assert name not in environ
    assert environ["HTTP_HOST"] == f"127.0.0.1:{second.port}"
    assert environ["HTTP_X_KEPT"] == "1"
    assert environ["HTTP_ORIGIN"] == "https://page.example"


def test_loops_and_too_many_redirects_end_and_leave_no_socket(first, second):
    first.redirects = {
        "/loop": ("302 Found", f"ws://127.0.0.1:{second.port}/loop"),
        "/1": ("302 Found", "/2"),
        "/2": ("302 Found", "/3"),
    }
    second.redirects["/loop"] = "302 Found", f"ws://127.0.0.1:{first.port}/loop"
    url = f"ws://127.0.0.1:{first.port}"
    before = psutil.Process().num_fds()
    with pytest.raises(HandshakeError, match="redirects in a loop"):
        connect(f"{url}/loop", max_redirects=100)
    with pytest.raises(HandshakeError, match="more redirects than max_redirects, which is 1"):
        connect(f"{url}/1", max_redirects=1)
    assert first.paths + second.paths == ["/loop", "/1", "/2", "/loop"]
    wait_until(lambda: psutil.Process().num_fds() <= before, "the end of the sockets")


def test_tls_is_kept_or_begun_and_never_left(first, serve, tls):
    secure = Site()
    port = serve(secure, certfile=tls[0], keyfile=tls[1]).server_port
    first.redirects["/"] = "302 Found", f"https://localhost:{port}/a"
    secure.redirects["/a"] = "302 Found", f"//localhost:{port}/b"
    options = {"max_redirects": 5, "ssl_context": tls[2]}
    talk(connect(f"ws://127.0.0.1:{first.port}/", **options))
    assert secure.paths == ["/a", "/b"]
    secure.redirects["/b"] = "302 Found", f"ws://127.0.0.1:{first.port}/there"
    with pytest.raises(HandshakeError, match="from wss:// to ws:// is not followed"):
        connect(f"wss://localhost:{port}/b", **options)
    assert first.paths == ["/"]


def test_the_name_for_tls_is_not_used_for_another_origin(serve, tls):
    one, two = Site(), Site()
    other = WebSocketServer(
        ("127.0.0.2", 0), two, certfile=tls[0], keyfile=tls[1], log=None, error_log=None
    )
    other.start()
    port = serve(one, certfile=tls[0], keyfile=tls[1]).server_port
    one.redirects["/"] = "302 Found", f"wss://127.0.0.2:{other.server_port}/"
    options = {"max_redirects": 1, "ssl_context": tls[2], "server_hostname": "localhost"}
    try:
        with pytest.raises(OSError, match="IP address mismatch"):
            connect(f"wss://127.0.0.1:{port}/", **options)
    finally:
        other.stop(1)


def test_a_proxy_is_chosen_for_each_request(first, second, monkeypatch):
    for name in ("https_proxy", "all_proxy", "ws_proxy", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    first.redirects["/"] = "302 Found", f"http://localhost:{second.port}/"
    first.redirects["/tls"] = "302 Found", "https://localhost/"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"ws://127.0.0.1:{first.port}/"
    with plain_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{sock.getsockname()[1]}")
        with pytest.raises(ConnectionRefusedError):
            connect(url, max_redirects=1)
        monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{sock.getsockname()[1]}")
        with pytest.raises(HandshakeError, match="cannot follow the redirect: wss:// through"):
            connect(f"{url}tls", max_redirects=1)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    talk(connect(url, max_redirects=1))


def test_the_limit_of_time_covers_all_requests(first):
    with plain_socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        first.redirects["/"] = "302 Found", f"ws://127.0.0.1:{sock.getsockname()[1]}/"
        with pytest.raises(TimeoutError, match=r"not open after 0\.3 seconds"):
            connect(f"ws://127.0.0.1:{first.port}/", max_redirects=1, open_timeout=0.3)


def test_a_redirect_on_a_unix_socket_stays_there(tmp_path, second):
    site = Site()
    site.redirects = {
        "/": ("302 Found", "/there"),
        "/away": ("302 Found", f"ws://127.0.0.1:{second.port}/"),
    }
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = WebSocketServer(listener, site, log=None)
    server.start()
    try:
        talk(connect("ws://app.example/", unix_socket=path, max_redirects=1))
        with pytest.raises(HandshakeError, match="another origin than that of the unix socket"):
            connect("ws://app.example/away", unix_socket=path, max_redirects=1)
    finally:
        server.stop(1)
    assert second.requests == []
