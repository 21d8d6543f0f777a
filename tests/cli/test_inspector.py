"""``--inspect``: what the page shows, and to whom."""

import json

import gevent
import pytest

from geventws import Broadcast, connect
from geventws.cli.inspector import Events, Inspector
from tests.support.apps import site
from tests.support.client import BINARY, TEXT, RawClient, frame, request
from tests.support.servers import SECONDS, arguments_of, serving

STRANGER = "http://stranger.example"


@pytest.fixture
def inspect(serve):
    """``inspect(app)``: a server of the application, and the server of the page about it."""
    inspectors = []

    def start(app):
        server = serve(app)
        inspectors.append(Inspector([server]))
        inspectors[-1].start()
        return server, inspectors[-1]

    yield start
    for inspector in inspectors:
        inspector.stop(1)


def read_until(inspector, is_complete):
    """Read the feed until the events and the latest tables are complete; return both."""
    events = []
    url = inspector.url.replace("http", "ws")
    with gevent.Timeout(SECONDS), connect(f"{url}/feed", origin=inspector.url) as feed:
        while True:
            update = feed.receive_json()
            events += [(it["kind"], it["where"], it["text"]) for it in update["events"]]
            if is_complete(events, update):
                return events, update


def talk_in_view(ws):
    for message in ws:
        ws.send(message)


def talk_in_callbacks(ws):
    ws.detach(lambda ws, message: ws.send(message), lambda ws: None)


@pytest.mark.parametrize("talk", [talk_in_view, talk_in_callbacks])
def test_the_page_shows_websockets_channels_and_messages(inspect, talk):
    broadcast = Broadcast()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        broadcast.subscribe("room", ws)
        talk(ws)
        return []

    server, inspector = inspect(app)
    with server.client().open("/chat") as client:
        client.send(frame(TEXT, "hi") + frame(BINARY, b"\0\xff"))
        assert [client.read_frame(), client.read_frame()] == [(TEXT, b"hi"), (BINARY, b"\0\xff")]
        broadcast.publish("room", "news" * 1000)
        client.read_frame()
        _, update = read_until(inspector, lambda events, update: update["sockets"])
        (row,) = update["sockets"]
        assert (row["path"], row["client"]) == ("/chat", "127.0.0.1")
        assert (row["received"], row["sent"]) == (2, 3)
        assert update["channels"] == [{"backend": "memory://", "channel": "room", "sockets": 1}]
        client.finish()
    events, update = read_until(
        inspector, lambda events, update: ("closed", "/chat", "1000") in events
    )
    assert update["open"] == 0
    (published,) = [event for event in events if event[0] == "published"]
    assert (published[1], published[2][:8]) == ("room", "newsnews")
    assert published[2].endswith("(3000 more characters)")
    assert [event for event in events if event[0] != "published"] == [
        ("opened", "/chat", ""),
        ("in", "/chat", "hi"),
        ("out", "/chat", "hi"),
        ("in", "/chat", "00 ff"),
        ("out", "/chat", "00 ff"),
        ("closed", "/chat", "1000"),
    ]
    broadcast.close()


def test_a_refusal_has_the_option_that_lets_the_page_in(inspect):
    server, inspector = inspect(site)
    for path, headers in (("/echo", [("Origin", STRANGER)]), ("/refuse", [])):
        with server.client() as client:
            client.send(request(path, headers))
            client.read_head()
    events, _ = read_until(inspector, lambda events, update: len(events) == 2)
    assert [event[0] for event in events] == ["refused", "refused"]
    assert f"--allowed-origins self,{STRANGER}" in events[0][2]
    assert events[1] == ("refused", "/refuse", "The view has answered with 401 Unauthorized")


@pytest.mark.parametrize(
    ("path", "host", "headers", "status"),
    [
        ("/", "127.0.0.1", [], "200"),
        ("/", "localhost", [], "200"),
        ("/", "stranger.example", [], "403"),
        ("/feed", "stranger.example", [("Origin", "{host}")], "403"),
        ("/feed", "127.0.0.1", [("Origin", STRANGER)], "403"),
        ("/feed", "127.0.0.1", [("Origin", "{host}")], "101"),
        ("/elsewhere", "127.0.0.1", [], "404"),
    ],
)
def test_other_pages_cannot_read_it(inspect, path, host, headers, status):
    _, inspector = inspect(site)
    host = f"{host}:{inspector.server_port}"
    headers = [(name, value.format(host=f"http://{host}")) for name, value in headers]
    with RawClient(("127.0.0.1", inspector.server_port)) as client:
        without = "" if path == "/feed" else "Upgrade"
        client.send(request(path, [("Host", host), *headers], without=without))
        assert client.read_head() == status
    if status == "200":
        assert client.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in client.headers["content-security-policy"]


def test_kept_events_are_bounded_in_bytes():
    events = Events()
    for number in range(10_000):
        events.add("in", "/", f"{number}" + "x" * 10_000)
    kept = json.dumps([event._asdict() for event in events._kept])
    assert 200_000 < len(kept) < 1 << 20
    assert events.since(9_999)[0].text.startswith("9999")


def test_the_page_in_a_browser(tmp_path, open_window):
    arguments = [*arguments_of("cli"), "--inspect"]
    with serving(arguments, tmp_path / "log") as process:
        url = process.wait_for(r"Inspect it on (http://127\.0\.0\.1:\d+)\n")[1]
        with process.client().open("/echo") as client:
            client.send(frame(TEXT, "<b>bold</b>"))
            client.read_frame()
            window = open_window(url)
            text = window.execute_async_script(
                """
                const done = arguments[0];
                const look = () => {
                    const text = document.body.innerText;
                    text.includes("opened") ? done(text) : setTimeout(look, 50);
                };
                look();
                """
            )
            assert "<b>bold</b>" in text
            assert not window.get_log("browser")
            client.finish()
