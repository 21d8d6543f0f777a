"""``geventws module:app``, as a user meets it."""

import argparse
import json
import logging
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from geventws import __core__
from geventws.cli.application import load_application
from geventws.cli.environment import load_from
from geventws.cli.errors import UsageError
from geventws.cli.listeners import open_listener
from geventws.cli.logs import formatter_for
from geventws.cli.settings import add_arguments, settings_from
from tests.support.client import TEXT, RawClient, close_frame, frame, request
from tests.support.proxies import free_port
from tests.support.servers import ROOT, arguments_of, serving, wait_until
from tests.support.tools import need

SITE = "tests.support.apps:site"
CLI = ["-m", "geventws"]
FACTORY = """
def create_app(greeting="hello", *, excited=False):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [(greeting + "!" * excited).encode()]
    return app
"""
LOGGING = {
    "json": """{
        "version": 1,
        "formatters": {"own": {"format": "%(name)s says %(message)s"}},
        "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
        "root": {"level": "INFO", "handlers": ["own"]}
    }""",
    "ini": """
[loggers]
keys = root
[handlers]
keys = own
[formatters]
keys = own
[logger_root]
level = INFO
handlers = own
[handler_own]
class = StreamHandler
formatter = own
[formatter_own]
format = %(name)s says %(message)s
""",
}


