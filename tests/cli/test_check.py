"""``geventws check``, with real servers and with real proxies that are configured wrongly."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from geventws.cli import check, diagnosis, main
from tests.support import proxies
from tests.support.apps import echo, site
from tests.support.tools import need

UPGRADE = """
proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection upgrade;
"""
HOST = "proxy_set_header Host $http_host;"
PROTO = "proxy_set_header X-Forwarded-Proto $scheme;"


class Site(NamedTuple):
    """One configuration of a proxy, the URL that is checked, and the explanations."""

    lines: str
    explanations: list[str]
    url: str = "ws://localhost:{port}/echo"
    #: Whether the proxy speaks TLS.
    tls: bool = False
    server: str = "127.0.0.1:{backend}"
    arguments: tuple[str, ...] = ()


WSS = {"url": "wss://localhost:{port}/echo", "tls": True}
SITES = {
    "nginx": [
        Site(UPGRADE + HOST + PROTO, [], **WSS),
        Site(
            "", [r"of nginx/[\d.]+ is 400 .*\(Expected .* plain HTTP .*'proxy_http_version 1\.1;'"]
        ),
        Site(UPGRADE.replace("1.1", "1.0") + HOST, [r"or sends HTTP/1\.0: nginx needs the lines"]),
        Site(
            UPGRADE.replace("Connection upgrade", "Connection close") + HOST,
            ["removes the headers Upgrade and Connection"],
        ),
        Site(UPGRADE, [r"http://localhost:\d+ are refused: 403 .* nginx needs .* \$http_host;'"]),
        Site(
            UPGRADE + "proxy_set_header Host $host;",
            ["takes http://localhost for its own origin.*Host with the port"],
        ),
        Site(
            UPGRADE + HOST,
            [r"takes http://localhost:\d+ for its own origin.*X-Forwarded-Proto to https"],
            **WSS,
        ),
        Site(
            UPGRADE + HOST + "proxy_set_header Sec-WebSocket-Extensions '';",
            ["a proxy removes the header Sec-WebSocket-Extensions"],
        ),
        Site(
            UPGRADE + HOST + "proxy_read_timeout 1s;",
            [r"lost after \d+\.\d seconds of silence.*proxy_read_timeout"],
            arguments=("--idle", "10"),
        ),
        Site("", ["502 Bad Gateway: the proxy cannot reach"], server="127.0.0.1:1"),
        Site("return 404;", ["nginx has no location for /echo"]),
        Site(UPGRADE, [r"Port \d+ speaks TLS\. Use wss"], url="ws://localhost:{port}/", tls=True),
        Site(UPGRADE, [r"Port \d+ does not speak TLS"], url="wss://localhost:{port}/echo"),
        Site(
            "return 301 https://$http_host$request_uri;",
            [r"redirects to wss://localhost:\d+/echo\. .* Use this URL\."],
        ),
    ],
    "haproxy": [
        Site("http-request set-header X-Forwarded-Proto https", [], **WSS),
        Site("http-request del-header Upgrade", ["as to a plain HTTP request"]),
        Site("http-response del-header Upgrade", ["A proxy changes the headers of the 101"]),
        Site(
            "http-request set-header Host chat.internal",
            ["the proxy changes the header Host.*log of the server"],
        ),
        Site("", [r"takes http://localhost:\d+ .*X-Forwarded-Proto to https"], **WSS),
        Site(
            "http-request del-header Sec-WebSocket-Extensions\n timeout tunnel 1s",
            ["removes the header Sec-WebSocket-Extensions", "lost after .*timeout tunnel"],
            arguments=("--idle", "10"),
        ),
        Site("", ["503 Service Unavailable: the proxy has no server"], server="127.0.0.1:1"),
        Site("timeout server 200", ["504 .*has not answered"], url="ws://localhost:{port}/late"),
        Site("http-request deny", ["403 Forbidden: .*also without an Origin"]),
        Site("", [r"Port \d+ speaks TLS\. Use wss"], url="ws://localhost:{port}/", tls=True),
    ],
}


def late(environ, start_response):
    """A view that neither accepts nor refuses in time."""
    gevent.sleep(1)
    return site(environ, start_response)


def app(environ, start_response):
    view = late if environ["PATH_INFO"] == "/late" else site
    return view(environ, start_response)


def nginx(folder, backend, tls):
    ports = [proxies.free_port() for _ in SITES["nginx"]]
    lines = [f"ssl_certificate {tls[0]};", f"ssl_certificate_key {tls[1]};"]
    for port, each in zip(ports, SITES["nginx"], strict=True):
        lines += ["server {", f"listen 127.0.0.1:{port} {'ssl' * each.tls};", "location / {"]
        lines += [each.lines, f"proxy_pass http://{each.server.format(backend=backend)};", "} }"]
    (folder / "site.conf").write_text("\n".join(lines))
    (folder / "nginx.conf").write_text(proxies.NGINX.format(folder=folder))
    program = need("nginx", "apt-get install nginx")
    return ports, [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder, backend, tls):
    ports = [proxies.free_port() for _ in SITES["haproxy"]]
    pem = folder / "both.pem"
    pem.write_text(Path(tls[0]).read_text() + Path(tls[1]).read_text())
    lines = ["global", " maxconn 200", "defaults", " mode http", " retries 0"]
    lines += [f" timeout {each} 10s" for each in ("connect", "client", "server")]
    for port, each in zip(ports, SITES["haproxy"], strict=True):
        lines += [f"listen {port}", f" bind 127.0.0.1:{port} {f'ssl crt {pem}' * each.tls}"]
        lines += [f" {each.lines}", f" server one {each.server.format(backend=backend)}"]
    (folder / "haproxy.cfg").write_text("\n".join([*lines, ""]))
    return ports, [need("haproxy", "apt-get install haproxy"), "-db", "-f", f"{folder}/haproxy.cfg"]


@pytest.fixture
def run_check(capsys):
    """``run_check(url, …)``: the exit status and the lines that are printed."""

    def run(*arguments):
        status = main(["check", *arguments])
        return status, capsys.readouterr().out.splitlines()

    return run


def url_of(server, path="/echo", scheme="ws"):
    return f"{scheme}://localhost:{server.server_port}{path}"


@pytest.mark.parametrize("start", [nginx, haproxy])
def test_what_a_proxy_does_wrong_is_explained(start, serve, run_check, tls, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", tls[0])
    tmp_path.chmod(0o755)
    backend = serve(app, trusted_proxies="*").server_port
    ports, command = start(tmp_path, backend, tls)
    with proxies.running(command, ports[0], tmp_path / "log"):
        for port, each in zip(ports, SITES[start.__name__], strict=True):
            status, lines = run_check(each.url.format(port=port), *each.arguments)
            assert status == bool(each.explanations), (each, lines)
            expected = each.explanations or ["The WebSocket works: open after .*Pong after"]
            assert len(lines) == len(expected), (each, lines)
            for explanation, line in zip(expected, lines, strict=True):
                assert re.search(explanation, line), (each, line)


def test_a_websocket_that_works_is_described(serve, run_check):
    status, (line,) = run_check(url_of(serve(echo)))
    assert status == 0
    assert re.fullmatch(r"The WebSocket works: open after \d+ ms, Pong after .*--idle 70\.", line)
    status, (line,) = run_check(url_of(serve(echo, compression=False)), "--idle", "0.01")
    assert status == 0
    assert line.endswith(
        "does not compress messages (option compression). It stayed open for 0.01 seconds."
    )


@pytest.mark.parametrize(
    ("path", "explanation"),
    [
        ("/refuse", r"401 Unauthorized \(Who are you\?\): the server wants a login"),
        ("/refuse-in-pieces", r"answers 404 Not Found \(Nothing here\)\. Correct the path"),
        ("/redirect", r"redirects to ws://localhost:\d+/elsewhere\. .*login page"),
        ("/crash-early", r"The application fails: 500 Internal Server Error"),
        ("/crash", "The server closes with 1011"),
    ],
)
def test_what_the_application_answers_is_explained(serve, run_check, path, explanation):
    status, (line,) = run_check(url_of(serve(site), path))
    assert status == 1
    assert re.search(explanation, line), line


def test_a_close_by_the_application_is_no_problem(serve, run_check):
    status, (line,) = run_check(url_of(serve(site), "/close"))
    assert status == 0
    assert line.endswith("The server has closed it with 4001 not you.")


def test_a_view_that_accepts_late_is_found(serve, run_check, monkeypatch):
    monkeypatch.setattr(diagnosis, "_LATE_OPENING", 0.2)
    server = serve(lambda *request: gevent.sleep(0.3) or echo(*request))
    status, (line,) = run_check(url_of(server))
    assert status == 1
    assert re.match(r"The 101 takes 0\.\d seconds\. Call ws\.accept\(\) first", line)


def test_the_command_line_sets_the_request(serve, run_check):
    requests = []

    def app(environ, start_response):
        requests.append(environ)
        return echo(environ, start_response)

    url = url_of(serve(app, subprotocols=["chat"], allowed_origins=["https://a.example"]))
    arguments = ["--header", "Cookie: a=b", "--header", "User-Agent: mine", "--subprotocol", "chat"]
    assert run_check(url, *arguments, "--origin", "https://a.example")[0] == 0
    plain, browser = requests
    for environ in requests:
        assert environ["HTTP_COOKIE"] == "a=b"
        assert environ["HTTP_USER_AGENT"] == "mine"
        assert environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] == "chat"
    assert "HTTP_ORIGIN" not in plain
    assert browser["HTTP_ORIGIN"] == "https://a.example"
    offer = "permessage-deflate; client_max_window_bits"
    assert browser["HTTP_SEC_WEBSOCKET_EXTENSIONS"] == offer
    status, (line,) = run_check(url, "--origin", "https://b.example")
    assert status == 1
    assert 'set the option allowed_origins=["self", "https://b.example"] (with the' in line
    assert "--allowed-origins self,https://b.example;" in line


@pytest.mark.parametrize(
    ("refused", "explanation"),
    [
        (lambda environ: "HTTP_SEC_WEBSOCKET_EXTENSIONS" in environ, "refuses Sec-WebSocket-Ext"),
        (lambda environ: "Mozilla" in environ["HTTP_USER_AGENT"], "refuses User-Agent: 418 Teapot"),
        (lambda environ: "HTTP_ORIGIN" not in environ, "Requests without the headers of browsers"),
    ],
)
def test_a_refused_header_is_named(serve, run_check, refused, explanation):
    def app(environ, start_response):
        if not refused(environ):
            return echo(environ, start_response)
        start_response("418 Teapot", [])
        return []

    status, (line,) = run_check(url_of(serve(app)))
    assert status == 1
    assert explanation in line


def test_a_certificate_without_an_authority_is_explained(serve, run_check, tls):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    status, (line,) = run_check(url_of(server, scheme="wss"))
    assert status == 1
    assert line.startswith("The certificate of localhost is not accepted: it is self-signed.")
    status, (line,) = run_check(url_of(server, scheme="ws"))
    assert status == 1
    assert line == f"Port {server.server_port} speaks TLS. Use wss://."


@contextlib.contextmanager
def listening(handle):
    """The URL of a server that is not an HTTP server."""
    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    try:
        yield f"ws://127.0.0.1:{server.server_port}/"
    finally:
        server.stop(0)


def test_a_proxy_that_holds_back_data_is_found(serve, run_check, monkeypatch):
    monkeypatch.setattr(check, "_PONG", 0.2)
    monkeypatch.setattr(check, "_CLOSE", 0.2)
    backend = serve(echo).server_port

    def hold_back(sock, _):
        """Forward the 101, and no data after it."""
        with sock, socket.create_connection(("127.0.0.1", backend)) as server:
            server.sendall(sock.recv(4096))
            sock.sendall(server.recv(4096))
            while sock.recv(4096):
                pass

    with listening(hold_back) as url:
        status, (line,) = run_check(url)
    assert status == 1
    assert line.startswith("The 101 arrives, but no Pong: a proxy buffers data.")


def test_a_proxy_that_holds_back_the_101_is_found(run_check, monkeypatch):
    monkeypatch.setattr(check, "_UPGRADE", 0.2)
    monkeypatch.setattr(check, "_QUESTION", 0.2)
    with listening(lambda sock, _: sock.recv(1 << 16) and sock.recv(1)) as url:
        status, (line,) = run_check(url)
    assert status == 1
    assert line.startswith("The server accepts the connection, but does not answer.")


def test_a_port_of_another_protocol_is_explained(run_check):
    def greet(sock, _):
        sock.sendall(b"SSH-2.0-server\r\n\r\n")

    with listening(greet) as url:
        status, (line,) = run_check(url)
    assert status == 1
    assert "There is no HTTP response: the response is not HTTP/1.1: 'SSH-2.0-server'" in line


def test_a_port_without_a_server_is_explained(run_check):
    status, (line,) = run_check(f"ws://127.0.0.1:{proxies.free_port()}/")
    assert status == 1
    assert re.match("No server listens: cannot connect to 127.0.0.1 port .*Connection ref", line)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["http://127.0.0.1/"], "begins neither with ws:// nor with wss://"),
        (["ws://127.0.0.1/", "--idle", "nan"], "--idle must be from 0 to 3600 seconds"),
        (["ws://127.0.0.1/", "--header", "Cookie"], "'Cookie' is not of the form NAME: VALUE"),
        (["ws://127.0.0.1/", "--subprotocol", "a b"], "'a b' cannot be the name of a subprotocol"),
        (["ws://127.0.0.1/", "--unix-socket", "a", "--proxy", "b"], "cannot be combined"),
    ],
)
def test_wrong_arguments_have_the_exit_status_2(capsys, arguments, sentence):
    assert main(["check", *arguments]) == 2
    assert re.match(f"geventws: .*{sentence}", capsys.readouterr().err)
