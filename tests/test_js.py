"""``geventws.js`` in Chromium, and the ways to serve it."""

import gzip
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import bottle
import flask
import pytest
from selenium.webdriver.support.wait import WebDriverWait

from geventws import Broadcast, WebSocketMiddleware, js
from tests.support import proxies, sites
from tests.support.browser import windows
from tests.support.client import TEXT, frame
from tests.support.js_site import HISTORY
from tests.support.proxies import free_port
from tests.support.servers import ROOT, Process, serving

#: Runs before every script: ``connect()`` opens a WebSocket whose events the page records.
BEGIN = """
    window.connect ??= (url, options, protocols) => {
        const delays = {minDelay: 50, maxDelay: options?.minDelay ?? 200};
        const ws = new ReconnectingWebSocket(url, protocols, {...delays, ...options});
        ws.states = [];
        ws.heard = [];
        ws.gaps = 0;
        ws.onstate = ({state, code, reason, delay}) => ws.states.push({state, code, reason, delay});
        ws.onmessage = ({data}) => ws.heard.push(data);
        ws.ongap = () => ws.gaps++;
        return window.ws = ws;
    };
    window.until ??= async condition => {
        while (!condition()) await new Promise(soon => setTimeout(soon, 5));
    };
    const done = arguments[arguments.length - 1];
    (async () => {
"""
END = "})().then(done, error => done(`failed: ${error}`));"
TEXTS = "return ws.heard.map(JSON.parse).map(({text}) => text).filter(Boolean);"


def run(window, script):
    """What an async script returns."""
    return window.execute_async_script(BEGIN + script + END)


def wait(window, script, expected):
    WebDriverWait(window, 20, 0.02).until(lambda _: run(window, script) == expected)


def get(port: int, path: str) -> None:
    http = HTTPConnection("127.0.0.1", port, timeout=10)
    http.request("GET", path)
    assert http.getresponse().status == 204
    http.close()


def set_offline(window, offline: bool) -> None:
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    window.execute_cdp_cmd("Network.enable", {})
    window.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": offline, **conditions})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Process]:
    with serving(["-m", "tests.support.js_site", "0"], tmp_path_factory.mktemp("js") / "log") as it:
        yield it
    assert "Traceback" not in it.output


@pytest.fixture(scope="module")
def browser():
    with windows() as open_:
        yield open_("about:blank")


@pytest.fixture
def window(site, browser):
    browser.get(f"http://127.0.0.1:{site.address[1]}/")
    return browser


# --------------------------------------------------------------------- in the browser


def test_pages_come_back_after_a_restart_without_a_gap_and_send_what_waited(
    browser, redis_server, tmp_path
):
    port = free_port()
    url = redis_server.url
    command = ["-m", "tests.support.js_site", str(port)]
    with serving(command, tmp_path / "before", BROADCAST_URL=url) as server:
        for kind in "tab", "window":
            if kind == "window":
                browser.switch_to.new_window("tab")
            browser.get(f"http://127.0.0.1:{port}/classic")
            run(browser, 'connect("/room", {since: ""}); await until(() => ws.heard.length);')
        tabs = browser.window_handles[-2:]
        get(port, "/publish?text=before")
        for tab in tabs:
            browser.switch_to.window(tab)
            wait(browser, TEXTS, ["before"])
        server.stop(signal.SIGKILL)
    for number, tab in enumerate(tabs):
        browser.switch_to.window(tab)
        run(browser, f'await until(() => ws.states.length > 9); ws.send("from tab {number}");')
    Broadcast(url, history=HISTORY).publish("room", "while it was away")
    with serving(command, tmp_path / "after", BROADCAST_URL=url):
        for tab in tabs:
            browser.switch_to.window(tab)
            run(
                browser,
                "await until(() => ws.heard.map(JSON.parse).filter(it => it.text).length > 3);",
            )
            texts = run(browser, TEXTS)
            assert texts[:2] == ["before", "while it was away"]
            assert sorted(texts[2:]) == ["from tab 0", "from tab 1"]
            assert run(browser, "return ws.gaps;") == 0
        browser.close()
        browser.switch_to.window(tabs[0])