def run(*arguments, cwd=ROOT, **environment):
    """Run the command line to its end; returns its status and what it says."""
    done = subprocess.run(
        [sys.executable, *CLI, *arguments],
        cwd=cwd,
        text=True,
        timeout=30,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def body(client):
    """What a plain request for ``/whoami`` gets; both sides close then."""
    with client:
        client.send(request("/whoami", [("Connection", "close")], without="Upgrade"))
        return client.read_response()[1].decode()


def wait_for_two_workers(process, **options):
    """Gunicorn forgets a SIGTERM that comes before its worker is ready."""
    workers = set()

    def ask():
        workers.add(body(process.client(**options)))
        return len(workers) == 2

    wait_until(ask, "an answer by a second worker")


def echo(client):
    with client:
        client.open()
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_closes_the_clients_with_1001_and_stops_quietly(tmp_path, signum):
    with serving(arguments_of("cli"), tmp_path / "log") as process:
        clients = [process.client().open() for _ in range(3)]
        process.process.send_signal(signum)
        for client in clients:
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
            assert client.read_to_end() == b""
            client.sock.close()
        assert process.process.wait(15) == 0
        assert "Traceback" not in process.output
        assert "KeyboardInterrupt" not in process.output


def test_requests_and_connections_have_a_line_each(tmp_path):
    with serving(arguments_of("cli"), tmp_path / "log") as process:
        with process.client() as client:
            client.send(request("/plain", without="Upgrade"))
            assert client.read_response() == ("200", b"plain")
        with process.client().open() as client:
            client.send(frame(TEXT, "x"))
            assert client.read_frame() == (TEXT, b"x")
            client.finish()
        process.wait_for('"GET /plain HTTP/1.1" 200')
        process.wait_for('"GET /echo HTTP/1.1" 101')
        process.wait_for(r" INFO geventws.connections: 127.0.0.1 /echo opened")
        process.wait_for(r"/echo closed 1000 after \S+ s, 1 in, 1 out \[\w+\]\n")
        line = (
            rf"Serving {SITE} on http://127.0.0.1:\d+ \({__core__} core\). Press Ctrl-C to stop.\n"
        )
        assert re.match(line, process.output)


def test_a_missing_compiled_core_is_said_once(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "sys.modules['geventws.protocol._reader'] = None\n"
        "from geventws.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [str(program), SITE, "--port", "0"]
    environment = {"GEVENTWS_PURE_PYTHON": "", "PYTHONPATH": str(ROOT)}
    with serving(arguments, tmp_path / "log", **environment) as process:
        process.wait_for("Install a C compiler")
    assert process.output.count("compiler") == 1
    assert "(python core)" in process.output


def test_the_log_has_colors_on_terminals_only(monkeypatch):
    record = logging.LogRecord("geventws.connections", logging.INFO, "", 0, "opened", (), None)
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "w") as terminal, open(os.devnull, "w") as file:
        assert "\x1b[32m" in formatter_for(terminal).format(record)
        assert "\x1b" not in formatter_for(file).format(record)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in formatter_for(terminal).format(record)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere:app"], "geventws: there is no module nowhere here"),
        (["nowhere:app", "--workers", "2"], "geventws: there is no module nowhere here"),
        (["nowhere:app", "--reload"], "geventws: there is no module nowhere here"),
        (
            [SITE, "--inspect", "--workers", "2"],
            "geventws: --inspect works with one process only",
        ),
        ([SITE, "--keyfile", "key.pem"], "geventws: --keyfile needs --certfile"),
        (
            [SITE, "--bind", "127.0.0.1:0", "--certfile", "nowhere.pem"],
            "geventws: cannot use the certificate nowhere.pem: No such file or directory",
        ),
        (
            [SITE, "--bind", "127.0.0.1:0", "--certfile", "setup.cfg"],
            "geventws: cannot use the certificate setup.cfg: they must be PEM files that belong"
            " together",
        ),
        (
            ["./app.py"],
            "geventws: ./app.py is a file: name the module and the application, app:app",
        ),
        ([SITE, "--reload-dir", "tests"], "geventws: --reload-dir needs --reload"),
        (
            [SITE, "--reload", "--reload-dir", "nowhere"],
            "geventws: --reload-dir: there is no directory nowhere",
        ),
        ([SITE, "--env-file", "nowhere"], "geventws: --env-file: there is no file nowhere"),
        (
            [SITE, "--log-config", "nowhere.json"],
            "geventws: --log-config nowhere.json: [Errno 2] No such file or directory:"
            " 'nowhere.json'",
        ),
        (
            [SITE, "--bind", "127.0.0.1:0", "--forwarded-allow-ips", "proxy"],
            "geventws: --forwarded-allow-ips: 'proxy' does not appear to be an IPv4 or IPv6 network",
        ),
    ],
)
def test_a_mistake_is_one_clear_sentence(arguments, sentence):
    assert run(*arguments) == (2, sentence)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tests.support.nowhere:app", "there is no module tests.support.nowhere here"),
        (
            "tests/support/apps.py",
            "tests/support/apps.py is a file: name the module and the application,"
            " tests.support.apps:app",
        ),
        ("tests.support.apps:nothing", "tests.support.apps has no nothing"),
        ("tests.support.apps:site.nothing", "tests.support.apps has no site.nothing"),
        ("tests.support.apps", "tests.support.apps has no app"),
        (
            "tests.support.apps:PLAIN",
            "tests.support.apps:PLAIN is not a WSGI application: it cannot be called",
        ),
        (
            "tests.support.apps:PLAIN.copy()",
            "tests.support.apps:PLAIN.copy() is not a WSGI application: it cannot be called",
        ),
        (
            "tests.support.apps:create(",
            "create( is neither a name such as app nor a call such as create_app()",
        ),
        (
            "tests.support.apps:create(os)",
            "create(os) is neither a name such as app nor a call such as create_app()",
        ),
        ("tests.support.apps:1", "1 is neither a name such as app nor a call such as create_app()"),
    ],
)
def test_an_application_that_is_not_there_is_said_so(monkeypatch, name, sentence):
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(UsageError) as problem:
        load_application(name)
    assert str(problem.value) == sentence


def test_a_factory_is_recognized(monkeypatch, tmp_path):
    (tmp_path / "with_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as problem:
        load_application("with_factory")
    assert str(problem.value) == (
        'with_factory has no app. Did you mean "with_factory:create_app()"?'
    )
    with pytest.raises(UsageError) as problem:
        load_application("with_factory:create_app")
    assert str(problem.value) == (
        "with_factory:create_app is not a WSGI application: it takes other arguments. If it returns"
        ' one, call it: "with_factory:create_app()"'
    )


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("8000", "8000 is not of the form HOST:PORT, unix:PATH or fd://NUMBER"),
        ("localhost:http", "localhost:http is not of the form HOST:PORT, unix:PATH or fd://NUMBER"),
        (
            "localhost:65536",
            "cannot listen on localhost:65536: the largest port is 65535",
        ),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ("fd://socket", "fd://socket is not of the form fd://NUMBER"),
        ("fd://99999", "cannot listen on fd://99999: Bad file descriptor"),
        (
            "unix:/nowhere/socket",
            "cannot listen on unix:/nowhere/socket: No such file or directory",
        ),
        ("unix:setup.cfg", "cannot listen on unix:setup.cfg: Address already in use"),
    ],
)
def test_an_address_that_is_not_to_be_had_is_said_so(monkeypatch, address, sentence):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError) as problem:
        open_listener(address)
    assert str(problem.value) == sentence


