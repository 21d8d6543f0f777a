"""WebSockets in a Django project with accounts, sessions and a database."""

import subprocess
import sys

import psutil
import pytest

from geventws import HandshakeError, connect
from tests.support.client import request
from tests.support.servers import ROOT, serving
from tests.support.tools import wait_until

PROJECT = "tests.support.django_project"
#: Creates the tables, and an account.
PREPARE = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
User.objects.create_user("Ada")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The environment variables of the project, with a database."""
    variables = {
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "DJANGO_DATABASE": str(tmp_path_factory.mktemp("django") / "database"),
    }
    subprocess.run([sys.executable, "-c", PREPARE], cwd=ROOT, env=variables, check=True, timeout=60)
    return variables


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    command = ["-m", "geventws", f"{PROJECT}.wsgi:application", "--bind", "127.0.0.1:0"]
    with serving(command, tmp_path_factory.mktemp("server") / "log", **project) as process:
        process.database = project["DJANGO_DATABASE"]
        process.cookie = log_in(process)
        yield process


def ask(server, path, cookie="") -> tuple[str, bytes, dict[str, str]]:
    """The status, the body and the headers of a plain HTTP response."""
    with server.client() as client:
        headers = [("Cookie", cookie), ("Connection", "close")]
        client.send(request(path, headers, without="Upgrade"))
        return *client.read_response(), client.headers


def log_in(server) -> str:
    """The session's cookie."""
    return ask(server, "/login/Ada")[2]["set-cookie"].partition(";")[0]


def open_at(server, path, cookie="", host="test.example", **options):
    headers = {"Host": host, "Cookie": cookie, **options.pop("headers", {})}
    return connect(f"ws://127.0.0.1:{server.address[1]}{path}", headers=headers, **options)


def status_of(server, path, cookie="", **options) -> tuple[int, str]:
    """The status and the Location of a refusal, or 101."""
    try:
        with open_at(server, path, cookie, **options):
            return 101, ""
    except HandshakeError as refusal:
        return refusal.status_code, dict(refusal.headers).get("Location", "")


def count_connections(server) -> int:
    """The number of connections to the database: how often the process has opened its file."""
    files = psutil.Process(server.process.pid).open_files()
    return [file.path for file in files].count(server.database)


@pytest.mark.parametrize("path", ["/chat/kitchen", "/detached"])
def test_a_view_behind_a_login_redirects_before_the_101(server, path):
    assert status_of(server, path) == (302, f"/accounts/login/?next={path}")
    assert status_of(server, path, server.cookie) == (101, "")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/refuse/denied", 403),
        ("/refuse/missing", 404),
        ("/refuse/no-object", 404),
        ("/refuse/later", 503),
        ("/staff", 403),  # logged in, without the permission
        ("/nowhere", 404),
    ],
)
def test_a_view_refuses_with_the_status_of_other_views(server, path, status):
    assert status_of(server, path, server.cookie) == (status, "")


def test_a_class_based_view_gets_the_user_and_the_variables_of_the_url(server):
    assert status_of(server, "/greeting") == (403, "")
    with open_at(server, "/greeting", server.cookie) as ws:
        assert list(ws) == ["Hello, Ada"]
        assert ws.close_code == 1000


def test_a_decorated_view_may_be_given_to_path(server):
    with open_at(server, "/chat/again/kitchen", server.cookie) as ws:
        assert ws.receive(10) == str(server.process.pid)


@pytest.mark.parametrize(
    ("status", "origin", "headers"),
    [
        (101, "http://test.example", {}),
        (403, "https://test.example", {}),
        (101, "https://test.example", {"X-Forwarded-Proto": "https"}),
        (101, "https://pages.example", {}),
        (403, "http://pages.example", {}),
        (101, "https://a.b.trusted.example", {}),
        (101, "https://trusted.example", {}),
        (403, "https://nottrusted.example", {}),
        (400, "http://rebound.example", {"Host": "rebound.example"}),
    ],
)
def test_the_settings_say_which_pages_may_connect(server, status, origin, headers):
    got = status_of(server, "/chat/kitchen", server.cookie, origin=origin, headers=headers)
    assert got == (status, "")


