"""The WebSocket API of browsers (WHATWG), in Chromium, where it goes beyond what is everyday."""

from collections.abc import Iterator

import pytest

from tests.support.servers import ROOT, Process, serving

MIB = 1 << 20
#: The checks that a page makes; returns the problem of each, or "".
CHECKS = (ROOT / "tests/support/browser_checks.js").read_text()


@pytest.fixture(scope="module")
def site(tls, tmp_path_factory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("browsers") / "log"
    with serving(["-m", "tests.support.browser_site", *tls[:2]], log) as process:
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


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_finds_nothing_that_the_specifications_forbid(scheme, site, open_window):
    origin = site.wait_for(rf"{scheme}://127\.0\.0\.1:\d+")[0]
    window = open_window(f"{origin}/")
    problems = window.execute_async_script(CHECKS)
    assert problems
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_a_page_that_is_kept_for_the_back_button_ends_its_websocket(site, open_window):
    origin = f"http://127.0.0.1:{site.address[1]}"
    window = open_window(f"{origin}/frame?id=kept")
    window.execute_async_script("ws.readyState ? arguments[0]() : ws.onopen = arguments[0];")
    window.get(f"{origin}/")
    window.back()
    assert run(window, 'return (await fetch("/end?id=kept")).json();') == [1001, ""]


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