def test_a_descriptor_must_be_a_socket_that_listens():
    with socket.socket() as other, pytest.raises(UsageError, match="that does not listen"):
        open_listener(f"fd://{other.fileno()}")


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]])
def test_a_port_in_use_is_one_clear_sentence(serve, more):
    server = serve(lambda environ, start_response: [])
    address = f"127.0.0.1:{server.server_port}"
    status, sentence = run("tests.support.apps:site", "--bind", address, *more)
    assert status == 2
    assert sentence == (
        f"geventws: cannot listen on {address}: Address already in use. Stop the other program, or"
        " choose another port"
    )


def test_a_fault_inside_the_module_keeps_its_traceback(tmp_path):
    (tmp_path / "faulty.py").write_text("import not_installed\n")
    done = subprocess.run(
        [sys.executable, "-m", "geventws", "faulty:app"],
        cwd=tmp_path,
        text=True,
        timeout=30,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No module named 'not_installed'" in done.stderr


def test_version():
    import geventws

    assert run("--version") == (0, f"geventws {geventws.__version__} ({geventws.__core__} core)")


def test_the_console_script_is_the_same():
    script = Path(sys.executable).with_name("geventws")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert (0, done.stdout.strip()) == run("--version")


def test_several_addresses_are_served_at_once(tmp_path):
    path = tmp_path / "socket"
    binds = ["--bind", "127.0.0.1:0", "--bind", "[::]:0", "--bind", f"unix:{path}"]
    trusted = ["--forwarded-allow-ips", "192.0.2.1"]
    with serving([*CLI, SITE, *binds, *trusted], tmp_path / "log") as process:
        ports = re.search(r"http://127\.0\.0\.1:(\d+), http://\[::\]:(\d+), unix:", process.output)
        second = int(ports[2])
        for address in ("127.0.0.1", int(ports[1])), ("::1", second), ("127.0.0.1", second):
            echo(RawClient(address))
        forwarded = [("Origin", "https://test.example"), ("X-Forwarded-Proto", "https")]
        with RawClient(str(path)).open(headers=forwarded) as client:
            client.finish()
        with RawClient(str(path)) as client:
            client.send(request(headers=[("Origin", "http://evil.example")]))
            assert client.read_head() == "403"
        process.wait_for(f"Refused a WebSocket from unix:{path}: its Origin")
        assert process.stop() == 0
    assert not path.exists()


def test_other_users_such_as_a_proxy_may_connect_to_a_unix_socket(tmp_path):
    path = tmp_path / "socket"
    with serving([*CLI, SITE, "--bind", f"unix:{path}"], tmp_path / "log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_the_socket_of_a_server_that_was_killed_is_replaced_but_not_one_in_use(tmp_path):
    path = tmp_path / "socket"
    arguments = [*CLI, SITE, "--bind", f"unix:{path}"]
    with serving(arguments, tmp_path / "log") as process:
        process.stop(signal.SIGKILL)
    assert path.exists()
    with serving(arguments, tmp_path / "log") as process:
        assert run(SITE, "--bind", f"unix:{path}") == (
            2,
            f"geventws: cannot listen on unix:{path}: Address already in use",
        )
        echo(process.client())


def test_a_socket_of_systemd_is_taken_over(tmp_path):
    activate = need("systemd-socket-activate", "apt-get install systemd")
    for more in [], ["--workers", "2"]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [activate, f"--listen=127.0.0.1:{port}", sys.executable, *CLI, SITE]
        arguments = [
            "-c",
            "import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
            *command,
            "--bind",
            "fd://3",
            *more,
        ]
        log = tmp_path / f"log{len(more)}"
        with serving(arguments, log, ready=r"Listening on") as process:
            process.address = ("127.0.0.1", port)
            echo(process.client())  # this starts it
            if more:
                wait_for_two_workers(process)
            assert process.stop() == 0
            assert "Connection in use" not in process.output


def test_tls(tmp_path, tls):
    certificate, key, context = tls
    arguments = [*arguments_of("cli"), "--certfile", certificate, "--keyfile", key]
    with serving(arguments, tmp_path / "log") as process:
        assert "on https://127.0.0.1:" in process.output
        echo(process.client(context=context))


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("create_app()", "hello"),
        ("create_app('good morning')", "good morning"),
        ("create_app('hi', excited=True)", "hi!"),
    ],
)
def test_a_factory_makes_the_application(tmp_path, expression, answer):
    (tmp_path / "factory.py").write_text(FACTORY)
    arguments = [*CLI, f"factory:{expression}", "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log", cwd=tmp_path) as process:
        assert body(process.client()) == answer