def test_a_page_that_misses_more_than_the_history_keeps_learns_of_the_gap(site, window):
    port = site.address[1]
    run(window, 'connect("/room", {since: ""}); await until(() => ws.state === "open");')
    get(port, "/publish?text=first")
    for missed, gaps in (HISTORY, 0), (HISTORY + 1, 1):
        set_offline(window, True)
        run(window, 'await until(() => ws.state !== "open");')
        for number in range(missed):
            get(port, f"/publish?text={number}")
        run(window, "ws.heard = [];")
        set_offline(window, False)
        wait(window, TEXTS, [str(number) for number in range(missed)][-HISTORY:])
        run(window, "await until(() => ws.heard.length > 3);")
        assert run(window, "return ws.gaps;") == gaps


def test_a_page_in_several_channels_comes_back_with_the_id_of_each(site, window):
    run(window, 'connect("/rooms", {since: {room: "", other: ""}});')
    get(site.address[1], "/publish?text=hello")
    positions = """
        await until(() => ws.heard.some(text => text.includes("hello")));
        const {room, other} = ws.since;
        ws.heard = [];
        ws.reconnect();
        await until(() => ws.heard.length);
        const {since} = JSON.parse(ws.heard[0]);
        return [room, other].every(Boolean) && since.room === room && since.other === other;
    """
    assert run(window, positions) is True


def test_final_codes_end_it_with_the_reason_and_other_ends_do_not(window):
    ends = """
        const codes = [1000, 1008, 4400, 4401, 4499, 1001, 1011, 1012, 1013, 3000, 4000, 4500];
        return Promise.all(codes.map(async code => {
            const ws = connect(`/close?${code}`, {minDelay: 1e6});
            let closed;
            ws.onclose = ({code, reason, wasClean}) => closed = [code, reason, wasClean];
            await until(() => ["waiting", "closed"].includes(ws.state));
            const {state, reason} = ws.states.pop();
            const {readyState} = ws;
            ws.close();
            return [code, state, reason, readyState, closed];
        }));
    """
    for code, state, reason, ready_state, closed in run(window, ends):
        assert reason == "the reason"
        if code in {1000, 1008, 4400, 4401, 4499}:
            assert (state, ready_state, closed) == ("closed", 3, [code, reason, True])
        else:
            assert (state, ready_state, closed) == ("waiting", 0, None)


def test_a_message_that_was_too_slow_for_the_server_is_no_reason_to_stay_away(window):
    slow = """
        const ws = connect("/close?1008&message+timeout", {minDelay: 1e6});
        await until(() => ["waiting", "closed"].includes(ws.state));
        const {state, reason} = ws.states.pop();
        ws.close();
        return [state, reason];
    """
    assert run(window, slow) == ["waiting", "message timeout"]


def test_a_refused_handshake_looks_to_a_page_like_a_server_that_is_away(window):
    lost = """
        const ws = connect(url, {minDelay: 1e6});
        await until(() => ws.state === "waiting");
        const {code, reason, delay} = ws.states.pop();
        ws.close();
        return [code, reason, delay > 0];
    """
    refused = run(window, 'const url = "/refuse";' + lost)
    away = run(window, f'const url = "ws://127.0.0.1:{free_port()}/";' + lost)
    assert refused == away == [1006, "", True]


def test_a_function_for_the_url_can_ask_first_and_refuse_with_a_reason(window):
    assert run(
        window,
        """
        let calls = 0;
        const ws = connect(async () => {
            calls += 1;
            if (calls === 1) throw new Error("no network");
            if (calls === 2) return "/close?1013";
            ws.close(4403, "not you");
        });
        await until(() => ws.state === "closed");
        const lost = ws.states.filter(({code}) => code).map(({code, reason}) => [code, reason]);
        const invalid = connect(() => "http://[");
        await until(() => invalid.state === "closed");
        return [calls, lost];
    """,
    ) == [3, [[1006, "Error: no network"], [1013, "the reason"], [4403, "not you"]]]


def test_delays_are_random_below_a_limit_that_doubles_up_to_a_maximum(window):
    delays = run(
        window,
        """
        const random = Math.random;
        Math.random = () => 0.999;
        const ws = connect("/refuse", {minDelay: 10, maxDelay: 50});
        await until(() => ws.states.length >= 10);
        ws.close();
        Math.random = random;
        return ws.states.map(({delay}) => delay).filter(Boolean);
    """,
    )
    assert [round(delay) for delay in delays][:5] == [10, 20, 40, 50, 50]