def test_options_are_read_from_the_settings(server):
    with open_at(server, "/chat/kitchen", server.cookie) as ws:
        ws.send("x" * 1001)
        assert ws.wait_closed(10)
        assert ws.close_code == 1009


def test_a_session_is_saved_with_the_101_and_does_not_overwrite_a_newer_one(server):
    with open_at(server, "/visit") as ws:
        cookie = dict(ws.response_headers)["Set-Cookie"].partition(";")[0]
        assert ask(server, "/session", cookie)[1] == b"seen=before page=first"
        assert ask(server, "/session?seen=later", cookie)[1] == b"seen=later page=first"
    server.wait_for('"GET /visit HTTP/1.1" 101')
    assert ask(server, "/session", cookie)[1] == b"seen=later page=first"


def test_a_waiting_view_holds_no_database_connection(server):
    wait_until(lambda: count_connections(server) == 0)
    sockets = [open_at(server, "/chat/kitchen", server.cookie) for _ in range(3)]
    for ws in sockets:
        ws.receive(10)
    sockets[0].send("hello")  # the view writes it to the database
    for ws in sockets:
        assert ws.receive(10) == "Ada: hello"
    wait_until(lambda: count_connections(server) == 0)
    with open_at(server, "/hold") as ws:  # inside a transaction
        assert ws.receive(10) == "1"
        assert count_connections(server) == 1
    wait_until(lambda: count_connections(server) == 0)
    for ws in sockets:
        ws.close()


def test_a_detached_websocket_holds_a_database_connection_only_in_its_callbacks(server):
    sockets = [open_at(server, "/detached", server.cookie) for _ in range(3)]
    for ws in sockets:
        ws.send("Ada")
        assert ws.receive(10) is not None
    wait_until(lambda: count_connections(server) == 0)
    for ws in sockets:
        ws.close()


def test_a_chat_over_two_workers(project, start_redis, tmp_path):
    redis = start_redis()
    command = ["-m", "gunicorn", "-k", "geventws.Worker", "-w", "2", "-b", "127.0.0.1:0"]
    command.append(f"{PROJECT}.wsgi")
    with serving(command, tmp_path / "log", REDIS=redis.url, **project) as process:
        cookie = log_in(process)
        sockets, workers = [], set()
        while len(workers) < 2:
            sockets.append(open_at(process, "/chat/kitchen", cookie))
            workers.add(sockets[-1].receive(10))
        sockets[0].send("hello")
        for ws in sockets:
            assert ws.receive(10) == "Ada: hello"
            ws.close()
        assert "Traceback" not in process.output


def test_a_plain_request_gets_426(server):
    status, body, headers = ask(server, "/chat/again/kitchen", server.cookie)
    assert (status, headers["upgrade"]) == ("426", "websocket")
    assert b"WebSocket endpoint" in body


def test_runserver_says_what_to_run_instead(project, tmp_path):
    sentence = f"Run this one instead: geventws {PROJECT}.wsgi:application"
    command = ["-m", "django", "runserver", "--noreload", "127.0.0.1:0"]
    with serving(command, tmp_path / "log", **project) as process:
        with pytest.raises(HandshakeError, match=sentence) as refusal:
            open_at(process, "/greeting")
        assert refusal.value.status_code == 501
        assert ask(process, "/greeting")[0] == "426"
        process.wait_for(f"/greeting: .*{sentence}")
        assert "Traceback" not in process.output


def test_an_async_view_is_refused_when_it_is_decorated():
    from django.views import View

    from geventws.django import websocket

    async def chat(request, ws):
        pass

    class Chat(View):
        async def get(self, request, ws):
            pass

    for view in (chat, Chat.as_view()):
        with pytest.raises(TypeError, match=r"must be a plain function"):
            websocket(view)