def test_the_options_of_the_application_hold(tmp_path):
    arguments = [*CLI, "tests.support.serve:application", "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log") as process, process.client() as client:
        client.open(headers=[("Sec-WebSocket-Protocol", "other, own")])
        assert client.headers["sec-websocket-protocol"] == "own"
        assert "The application sets" not in process.output
        client.finish()


def test_the_environment_says_where_and_how_many(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {"PORT": str(port), "WEB_CONCURRENCY": "2"}
    ready = rf"http://0\.0\.0\.0:{port}"
    with serving([*CLI, SITE], tmp_path / "log", ready=ready, **environment) as process:
        process.address = "127.0.0.1", port
        wait_for_two_workers(process)


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["--graceful-timeout", "0.5"], {}, "'0.5' is not a whole number of at least 1"),
        ([], {"WEB_CONCURRENCY": ""}, "WEB_CONCURRENCY: '' is not a whole number of at least 1"),
        (["--max-message-size", "0"], {}, "max_message_size must be a positive integer, not 0"),
        (["--ping-timeout", "none"], {}, "ping_timeout must be a positive number of seconds"),
        (["--allowed-origins", "self,a.example"], {}, "such as 'https://a.example'"),
        (["--compression", "yes"], {}, "compression must be True, False"),
        (["--bind", f"{'a' * 70}:80"], {}, "a:80 is not of the form HOST:PORT"),
        (["--port", "9" * 5000], {}, "the largest port is 65535"),
        (["--log-config", "a.json", "--log-format", "json"], {}, "leave out --log-format"),
    ],
)
def test_a_wrong_value_is_explained(arguments, environment, reason):
    status, said = run(SITE, *arguments, **environment)
    assert status == 2
    assert reason in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_options_of_websockets_are_arguments(tmp_path, workers):
    arguments = ["--allowed-origins", "self,http://localhost:5173", "--max-message-size", "4"]
    arguments += ["--compression", "off", "--accept-after", "none", "--workers", workers]
    with serving([*arguments_of("cli"), *arguments], tmp_path / "log") as process:
        wanted = [("Origin", "http://localhost:5173")]
        wanted.append(("Sec-WebSocket-Extensions", "permessage-deflate"))
        with process.client().open(headers=wanted) as client:
            assert "sec-websocket-extensions" not in client.headers
            client.send(frame(TEXT, "12345"))
            assert client.read_close()[0] == 1009
            client.send(close_frame(1009))
        if workers == "2":
            wait_for_two_workers(process)


def test_gunicorn_does_not_limit_the_connections_of_several_workers(tmp_path):
    (tmp_path / "app.py").write_text(
        "import sys, geventws\n"
        "frame = sys._getframe()\n"
        "while not isinstance(frame.f_locals.get('self'), geventws.Worker):\n"
        "    frame = frame.f_back\n"
        "most = str(frame.f_locals['self'].worker_connections).encode()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [most]\n"
    )
    arguments = [*CLI, "app", "--workers", "2", "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log", cwd=tmp_path) as process:
        assert int(body(process.client())) >= 1_000_000