def test_the_queue_keeps_the_order_and_kind_of_messages_and_has_a_limit(window):
    assert run(
        window,
        """
        const ws = connect("/echo", {maxQueuedBytes: 16});
        ws.binaryType = "arraybuffer";
        const bytes = new Uint8Array([1, 2, 3]);
        ws.send("é");
        ws.send(bytes);
        bytes.fill(9); // the queue has a copy
        ws.send(new Blob(["blob"]));
        ws.send("");
        let full;
        try { ws.send("1234567"); } catch (error) { full = error.name; }
        ws.send(123456);
        const queued = ws.bufferedAmount;
        ws.onopen = () => ws.send("hello");
        await until(() => ws.heard.length === 6);
        return [full, queued, ws.bufferedAmount, ws.heard.map(
            data => typeof data === "string" ? data : [...new Uint8Array(data)])];
    """,
    ) == ["QuotaExceededError", 16, 0, ["hello", "é", [1, 2, 3], [*b"blob"], "", "123456"]]


def test_it_has_the_interface_of_a_websocket(window):
    assert run(
        window,
        """
        const url = location.href.replace("http", "ws") + "echo";
        const ws = connect("/echo");
        const events = [];
        for (const type of ["open", "message", "close"])
            ws.addEventListener(type, ({constructor}) =>
                events.push([type, ws.readyState, constructor.name]));
        const failed = ["http://[", "ftp://x/"].map(url => {
            const options = {connectTimeout: 1, minDelay: 1};
            try { new ReconnectingWebSocket(url, [], options); } catch { return true; }
        });
        let errors = 0;
        addEventListener("error", () => errors++);
        const before = [ws.readyState, ws.OPEN, ReconnectingWebSocket.CLOSED];
        await until(() => ws.readyState === WebSocket.OPEN);
        ws.send("hello");
        await until(() => ws.heard.length);
        const connection = [ws.url === url, ws.protocol, typeof ws.extensions];
        let refused;
        try { ws.close(1008); } catch (error) { refused = error.name; }
        ws.close(3001, "bye");
        await until(() => events.length === 3);
        ws.send("dropped");
        ws.reconnect();
        const states = ws.states.map(({state}) => state);
        return [failed, errors, before, connection, refused, events, states];
    """,
    ) == [
        [True, True],
        0,
        [0, 1, 3],
        [True, "", "string"],
        "InvalidAccessError",
        [["open", 1, "Event"], ["message", 1, "MessageEvent"], ["close", 3, "CloseEvent"]],
        ["open", "closing", "closed"],
    ]


def test_it_can_be_closed_without_a_code_and_before_it_is_open(window):
    assert run(
        window,
        """
        return Promise.all([
            ws => until(() => ws.state === "open").then(() => ws.close()),
            ws => ws.close(),
            ws => ws.close(4000, "never mind"),
        ].map(end => new Promise(ended => {
            const ws = connect("/echo");
            ws.onclose = ({code, reason, wasClean}) => ended([code, reason, wasClean]);
            end(ws);
        })));
    """,
    ) == [[1005, "", True], [1005, "", True], [4000, "never mind", True]]


@pytest.mark.parametrize("away", ["offline", "frozen"])
def test_a_page_that_is_online_or_awake_again_reconnects_at_once(site, window, away):
    run(window, 'connect("/room", {minDelay: 1e6}); await until(() => ws.state === "open");')
    if away == "offline":
        set_offline(window, True)
        run(window, 'await until(() => ws.state === "waiting");')
        assert run(window, "return ws.states.at(-1).reason;") == "offline"
        set_offline(window, False)
    else:
        window.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
        get(site.address[1], "/kick")
        window.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    assert run(
        window,
        """
        await until(() => ws.state === "open" && ws.states.some(({state}) => state === "waiting"));
        return ws.states.map(({state}) => state).slice(-2);
    """,
    ) == ["connecting", "open"]


def test_a_page_that_the_browser_keeps_for_the_back_button_has_no_connection(site, window):
    run(window, 'connect("/room", {minDelay: 1e6}); await until(() => ws.state === "open");')
    window.get(f"http://127.0.0.1:{site.address[1]}/classic")
    get(site.address[1], "/left")
    window.back()
    assert run(
        window,
        """
        await until(() => ws.state === "open");
        return ws.states.map(({state, reason}) => reason ?? state);
    """,
    ) == ["open", "page hidden", "connecting", "open"]


