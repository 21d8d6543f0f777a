"""Flask and Bottle with ``environ["wsgi.websocket"]``, without the extensions."""

import http.client
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.support.client import TEXT, frame, request
from tests.support.servers import Process, serving

PATIENCE = 10  # seconds; nothing here takes one, unless something is broken
SERVERS = {
    "server": "-m geventws --bind 127.0.0.1:0",
    "gunicorn": "-m gunicorn -k geventws.Worker -b 127.0.0.1:0 --access-logfile -",
}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def run(server: str, application: str, directory) -> Iterator[Process]:
    arguments = [*SERVERS[server].split(), f"tests.support.frameworks:{application}"]
    with serving(arguments, directory / "log") as process:
        yield process
    failures = set(re.findall(r"(?m)^[\w.]+(?:Error|Closed|Exception)\b.*", process.output))
    assert failures <= {
        f"ZeroDivisionError: {fault}"
        for fault in (
            "the fault of Flask's view",
            "the early fault of Flask's view",
            "the fault of Bottle's view",
            "the early fault of Bottle's view",
        )
    }


@pytest.fixture(scope="module", params=SERVERS)
def flask_site(request, tmp_path_factory) -> Iterator[Process]:
    yield from run(request.param, "flask_app", tmp_path_factory.mktemp("flask"))


@pytest.fixture(scope="module", params=SERVERS)
def bottle_site(request, tmp_path_factory) -> Iterator[Process]:
    yield from run(request.param, "bottle_app", tmp_path_factory.mktemp("bottle"))


@pytest.fixture(
    scope="module",
    params=[(server, framework) for server in SERVERS for framework in ("flask", "bottle")],
    ids="-".join,
)
def site(request, tmp_path_factory) -> Iterator[Process]:
    """Both frameworks on both servers; ``framework`` is the name in what they log."""
    server, framework = request.param
    for process in run(server, f"{framework}_app", tmp_path_factory.mktemp(framework)):
        process.framework = framework.title()
        yield process


@pytest.fixture(scope="module", params=["flask", "bottle"])
def stack(request, tmp_path_factory) -> Iterator[Process]:
    """Both frameworks behind ProxyFix and behind middleware that wraps start_response."""
    for process in run("server", f"{request.param}_stack", tmp_path_factory.mktemp("stack")):
        process.framework = request.param.title()
        yield process


def dial(server: Process, path: str, **headers: str):
    return connect(
        f"ws://127.0.0.1:{server.address[1]}{path}",
        proxy=None,
        close_timeout=PATIENCE,
        additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def refusal(server: Process, path: str, **headers: str):
    """The response that a client gets instead of a WebSocket."""
    with pytest.raises(InvalidStatus) as caught:
        dial(server, path, **headers)
    return caught.value.response


def ask(server: Process, *requests: tuple) -> list[tuple[int, str, str | None]]:
    """Status, body and cookie of plain requests, all on one connection."""
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    answers = []
    try:
        connection.connect()
        first = connection.sock
        for arguments in requests:
            connection.request(*arguments)
            response = connection.getresponse()
            body = response.read().decode()
            answers.append((response.status, body, response.getheader("Set-Cookie")))
        assert connection.sock is first
    finally:
        connection.close()
    return answers


def log_in(server: Process, name: str) -> str:
    """The cookie that a form of the framework's has set."""
    [(status, body, cookie)] = ask(server, ("POST", "/login", urlencode({"name": name}), FORM))
    assert (status, body) == (200, "welcome\n")
    return cookie.partition(";")[0]


def end_seen_by(ws) -> int:
    """The code of the Close frame that must be next."""
    with pytest.raises(ConnectionClosed) as caught:
        ws.recv(PATIENCE)
    return caught.value.rcvd.code


# ----------------------------------------------------------- both frameworks


def test_the_cookies_of_a_login_are_read_before_the_upgrade(site):
    with dial(site, "/chat?room=kitchen", Cookie=log_in(site, "Ada")) as ws:
        ws.send("grüß dich")
        assert ws.recv(PATIENCE) == "Ada in kitchen: grüß dich"


def test_an_abort_before_the_first_use_reaches_the_client_with_its_body(site):
    response = refusal(site, "/chat?room=kitchen")
    assert response.status_code == 401
    assert b"Log in first." in response.body


def test_a_plain_request_to_the_view_gets_400_and_leaves_the_connection_usable(site):
    (refused, *_), page = ask(site, ("GET", "/chat?room=kitchen"), ("GET", "/plain"))
    assert refused == 400
    assert page == (200, "plain\n", None)


def test_a_redirect_instead_of_an_upgrade_reaches_the_client(site):
    with site.client() as client:
        client.send(request("/moved"))
        status, _ = client.read_response()
        assert status in ("302", "303")
        assert client.headers["location"].endswith("/chat")


def test_the_context_of_each_request_stays_with_its_view(site):
    ada, bob = log_in(site, "Ada"), log_in(site, "Bob")
    with (
        dial(site, "/chat?room=a", Cookie=ada) as hers,
        dial(site, "/chat?room=b", Cookie=bob) as his,
    ):
        for i in range(3):
            hers.send(f"message {i}")
            assert hers.recv(PATIENCE) == f"Ada in a: message {i}"
            his.send(f"message {i}")
            assert his.recv(PATIENCE) == f"Bob in b: message {i}"


def test_what_the_view_returns_after_the_upgrade_is_swallowed(site):
    before = site.output.count("/chat?room=swallow")
    cookie = log_in(site, "Ada")
    with site.client().open("/chat?room=swallow", [("Cookie", cookie)]) as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_frame() == (TEXT, b"Ada in swallow: hi")
        client.finish()
    site.wait_for(r'/chat\?room=swallow HTTP/1.1" 101 ')
    assert site.output.count("/chat?room=swallow") == before + 1


def test_an_exception_after_the_upgrade_closes_with_1011_and_the_framework_logs_it_once(site):
    fault = f"ZeroDivisionError: the fault of {site.framework}'s view"
    with dial(site, "/crash") as ws:
        assert ws.recv(PATIENCE) == "about to fail"
        assert end_seen_by(ws) == 1011
    site.wait_for(rf"Traceback[^\0]*{fault}")
    site.wait_for('/crash HTTP/1.1" 101 ')
    assert site.output.count(fault) == 1
    assert "Exception in the view of" not in site.output  # geventws' own words


def test_an_exception_before_the_upgrade_is_the_error_page_of_the_framework(site):
    response = refusal(site, "/crash-early")
    assert response.status_code == 500
    assert b"Internal Server Error" in response.body
    site.wait_for(f"ZeroDivisionError: the early fault of {site.framework}'s view")


def test_a_path_that_does_not_exist_is_404_to_a_websocket_too(site):
    assert refusal(site, "/nowhere").status_code == 404


# --------------------------------------------------------------- Flask's own


def test_flask_refuses_a_websocket_for_a_rule_that_is_not_for_one(flask_site):
    response = refusal(flask_site, "/plain")
    assert response.status_code == 400
    assert b"plain" not in response.body


def test_flask_refuses_before_the_view_in_before_request(flask_site):
    response = refusal(flask_site, "/chat?ban=yes", Cookie=log_in(flask_site, "Ada"))
    assert response.status_code == 403
    assert b"You are banned." in response.body


# -------------------------------------------------------------- Bottle's own


def test_bottle_answers_a_websocket_request_for_a_page_with_the_page(bottle_site):
    response = refusal(bottle_site, "/plain")
    assert (response.status_code, response.body) == (200, b"plain\n")


# ---------------------------------------------------------------- middleware


def test_proxy_fix_tells_the_view_who_the_client_is(stack):
    headers = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "chat.example",
    }
    with dial(stack, "/who", **headers) as ws:
        assert ws.recv(PATIENCE) == "203.0.113.7 at https://chat.example/"
        assert end_seen_by(ws) == 1000