def test_environment_variables_of_a_file_count_unless_they_are_set_already(tmp_path):
    (tmp_path / "variables").write_text("PORT=1\nGREETING=hello\n")
    (tmp_path / "app.py").write_text(
        FACTORY + "import os\napp = create_app(os.environ['GREETING'])"
    )
    port = free_port()
    arguments = [*CLI, "app", "--env-file", "variables"]
    ready = rf"http://0\.0\.0\.0:{port}"
    with serving(arguments, tmp_path / "log", cwd=tmp_path, ready=ready, PORT=str(port)) as process:
        process.address = "127.0.0.1", port
        assert body(process.client()) == "hello"


def test_an_env_file_can_be_abbreviated_as_every_option(tmp_path, monkeypatch):
    monkeypatch.setenv("GREETING", "")
    monkeypatch.delenv("GREETING")
    (tmp_path / "variables").write_text("GREETING=hello\n")
    load_from(["app", "--env", str(tmp_path / "variables")])
    assert os.environ["GREETING"] == "hello"


@pytest.mark.parametrize("text", [b"A=\xff", b"A=a\0b"])
def test_an_env_file_that_cannot_be_used_is_a_mistake(tmp_path, text):
    (tmp_path / "variables").write_bytes(text)
    with pytest.raises(UsageError, match=r"--env-file .*variables: "):
        load_from(["app", "--env-file", str(tmp_path / "variables")])


def test_arguments_for_another_process_mean_the_same():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["app", "--subprotocols=-a,b", "--allowed-origins=", "--log-config=-x", "--inspect"]
    settings = settings_from(parser.parse_args(given))
    again = settings_from(parser.parse_args(["app", *settings.own_arguments()]))
    assert again.options == settings.options == {"subprotocols": ["-a", "b"], "allowed_origins": []}
    assert again.log_config == "-x"
    assert again.inspect


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_line_of_the_log_can_be_json(tmp_path, workers):
    arguments = [*arguments_of("cli"), "--log-format", "json", "--workers", workers]
    with serving(arguments, tmp_path / "log") as process:
        echo(process.client())
        with process.client().open() as client:
            client.send(frame(TEXT, "\0", mask=None))
            assert client.read_close()[0] == 1002
        with process.client() as client:
            client.send(request("/crash-early"))
            assert client.read_head() == "500"
        process.wait_for("ZeroDivisionError")
        process.wait_for("broke the protocol")
        if workers == "2":
            wait_for_two_workers(process)
        assert process.stop() == 0
    lines = [line for line in process.output.splitlines() if not line.startswith("Serving ")]
    records = [json.loads(line) for line in lines]
    assert all(record["time"] and record["level"] and record["logger"] for record in records)
    assert any('"GET /echo HTTP/1.1" 101' in record["message"] for record in records)
    closed = [record["code"] for record in records if record.get("event") == "closed"]
    assert sorted(closed) == [1000, 1002]
    assert any("ZeroDivisionError" in record.get("exc_info", "") for record in records)


def test_what_an_application_writes_to_the_error_stream_is_json_too(tmp_path):
    app = "tests.support.frameworks:bottle_app"
    command = ["-m", "geventws", app, "--bind", "127.0.0.1:0", "--log-format", "json"]
    with serving(command, tmp_path / "log") as process:
        with process.client() as client:
            client.send(request("/crash-early"))
            assert client.read_head() == "500"
        assert process.stop() == 0
    lines = [line for line in process.output.splitlines() if not line.startswith("Serving ")]
    messages = [json.loads(line)["message"] for line in lines]
    assert any("\nZeroDivisionError: the early fault" in message for message in messages)


@pytest.mark.parametrize(
    ("kind", "workers", "server"),
    [("json", "1", "geventws"), ("ini", "1", "geventws"), ("json", "2", "gunicorn")],
)
def test_a_file_can_configure_logging(tmp_path, kind, workers, server):
    path = tmp_path / f"logging.{kind}"
    path.write_text(LOGGING[kind])
    arguments = [*arguments_of("cli"), "--log-config", str(path), "--workers", workers]
    with serving(arguments, tmp_path / "log") as process:
        echo(process.client())
        process.wait_for(f'{server}.access says 127.0.0.1 .*"GET /echo HTTP/1.1" 101')
        with process.client() as client:
            client.send(request("/crash-early"))
            assert client.read_head() == "500"
        process.wait_for(f"{server}.* says .*(?s:.*)ZeroDivisionError")


