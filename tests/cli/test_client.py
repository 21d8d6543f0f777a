"""``geventws connect`` and ``geventws bench``, as a user meets them."""

import json
import os
import pty
import re
import subprocess
import sys
import termios

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from geventws import WebSocketServer
from geventws.cli import main
from tests.support.apps import echo, site
from tests.support.servers import ROOT, wait_until

CLI = [sys.executable, "-m", "geventws"]


class Session:
    """A command that reads and writes a terminal, or pipes."""

    def __init__(self, *arguments, terminal=False, home, term="xterm"):
        self.output = ""
        environment = {**os.environ, "HOME": str(home), "TERM": term}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # this terminal does not answer
        if terminal:
            self.ours, theirs = pty.openpty()
            mode = termios.tcgetattr(theirs)
            mode[3] &= ~termios.ECHO
            termios.tcsetattr(theirs, termios.TCSANOW, mode)
            self.process = subprocess.Popen(
                [*CLI, *arguments],
                cwd=ROOT,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                start_new_session=True,
            )
            os.close(theirs)
            self.reader = self.writer = self.ours
        else:
            self.process = subprocess.Popen(
                [*CLI, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self.reader = self.process.stdout.fileno()
            self.writer = self.process.stdin.fileno()
        self.greenlet = gevent.spawn(self.read)

    def read(self):
        pool = gevent.get_hub().threadpool
        while True:
            try:
                data = pool.apply(os.read, (self.reader, 4096))
            except OSError:
                return  # the terminal's other end is closed
            if not data:
                return
            self.output += data.decode()

    def type(self, line, end="\n"):
        os.write(self.writer, f"{line}{end}".encode())

    def wait_for(self, pattern):
        wait_until(lambda: re.search(pattern, self.output), f"{pattern!r} in {self.output!r}")

    def end(self):
        """Wait for its end; returns the exit status."""
        wait_until(lambda: self.process.poll() is not None, f"the end of {self.output!r}")
        self.greenlet.join(5)
        return self.process.returncode


@pytest.fixture
def start(tmp_path):
    sessions = []

    def begin(*arguments, **options):
        sessions.append(Session(*arguments, home=tmp_path, **options))
        return sessions[-1]

    yield begin
    for session in sessions:
        if session.process.poll() is None:
            session.process.kill()
        session.process.wait()
        session.greenlet.join(5)
        for pipe in (session.process.stdin, session.process.stdout):
            if pipe is not None:
                pipe.close()
        if session.process.stdin is None:
            os.close(session.ours)


def url_of(server, path="/echo"):
    return f"ws://127.0.0.1:{server.server_port}{path}"


@pytest.mark.parametrize("terminal", [False, True, "dumb"])
def test_connect_sends_lines_and_prints_what_comes(serve, start, tmp_path, terminal):
    term = "dumb" if terminal == "dumb" else "xterm"
    session = start("connect", url_of(serve(echo)), terminal=bool(terminal), term=term)
    if terminal:
        session.wait_for("Connected: no subprotocol, permessage-deflate")
    session.type("hello")
    session.wait_for("< hello")
    session.type("/binary 00 fF")
    session.wait_for("< 2 bytes: 00 ff")
    session.type("/binary x")
    session.wait_for("non-hexadecimal")
    session.type("/ping")
    session.wait_for(r"pong after \d+\.\d ms")
    session.type("/help")
    session.wait_for("/close")
    session.type("/close 4000 as you wish")
    assert session.end() == 1
    assert "closed with 4000 as you wish" in session.output
    history = tmp_path / ".geventws_history"
    assert history.exists() == (terminal is True)
    if history.exists():
        assert "hello" in history.read_text()
        assert history.stat().st_mode & 0o077 == 0


def test_a_message_does_not_disturb_what_is_being_typed(serve, start):
    received = []

    def news(environ, start_response):
        ws = environ["wsgi.websocket"]
        received.append(ws)
        for message in ws:
            received.append(message)
        return []

    session = start("connect", url_of(serve(news)), terminal=True)
    session.wait_for("Connected")
    session.type("hal", end="")
    session.wait_for("hal")
    received[0].send("first\x1b[2Jline")
    session.wait_for("< first\ufffd\\[2Jline")
    session.type("lo")
    wait_until(lambda: received[1:] == ["hallo"], "the line")
    session.type("/close")
    assert session.end() == 0


def test_connect_sends_cookies(serve, start):
    def cookies(environ, start_response):
        environ["wsgi.websocket"].send(environ["HTTP_COOKIE"])
        return []

    url = url_of(serve(cookies))
    session = start("connect", url, "--cookie", "session=abc", "--cookie", "theme=dark")
    session.wait_for("< session=abc; theme=dark\n")
    assert session.end() == 0


def test_connect_prints_json_on_several_lines(serve, start):
    session = start("connect", "--json", url_of(serve(echo)))
    session.type('{"a": [1]}')
    session.wait_for(r'< \{\n  "a": \[\n    1\n')
    session.process.stdin.close()
    assert session.end() == 0
    assert session.output.endswith("closed with 1000\n")


def test_connect_waits_for_the_answer_to_the_last_line_of_a_pipe(serve, start):
    def answer_late(environ, start_response):
        for message in environ["wsgi.websocket"]:
            gevent.sleep(0.1)
            environ["wsgi.websocket"].send(message)
        return []

    session = start("connect", url_of(serve(answer_late)))
    session.type("hello")
    session.process.stdin.close()
    assert session.end() == 0
    assert session.output == "< hello\nclosed with 1000\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_connect_ends_when_the_server_closes(serve, start, terminal):
    session = start("connect", url_of(serve(site), "/close"), terminal=terminal)
    assert session.end() == 1
    assert "closed with 4001 not you" in session.output
    assert "Traceback" not in session.output


def test_connect_says_in_a_sentence_why_it_cannot(serve, start):
    server = serve(site)
    for url, sentence in (
        (url_of(server, "/refuse"), "cannot open .*: 401 Unauthorized"),
        ("http://127.0.0.1/", "begins neither with ws:// nor with wss://"),
    ):
        session = start("connect", url)
        assert session.end() == 2
        assert re.match(rf"geventws: .*{sentence}.*\n\Z", session.output), session.output


def test_bench_names_the_url_whose_certificate_is_not_accepted(serve, tls, capsys):
    server = serve(echo, certfile=tls[0], keyfile=tls[1])
    url = f"wss://localhost:{server.server_port}/"
    assert main(["bench", url]) == 2
    expected = rf"geventws: cannot open {url}: .*certificate verify failed"
    assert re.match(expected, capsys.readouterr().err)


def test_a_server_without_websockets_says_what_to_run(serve, start):
    def app(environ, start_response):
        start_response("501 Not Implemented", [("Content-Type", "text/plain")])
        return [b"Run \x1b[1manother server\n"]

    url = url_of(serve(app), "/echo")
    refused = start("connect", url)
    assert refused.end() == 2
    sentence = "501 Not Implemented: Run \\x1b[1manother server"
    assert refused.output == f"geventws: cannot open {url}: {sentence}\n"


@pytest.mark.parametrize("command", ["connect", "bench"])
def test_a_refusal_shows_no_control_characters_of_the_server(start, command):
    def refuse(sock, address):
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 403 \x1b]0;title\x07\r\nContent-Length: 0\r\n\r\n")

    server = StreamServer(("127.0.0.1", 0), refuse)
    server.start()
    refused = start(command, f"ws://127.0.0.1:{server.server_port}/")
    assert refused.end() == 2
    server.stop()
    assert "403 \\x1b]0;title\\x07" in refused.output
    assert "\x1b" not in refused.output


def test_connect_follows_redirects_on_request(serve, start):
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/echo":
            return echo(environ, start_response)
        start_response("302 Found", [("Location", "/echo")])
        return []

    url = url_of(serve(app), "/moved")
    refused = start("connect", url)
    assert refused.end() == 2
    assert refused.output == f"geventws: cannot open {url}: 302 Found: /echo\n"
    session = start("connect", url, "--max-redirects", "1")
    session.type("hello")
    session.wait_for("< hello")
    session.process.stdin.close()
    assert session.end() == 0


def test_connect_and_bench_take_a_unix_socket(start, tmp_path):
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = WebSocketServer(listener, echo, log=None)
    server.start()
    try:
        session = start("connect", "ws://localhost/echo", "--unix-socket", path)
        session.type("hello")
        session.wait_for("< hello")
        session.process.stdin.close()
        assert session.end() == 0
        arguments = ("--unix-socket", path, "-c", "2", "--duration", "0.1")
        assert start("bench", "ws://localhost/echo", *arguments).end() == 0
    finally:
        server.stop(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--proxy", "ftp://a"], "is not the URL of a proxy"),
        (["--proxy", "socks5h://127.0.0.1:1"], "cannot open .*Connection refused"),
        (["--unix-socket", "/nowhere/socket"], "cannot connect to /nowhere/socket: No such file"),
        (["--cookie", "session"], "'session' is not of the form NAME=VALUE"),
        (["--max-redirects", "-1"], "max_redirects must not be negative"),
    ],
)
def test_connect_says_in_a_sentence_which_way_is_wrong(arguments, sentence, start):
    session = start("connect", "ws://a.example/", *arguments)
    assert session.end() == 2
    assert re.match(rf"geventws: .*{sentence}.*\n\Z", session.output), session.output