def test_a_conversation_survives_middleware_that_wraps_start_response(stack):
    with dial(stack, "/chat?room=kitchen", Cookie=log_in(stack, "Ada")) as ws:
        ws.send("hi")
        assert ws.recv(PATIENCE) == "Ada in kitchen: hi"
    stack.wait_for("stamped /chat\n")
    stack.wait_for(r'/chat\?room=kitchen HTTP/1.1" 101 ')


def test_a_refusal_goes_through_the_middleware(stack):
    response = refusal(stack, "/chat?room=kitchen")
    assert (response.status_code, response.headers["X-Stamp"]) == (401, "401")
    assert b"Log in first." in response.body


def test_an_exception_behind_middleware_closes_with_1011(stack):
    with dial(stack, "/crash") as ws:
        assert ws.recv(PATIENCE) == "about to fail"
        assert end_seen_by(ws) == 1011
    stack.wait_for(rf"Traceback[^\0]*ZeroDivisionError: the fault of {stack.framework}'s view")


def test_a_page_goes_through_the_middleware_untouched(stack):
    assert ask(stack, ("GET", "/plain"), ("GET", "/plain")) == [(200, "plain\n", None)] * 2


# ------------------------------------------------- as Bottle's page teaches it


@pytest.fixture
def parrot(tmp_path) -> Iterator[Process]:
    """The program of tests/support/tutorial.py, which may not complain of anything."""
    with serving(["-m", "tests.support.tutorial"], tmp_path / "log") as process:
        yield process
    assert "Traceback" not in process.output


def test_the_tutorials_loop_answers_and_ends_when_the_client_leaves(parrot):
    with dial(parrot, "/parrot") as ws:
        for message in ("hello", "goodbye"):
            ws.send(message)
            assert ws.recv(PATIENCE) == f"Polly says {message}"
    parrot.wait_for("Polly heard None in the end")


def test_the_tutorials_loop_ends_when_the_client_vanishes(parrot):
    with parrot.client().open("/parrot") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"Polly says hello")
        client.vanish()
    parrot.wait_for("Polly heard None in the end")


def test_the_200_that_bottle_starts_after_the_tutorials_view_is_swallowed(parrot):
    with parrot.client().open("/parrot") as client:
        client.finish()
    parrot.wait_for('"GET /parrot HTTP/1.1" 101 ')
    assert '" 200 ' not in parrot.output


def test_a_plain_request_to_the_tutorials_view_gets_its_400(parrot):
    [(status, body, _)] = ask(parrot, ("GET", "/parrot"))
    assert status == 400
    assert "This parrot talks to WebSockets only." in body