def test_several_workers_are_gunicorns(tmp_path, tls):
    certificate, key, context = tls
    path = tmp_path / "socket"
    more = ["--workers", "2", "--certfile", certificate, "--keyfile", key, "--bind", f"unix:{path}"]
    with serving([*arguments_of("cli"), *more], tmp_path / "log") as process:
        wait_for_two_workers(process, context=context)
        echo(RawClient(str(path), context=context))
        process.wait_for('"GET /echo HTTP/1.1" 101')
        with process.client(context=context).open() as client:
            process.process.send_signal(signal.SIGTERM)
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
        assert process.stop() == 0
    assert not path.exists()


def test_a_low_log_level_spares_the_lines_of_requests(tmp_path):
    arguments = [*arguments_of("cli"), "--log-level", "warning"]
    with serving(arguments, tmp_path / "log") as process:
        echo(process.client())
        with process.client() as client:
            client.send(request("/crash-early"))
            assert client.read_head() == "500"
        process.wait_for("ZeroDivisionError")
        assert process.stop() == 0
        assert "GET /echo" not in process.output


def test_a_peers_fault_is_a_line_with_date_and_level(tmp_path):
    with serving(arguments_of("cli"), tmp_path / "log") as process:
        with process.client().open() as client:
            client.send(frame(TEXT, "\0", mask=None))
            assert client.read_close()[0] == 1002
        process.wait_for(r"\d\d:\d\d,\d+ INFO geventws: 127\.0\.0\.1.* broke the protocol")


def test_an_origin_behind_a_proxy_is_right_only_if_the_proxy_is_named(tmp_path):
    forwarded = [("Origin", "https://test.example"), ("X-Forwarded-Proto", "https")]
    for more, status in ([], "403"), (["--forwarded-allow-ips", "127.0.0.1"], "101"):
        log = tmp_path / f"log{status}"
        with serving([*arguments_of("cli"), *more], log) as process, process.client() as client:
            client.send(request("/echo", forwarded))
            assert client.read_head() == status


@pytest.mark.parametrize("signums", [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_a_second_ctrl_c_and_sigquit_wait_for_nobody(tmp_path, signums):
    arguments = arguments_of("cli")
    arguments[arguments.index(SITE)] = "tests.server.test_drain:stuck"
    with serving(arguments, tmp_path / "log") as process, process.client().open() as client:
        process.process.send_signal(signums[0])
        assert client.read_close() == (1001, "")
        for signum in signums[1:]:
            process.process.send_signal(signum)
        assert client.read_to_end() == b""
        # It is about to exit; SIGTERM could meet it without a handler.
        assert process.stop(signal.SIGCONT, seconds=5) == 0
        assert "Traceback" not in process.output
        assert process.output.count('"GET /echo HTTP/1.1" 101') == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_changed_file_is_served_anew_on_the_same_socket(tmp_path, signum):
    app = tmp_path / "changing.py"
    app.write_text(FACTORY + "app = create_app('before')\n")
    path = tmp_path / "socket"
    arguments = [*CLI, "changing", "--reload", "--bind", f"unix:{path}"]
    with serving(arguments, tmp_path / "log", cwd=tmp_path) as process:
        assert body(process.client()) == "before"
        app.write_text("this is no Python\n")
        process.wait_for("(?s)Reloading: changing.py changed.*SyntaxError")
        app.write_text(FACTORY + "app = create_app('after')\n")
        assert body(process.client()) == "after"  # waits until there is somebody to answer
        assert process.stop(signum) == 0
        assert "KeyboardInterrupt" not in process.output
    assert not path.exists()


EDITS_AT_ONCE = """
import pathlib, subprocess, sys
from geventws.cli.reload import start_and_restart
starts = []
def start(numbers):
    starts.append(numbers)
    if len(starts) == 2:
        raise KeyboardInterrupt
    pathlib.Path("changing.py").write_text("")
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
start_and_restart(["127.0.0.1:0"], start, ["."])
"""


def test_a_change_just_after_the_start_is_not_missed(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", EDITS_AT_ONCE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert found.stderr == "Reloading: changing.py changed\n"
