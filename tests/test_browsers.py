"""The WebSocket API of browsers (WHATWG), in Chromium, where it goes beyond what is everyday."""

from collections.abc import Iterator

import pytest

from tests.support.servers import Process, serving

MIB = 1 << 20


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("browsers") / "log"
    with serving(["-m", "tests.support.browser_site"], log) as process:
        yield process
    assert "Traceback" not in process.output


@pytest.fixture
def window(site, open_window):
    return open_window(f"http://127.0.0.1:{site.address[1]}/")


#: Goes before and behind every script.
BEGIN, END = (
    """
    const done = arguments[arguments.length - 1];
    const at = path => `ws://${location.host}${path}`;
    const counts = async () => (await fetch("/counts")).json();
    const until = async condition => {
        while (!(await condition())) await new Promise(soon => setTimeout(soon, 50));
    };
    (async () => {
""",
    "})().then(done, error => done(`failed: ${error}`));",
)


def run(window, script):
    """What an async script returns; ``at(path)`` is the address of a WebSocket."""
    return window.execute_async_script(BEGIN + script + END)


def test_messages_of_16_mebibytes_come_back_as_text_blob_and_buffer(window):
    assert run(
        window,
        """
        const ws = new WebSocket(at("/echo"));
        const size = 16 << 20;
        await new Promise(opened => ws.onopen = opened);
        const echo = data => new Promise(heard => {
            ws.onmessage = event => heard(event.data);
            ws.send(data);
        });
        const text = await echo("é".repeat(size / 2));
        const blob = await echo(new Blob([new Uint8Array(size)]));
        ws.binaryType = "arraybuffer";
        const buffer = await echo(new Uint8Array(size).fill(7));
        return [text === "é".repeat(size / 2), blob instanceof Blob && blob.size,
                new Uint8Array(buffer).every(byte => byte === 7) && buffer.byteLength];
    """,
    ) == [True, 16 * MIB, 16 * MIB]


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (3000, ""), (4999, "over")])
def test_codes_and_reasons_of_the_server_and_of_the_page_arrive(window, code, reason):
    assert run(
        window,
        f"""
        const closing = ws => new Promise(closed => ws.onclose =
            ({{code, reason, wasClean}}) => closed([code, reason, wasClean]));
        const theirs = await closing(new WebSocket(at("/close?{code}-{reason}")));
        const ws = new WebSocket(at("/echo"));
        ws.onopen = () => ws.close({code}, "{reason}");
        const [code, , wasClean] = await closing(ws);
        return [theirs, code, wasClean];
    """,
    ) == [[code, reason, True], code, True]


def test_cookies_travel_with_the_request_and_with_the_101(window):
    assert run(
        window,
        """
        const ws = new WebSocket(at("/cookies"));
        const sent = await new Promise(heard => ws.onmessage = event => heard(event.data));
        return [sent, document.cookie.split("; ").sort()];
    """,
    ) == ["page=1", ["page=1", "socket=2"]]


def test_a_refusal_is_an_error_event_and_1006(window):
    assert run(
        window,
        """
        const ws = new WebSocket(at("/nowhere"));
        const told = [];
        ws.onerror = () => told.push("error");
        return new Promise(closed => ws.onclose =
            ({code, wasClean}) => closed([...told, code, wasClean]));
    """,
    ) == ["error", 1006, False]


def test_a_page_may_hold_many_sockets_and_leaving_it_closes_them_with_1001(site, window):
    assert run(
        window,
        """
        const sockets = [...Array(100)].map(() => new WebSocket(at("/echo")));
        await Promise.all(sockets.map(ws => new Promise(opened => ws.onopen = opened)));
        return Promise.all(sockets.map((ws, i) => new Promise(heard => {
            ws.onmessage = event => heard(Number(event.data));
            ws.send(String(i));
        })));
    """,
    ) == list(range(100))
    window.quit()
    with site.client() as client:
        while True:
            client.send(b"GET /counts HTTP/1.1\r\nHost: test.example\r\n\r\n")
            status, body = client.read_response()
            assert status == "200"
            if b'"open": 0' in body:
                break
    assert b"1001" in body


def test_a_websocketstream_that_is_not_read_makes_the_view_wait(window):
    assert run(
        window,
        """
        const stream = new WebSocketStream(at("/pour"));
        const {readable} = await stream.opened;
        let before = -1;
        await until(async () => {  // nothing more is sent
            const {sent} = await counts();
            const stands = sent === before;
            before = sent;
            return stands;
        });
        const blocked = before < 64;
        let size = 0;
        for await (const chunk of readable) size += chunk.byteLength;
        return [blocked, size];
    """,
    ) == [True, 64 * MIB]