def test_bench_tells_rate_and_latency(serve, start):
    server = serve(echo)
    session = start("bench", url_of(server), "-c", "5", "--duration", "0.5")
    assert session.end() == 0
    assert re.search(r"connections   5 in [\d.]+ s", session.output)
    count = int(re.search(r"messages      ([\d,]+) in", session.output)[1].replace(",", ""))
    assert 0 < count <= server.stats().messages_sent
    assert re.search(r"latency, ms   50% [\d.]+ 90% [\d.]+ 99% [\d.]+ max [\d.]+", session.output)


def test_bench_prints_its_result_as_json(serve, start):
    session = start("bench", url_of(serve(echo)), "-c", "2", "--duration", "0.2", "--json")
    assert session.end() == 0
    result = json.loads(session.output)
    assert result["connections"] == 2
    assert result["messages"] > 0
    assert result["latency_ms"]["50%"] <= result["latency_ms"]["max"]
    assert result["failed"] == {}


def test_bench_keeps_a_rate_and_shows_a_bar(serve, start):
    server = serve(echo)
    session = start(
        "bench", url_of(server), "-c", "4", "--duration", "1", "--rate", "40", terminal=True
    )
    assert session.end() == 0
    assert "[####" in session.output
    count = int(re.search(r"messages      (\d+) in", session.output)[1])
    assert 10 < count <= 44


def test_bench_tells_what_failed(serve, start):
    session = start("bench", url_of(serve(site), "/close"), "-c", "3", "--duration", "5")
    assert session.end() == 1
    assert "failed        3: closed with 4001 not you" in session.output
