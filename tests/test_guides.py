"""The how-to guides of the documentation: their programs run as they are printed."""

import contextlib
import subprocess
import sys
import time
import types
from urllib.request import Request, urlopen

import pytest
from gevent import get_hub
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import geventws
from geventws import HandshakeError
from geventws.testing import connect
from tests.support.servers import ROOT, serving, wait_until
from tests.support.tools import need
from tests.test_docs import snippets_of
from tests.test_recipes import cookie_of

DOCS = ROOT / "docs"
SECONDS = 10


def program(page, name):
    """Return the program that a page tells to save under this name."""
    [source] = [it for it in snippets_of(DOCS / page) if it.startswith(f"# {name}\n")]
    return source


def load(page, name):
    return load_source(program(page, name), name)


def load_source(source, name):
    """Import a program. The process of the tests stays unpatched."""
    source = source.replace("monkey.patch_all()", "")
    module = types.ModuleType(__name__)  # Pyramid looks for the module of its caller
    exec(compile(source, name, "exec"), vars(module))
    return module


def wait_for_line(window, text):
    WebDriverWait(window, 20, 0.05).until(
        lambda window: text in window.find_element(By.ID, "lines").text
    )


def test_the_chat_of_the_readme_sends_each_message_to_all_pages():
    [source] = snippets_of(ROOT / "README.md")
    readme = load_source(source, "app.py")
    page = readme.app.test_client().get("/").text
    assert page in program("broadcast.md", "chat.py")  # which runs in a browser
    with connect(readme.app, "/chat") as ada, connect(readme.app, "/chat") as bob:
        ada.send("hello")
        assert ada.receive() == bob.receive() == "hello"


def test_the_programs_about_scaling_run_as_pasted_on_http_and_https(
    tmp_path, redis_server, open_window, tls
):
    source = "\n\n".join(snippets_of(DOCS / "broadcast.md"))
    (tmp_path / "chat.py").write_text(source.replace("redis://localhost", redis_server.url))
    arguments = ["-m", "geventws", "chat:app", "--bind", "127.0.0.1:0"]
    certificate, key, context = tls
    window = open_window("about:blank")
    broadcast = geventws.Broadcast(redis_server.url)
    for scheme, more in ("", []), ("s", ["--certfile", certificate, "--keyfile", key]):
        with serving([*arguments, *more], tmp_path / f"log{scheme}", cwd=tmp_path) as server:
            address = f"localhost:{server.address[1]}"
            window.get(f"http{scheme}://{address}/")
            wait_until(lambda: broadcast.subscribers("chat") == 1, "the page")
            url = f"ws{scheme}://{address}"
            trust = {"ssl_context": context} if scheme else {}
            with geventws.connect(f"{url}/careful", **trust) as careful:
                careful.send("hello")
                wait_for_line(window, "hello")
            with geventws.connect(f"{url}/news", **trust) as news:
                wait_until(lambda: broadcast.subscribers("news") == 1, "the client")
                broadcast.publish("news", "headline")
                assert news.receive(SECONDS) == "headline"
                server.wait_for("news headline")
    broadcast.close()


def test_orders_of_the_existing_flask_app_reach_its_pages():
    app = load("flask.md", "shop.py").app
    client = app.test_client()
    with client.session_transaction() as session:
        session["user"] = "ann"
    cookies = {"session": client.get_cookie("session").value}
    with connect(app, "/orders/live", cookies=cookies) as ws:
        assert client.post("/orders").status_code == 200
        assert ws.receive() == "ann has ordered."
    with pytest.raises(HandshakeError, match="401"):
        connect(app, "/orders/live")


@pytest.mark.filterwarnings("ignore:'cgi' is deprecated")  # imported by WebOb
@pytest.mark.parametrize(
    ("page", "name", "path", "answer"),
    [
        ("flask.md", "factory.py", "/rooms/attic", "attic: hello"),
        ("wsgi.md", "rooms.py", "/chat", "hello"),
        ("wsgi.md", "echo.py", "/", "hello"),
        ("migration-flask-sock.md", "echo.py", "/echo", "hello"),
        ("migration-websockets.md", "rooms.py", "/", "hello"),
    ],
)
def test_a_program_answers(page, name, path, answer):
    module = load(page, name)
    app = module.app if hasattr(module, "app") else module.create_app()
    with connect(app, path) as ws:
        ws.send("hello")
        assert ws.receive() == answer


