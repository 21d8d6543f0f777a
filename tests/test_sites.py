"""Django, Pyramid and no framework at all, bare and inside of WhiteNoise, Sentry and ProxyFix."""

import pytest

from geventws import HandshakeError
from geventws.testing import connect
from tests.support import sites
from tests.support.client import TEXT, close_frame, frame, request
from tests.support.servers import arguments_of, serving

SITES = ["django_app", "pyramid_app", "django_stack", "pyramid_stack"]


@pytest.fixture(params=SITES)
def site(request):
    return getattr(sites, request.param)


@pytest.fixture
def events():
    """What Sentry is told meanwhile."""
    sites.Kept.events.clear()
    return sites.Kept.events


def log_in(server, name) -> str:
    """The cookie that a page of the framework's sets."""
    with server.client() as client:
        client.send(request(f"/login/{name}", [("Connection", "close")], without="Upgrade"))
        status, body = client.read_response()
        assert (status, body) == ("200", b"welcome")
        return client.headers["set-cookie"].partition(";")[0]


def test_a_view_talks_to_whom_the_frameworks_cookies_say(site, serve):
    cookie = log_in(serve(site), "Ada")
    with connect(site, "/chat/kitchen", headers={"Cookie": cookie}) as ws:
        for i in range(3):
            ws.send(f"message {i}")
            assert ws.receive() == f"Ada in kitchen: message {i}"


def test_a_view_refuses_in_the_frameworks_own_way(site):
    with pytest.raises(HandshakeError, match="403 Forbidden"):
        connect(site, "/chat/kitchen")
    with pytest.raises(HandshakeError, match="404 Not Found"):
        connect(site, "/nowhere")


def test_a_plain_request_is_answered_by_the_view(site, serve):
    with serve(site).client() as client:
        client.send(request("/chat/kitchen", without="Upgrade"))
        assert client.read_response() == ("400", b"Expected a WebSocket.")


def test_a_fault_closes_with_1011(site):
    with connect(site, "/crash", raise_app_exceptions=False) as ws:
        assert list(iter(ws.receive, None)) == ["about to fail"]
        assert ws.close_code == 1011


def test_a_stack_of_middleware_lets_everything_through(serve, events):
    server = serve(sites.plain_stack, trusted_proxies=["127.0.0.1"])
    headers = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "chat.example"),
        ("Origin", "https://chat.example"),
    ]
    with server.client().open("/", headers) as client:
        assert client.read_frame() == (TEXT, b"203.0.113.7 https")
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()
    with server.client() as client:
        client.send(request("/package.json", without="Upgrade"))
        status, body = client.read_response()
        assert (status, b'"socket.io-client"' in body) == ("200", True)
    with server.client() as client:
        client.send(request("/refused"))
        assert client.read_response() == ("403", b"Not you.")
    assert events == []


def test_a_fault_is_one_event_for_sentry_and_a_peer_that_leaves_is_none(events):
    with connect(sites.plain_stack) as ws:
        assert ws.receive() == "127.0.0.1 http"
    assert events == []
    with connect(sites.plain_stack, raise_app_exceptions=False) as ws:
        ws.send("fail")
        assert list(iter(ws.receive, None)) == ["127.0.0.1 http"]
        assert ws.close_code == 1011
    [event] = events
    assert event["exception"]["values"][0]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize("app", ["plain_stack", "django_stack", "pyramid_stack"])
def test_the_stacks_under_gunicorn(app, tmp_path):
    arguments = arguments_of("gunicorn-worker")
    arguments[arguments.index("tests.support.apps:site")] = f"tests.support.sites:{app}"
    with serving(arguments, tmp_path / "log") as process:
        path, headers = "/", []
        if app != "plain_stack":
            path, headers = "/chat/kitchen", [("Cookie", log_in(process, "Ada"))]
        with process.client().open(path, headers) as client:
            if app == "plain_stack":
                assert client.read_frame() == (TEXT, b"127.0.0.1 http")
            client.send(frame(TEXT, "hello"))
            assert client.read_frame()[1].endswith(b"hello")
            client.send(close_frame(1001))
            assert client.read_close() == (1001, "")
        process.wait_for(f'"GET {path} HTTP/1.1" 101')
        assert "Traceback" not in process.output