def test_an_answer_or_a_message_that_does_not_come_in_time_is_a_loss(window):
    assert run(
        window,
        """
        const late = connect("/late", {connectTimeout: 50, minDelay: 1e6});
        const silent = connect("/silent", {maxSilence: 50, minDelay: 1e6});
        await until(() => late.state === "waiting" && silent.state === "waiting");
        late.close();
        silent.close();
        return [late, silent].map(ws => ws.states.find(({reason}) => reason).reason);
    """,
    ) == ["no answer in time", "no message in time"]


def test_a_page_on_https_behind_nginx_comes_back_through_it(browser, tls, tmp_path):
    port = free_port()
    command = ["-m", "tests.support.js_site", str(port)]
    folder = tmp_path / "nginx"
    folder.mkdir()
    folder.chmod(0o755)
    # nginx waits before it asks one of several servers again, but not if there is only one.
    single = {r"# server 127\.0\.0\.1:8001;": ""}
    with proxies.nginx(folder, [port, port], tls, single) as proxy:
        with serving(command, tmp_path / "before"):
            browser.get(f"https://localhost:{proxy}/")
            run(browser, 'connect("/room"); await until(() => ws.state === "open");')
        run(browser, "await until(() => ws.states.filter(it => it.code === 1006).length > 1);")
        with serving(command, tmp_path / "after"):
            run(browser, 'await until(() => ws.state === "open"); ws.send("hello");')
            run(browser, 'await until(() => ws.heard.some(text => text.includes("hello")));')


# ------------------------------------------------------------------------- on the server


def flask_app():
    app = flask.Flask(__name__)
    app.add_url_rule("/other", view_func=lambda: "other")
    app.wsgi_app = js.serve(app.wsgi_app)
    return app


def bottle_app():
    app = bottle.Bottle()
    app.route("/other", callback=lambda: "other")
    app.mount("/geventws/", js.application)
    return app


def plain_app():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"other"]

    return js.serve(app)


@pytest.fixture(params=[flask_app, bottle_app, lambda: js.serve(sites.django_app), plain_app])
def ask(request, serve) -> Callable:
    """``ask(path, headers, method)``: the status, headers and body of a response."""
    server = serve(request.param())

    def ask(path, headers=None, method="GET"):
        fields = {"Host": "test.example", "Connection": "close", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        with server.client() as client:
            client.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
            status = client.read_head()
            return status, client.headers, client.read_to_end()

    return ask


def test_the_files_are_served_with_headers_for_caches(ask):
    for name in "geventws.js", "geventws.classic.js":
        content = (js.path() / name).read_bytes()
        status, headers, body = ask(f"/geventws/{name}")
        assert (status, body) == ("200", content)
        assert headers["content-type"] == "text/javascript; charset=utf-8"
        assert headers["cache-control"] == "no-cache"
        unchanged = ask(f"/geventws/{name}", {"If-None-Match": f"W/{headers['etag']}"})
        assert (unchanged[0], unchanged[2]) == ("304", b"")
        status, headers, body = ask(js.url(name))
        assert (status, body) == ("200", content)
        assert headers["cache-control"] == "public, max-age=31536000, immutable"
        status, headers, body = ask(f"/geventws/of-an-old-page/{name}")
        assert (status, body, headers["cache-control"]) == ("200", content, "no-cache")
    status, headers, body = ask("/geventws/geventws.js", method="HEAD")
    assert (status, body, int(headers["content-length"]) > 0) == ("200", b"", True)


def test_other_paths_and_methods_are_answered_without_the_files(ask):
    assert ask("/geventws/geventws.js", method="POST")[0] == "405"
    for path in "/geventws/", "/geventws/__init__.py", "/geventws/a/b/geventws.js":
        assert ask(path)[0] == "404"
    assert ask("/other")[0] in {"200", "404"}  # the second is Django's


def test_the_options_of_the_application_inside_reach_the_server(serve):
    def echo(environ, start_response):
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []

    server = serve(js.serve(WebSocketMiddleware(echo, max_message_size=1)))
    with server.client().open() as client:
        client.send(frame(TEXT, "ab"))
        assert client.read_close()[0] == 1009


def test_only_the_names_of_the_files_have_a_url():
    with pytest.raises(ValueError, match="there is no file"):
        js.url("other.js")
    assert js.url(prefix="/static").startswith("/static/")


def test_a_wheel_contains_the_files_and_each_is_small(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    built = {path.name: path for path in (tmp_path / "geventws" / "js" / "static").iterdir()}
    assert built.keys() == {"geventws.js", "geventws.classic.js", "geventws.d.ts"}
    assert all(len(gzip.compress(path.read_bytes())) < 4096 for path in built.values())