def test_a_websocket_is_closed_when_the_login_expires():
    app = load("authentication.md", "members.py").app
    with pytest.raises(HandshakeError, match="401"):
        connect(app, "/members")
    client = app.test_client()
    with client.session_transaction() as session:
        session["expires"] = time.time() + 1.5  # within this time, the client connects
    cookies = {"session": client.get_cookie("session").value}
    with connect(app, "/members", cookies=cookies) as ws:
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (4401, "login expired")


def test_a_page_gets_the_messages_that_it_missed():
    app = load("reconnecting.md", "live.py").app
    with connect(app, "/chat?since=") as writer:
        since = writer.receive_json()["id"]
        writer.send("missed")
        assert writer.receive_json()["text"] == "missed"
        with connect(app, f"/chat?since={since}") as back:
            assert back.receive_json()["text"] == "missed"
            assert back.receive_json()["recovered"] is True


def test_more_clients_than_the_pool_has_connections_use_the_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = load("sqlalchemy.md", "notes.py")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(notes.app, "/notes")) for _ in range(20)]
        for count, ws in enumerate(clients, 1):
            ws.send("note")
            assert ws.receive_json() == {"notes": count}
        assert notes.engine.pool.checkedout() == 0
    notes.engine.dispose()


def test_votes_reach_all_pages_without_socketio():
    app = load("migration-socketio.md", "votes.py").app
    with connect(app, "/votes") as one, connect(app, "/votes") as two:
        assert one.receive_json() == two.receive_json() == {"left": 0, "right": 0}
        one.send("left")
        assert one.receive_json() == two.receive_json() == {"left": 1, "right": 0}


def test_a_greenlet_counts_down():
    app = load("background.md", "countdown.py").app
    with connect(app, "/countdown") as ws:
        app.test_client().post("/start/0")
        assert ws.receive() == "0"


def test_tasks_and_jobs_of_other_processes_reach_the_clients(tmp_path, redis_server):
    for name in "live.py", "tasks.py", "app.py", "clock.py":
        source = program("background.md", name).replace("redis://localhost", redis_server.url)
        (tmp_path / name).write_text(source)
    arguments = ["-m", "geventws", "app:app", "--bind", "127.0.0.1:0"]
    with (
        serving(arguments, tmp_path / "log", cwd=tmp_path) as server,
        redis_server.client() as redis,
    ):
        address = f"127.0.0.1:{server.address[1]}"
        request = Request(f"http://{address}/reports", b"", cookie_of("ann"))
        get_hub().threadpool.apply(lambda: urlopen(request, timeout=SECONDS).read())
        assert redis.llen("celery") == 1
        with geventws.connect(f"ws://{address}/reports", headers=cookie_of("ann")) as ws:
            wait_until(
                lambda: redis.pubsub_numsub("geventws:reports:ann")[0][1], "the subscription"
            )
            tasks = "import tasks, clock; tasks.write_report('ann'); clock.tell_time()"
            subprocess.run([sys.executable, "-c", tasks], cwd=tmp_path, check=True, timeout=30)
            assert ws.receive(SECONDS) == "Your report is ready."


def test_the_view_that_replaces_a_consumer_of_channels_talks(tmp_path):
    for page in "chat/views.py", "mysite/urls.py":
        path = tmp_path / page
        path.parent.mkdir()
        path.write_text(program("migration-channels.md", page))
    run = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from django.conf import settings
settings.configure(ROOT_URLCONF="mysite.urls", ALLOWED_HOSTS=["*"], SECRET_KEY="key")
from geventws.django import get_wsgi_application
from geventws.testing import connect
with connect(get_wsgi_application(), "/ws/chat/attic/") as ws:
    ws.send("hello")
    assert ws.receive_json() == {{"text": "hello"}}
"""
    subprocess.run([sys.executable, "-c", run], cwd=ROOT, check=True, timeout=30)


@pytest.mark.parametrize("page", ["frontend.md", "javascript.md"])
def test_the_javascript_of_a_page_is_valid(page, tmp_path):
    node = need("node", "apt-get install nodejs")
    scripts = snippets_of(DOCS / page, "js")
    assert scripts
    for i, script in enumerate(scripts):
        (tmp_path / f"{i}.mjs").write_text(script)
        subprocess.run([node, "--check", tmp_path / f"{i}.mjs"], check=True, timeout=30)
