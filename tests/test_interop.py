"""Third-party clients against a server in a separate process."""

import asyncio
import contextlib
import json
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import aiohttp
import pytest
import tornado.websocket
import websocket
import wsproto
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync
from wsproto import events

from tests.support.client import KEY
from tests.support.npm import NODE
from tests.support.servers import Process, serving
from tests.support.tools import need

PATIENCE = 10  # seconds; nothing here takes one, unless something is broken
MEBIBYTE = 1 << 20  # the default of max_message_size
REFUSAL = "Who are you?\n"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("interop") / "log"
    arguments = "-m geventws tests.support.interop:site --bind 127.0.0.1:0"
    with serving(arguments.split(), log) as process:
        yield process
    # The view /crash leaves a traceback, and nothing else may.
    assert "Traceback" not in re.sub(r"view of /crash .*\nTraceback", "", process.output)


def at(server: Process, path: str = "/echo", scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{server.address[1]}{path}"


# ------------------------------------------------------- websockets, blocking


def dial(server: Process, path: str = "/echo", **options):
    return connect_sync(at(server, path), proxy=None, close_timeout=PATIENCE, **options)


def close_seen_by(ws) -> tuple[int, str]:
    """The Close frame that ends a connection of websockets', after any messages."""
    try:
        while True:
            ws.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code, closed.rcvd.reason


def test_websockets_connects_echoes_and_closes_whatever_the_way_in(way_in):
    with dial(way_in) as ws:
        for message in ("grüß dich", b"\0\xff", "", b""):
            ws.send(message)
            assert ws.recv(PATIENCE) == message
        ws.close(4000, "enough")
        assert ws.close_code == 4000


def test_websockets_gets_messages_of_a_mebibyte_back(server):
    with dial(server) as ws:
        for message in ("x" * MEBIBYTE, bytes(range(256)) * (MEBIBYTE // 256)):
            ws.send(message)
            assert ws.recv(PATIENCE) == message


def test_websockets_sees_1009_for_a_byte_more_than_a_mebibyte(server):
    with dial(server) as ws:
        ws.send(bytes(MEBIBYTE + 1))
        assert close_seen_by(ws)[0] == 1009


@pytest.mark.parametrize("takeover", [False, True])
def test_websockets_and_the_server_exchange_compressed_messages(takeover, tmp_path):
    deflate = f"Deflate(server_context_takeover={takeover}, client_context_takeover={takeover})"
    program = (
        "import sys; from geventws import Deflate, WebSocketServer; from tests.support import apps;"
        f"s = WebSocketServer(('127.0.0.1', 0), apps.site, compression={deflate}); s.start();"
        "print(f'http://127.0.0.1:{s.server_port}', flush=True); s.serve_forever()"
    )
    messages = [f"message {i} " * 1000 for i in range(20)] + [b"\0" * 100000, "", b"short"]
    with serving(["-c", program], tmp_path / "log") as server, dial(server) as ws:
        assert (ws.response.headers["Sec-WebSocket-Extensions"] == AGREED) is not takeover
        for message in messages:
            ws.send(message)
            assert ws.recv(PATIENCE) == message


def test_websockets_fragments_come_back_as_one_message(server):
    with dial(server) as ws:
        ws.send(["one ", "", "two ", "three"])
        assert ws.recv(PATIENCE) == "one two three"
        ws.send([b"\x01", b"\x02" * 70000])
        assert ws.recv(PATIENCE) == b"\x01" + b"\x02" * 70000


def test_websockets_gets_its_pings_answered_between_fragments(server):
    with dial(server) as ws:
        pongs = []

        def pieces():
            yield "before "
            pongs.append(ws.ping("marco"))
            yield "after"

        ws.send(pieces())
        assert ws.recv(PATIENCE) == "before after"
        assert pongs[0].wait(PATIENCE)


def test_websockets_answers_the_pings_of_the_server(server):
    with dial(server, "/ping") as ws:
        assert ws.recv(PATIENCE) == "what do you say?"
        ws.send("first")
        ws.send("second")
        assert ws.recv(PATIENCE) == "answered"


def test_websockets_gets_a_hundred_messages_back_in_order(server):
    messages = [f"message {i}" * i for i in range(100)]
    with dial(server) as ws:
        for message in messages:
            ws.send(message)
        assert [ws.recv(PATIENCE) for _ in messages] == messages


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [("/close", 4001, "not you"), ("/leave", 1000, ""), ("/crash", 1011, "")],
)
def test_websockets_sees_with_what_code_and_reason_the_server_closes(server, path, code, reason):
    with dial(server, path) as ws:
        assert close_seen_by(ws) == (code, reason)


def test_websockets_code_and_reason_reach_the_view_and_the_code_comes_back(server):
    with dial(server, "/farewell") as ws:
        ws.send("one")
        ws.send("two")
        ws.close(4002, "bye from websockets")
        assert ws.close_code == 4002
    server.wait_for("after 2 messages 4002 'bye from websockets'")


def test_websockets_sees_the_status_and_the_body_of_a_refusal(server):
    with pytest.raises(InvalidStatus) as caught:
        dial(server, "/refuse")
    response = caught.value.response
    assert (response.status_code, response.body) == (401, REFUSAL.encode())
    assert response.headers["WWW-Authenticate"] == "Basic"


def test_websockets_agrees_on_a_subprotocol_and_gets_the_headers_of_the_view(server):
    with dial(server, "/accept", subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == ws.recv(PATIENCE) == "chat.v2"
        assert ws.response.headers["Set-Cookie"] == "seen=1"


# -------------------------------------------------------- websockets, asyncio


def run(conversation):
    """Run a conversation to its end, which must come in time."""
    return asyncio.run(asyncio.wait_for(conversation, 2 * PATIENCE))


def dial_async(server: Process, path: str = "/echo", **options):
    return connect_async(at(server, path), proxy=None, close_timeout=PATIENCE, **options)


def test_websockets_on_asyncio_gets_text_and_bytes_up_to_a_mebibyte_back(server):
    messages = ["grüß dich", b"\0\xff", "", b"", "x" * MEBIBYTE, bytes(MEBIBYTE)]

    async def conversation():
        async with dial_async(server) as ws:
            answers = []
            for message in messages:
                await ws.send(message)
                answers.append(await ws.recv())
            return answers

    assert run(conversation()) == messages


def test_websockets_on_asyncio_sends_fragments_while_it_is_pinging(server):
    async def conversation():
        async with dial_async(server) as ws:
            pongs = []

            async def pieces():
                yield "before "
                pongs.append(await ws.ping("marco"))
                assert await pongs[0] < PATIENCE
                yield "after"

            await ws.send(pieces())
            return await ws.recv()

    assert run(conversation()) == "before after"


def test_websockets_on_asyncio_holds_fifty_connections_at_once(server):
    async def one(number: int) -> str:
        async with dial_async(server) as ws:
            await ws.send(f"from {number}")
            return await ws.recv()

    async def conversation():
        return await asyncio.gather(*map(one, range(50)))

    assert run(conversation()) == [f"from {number}" for number in range(50)]


def test_websockets_on_asyncio_sees_the_close_of_the_server_and_sends_its_own(server):
    async def conversation():
        async with dial_async(server, "/close") as ws:
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "not you")
        async with dial_async(server, "/farewell") as ws:
            await ws.close(4003, "bye from asyncio")
            assert ws.close_code == 4003

    run(conversation())
    server.wait_for("after 0 messages 4003 'bye from asyncio'")


def test_websockets_on_asyncio_sees_a_refusal(server):
    async def conversation():
        with pytest.raises(InvalidStatus) as caught:
            await dial_async(server, "/refuse")
        return caught.value.response.status_code, caught.value.response.body

    assert run(conversation()) == (401, REFUSAL.encode())


# ----------------------------------------------------------- websocket-client


@contextlib.contextmanager
def calling(server: Process, path: str = "/echo", **options) -> Iterator[websocket.WebSocket]:
    ws = websocket.create_connection(at(server, path), timeout=PATIENCE, **options)
    try:
        yield ws
    finally:
        ws.shutdown()


def parse_close(payload: bytes) -> tuple[int, str]:
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def test_websocket_client_gets_text_bytes_and_a_mebibyte_back(server):
    with calling(server) as ws:
        ws.send("grüß dich")
        assert ws.recv() == "grüß dich"
        for data in (b"\0\xff", b"", bytes(range(256)) * (MEBIBYTE // 256)):
            ws.send_binary(data)
            assert ws.recv() == data


def test_websocket_client_fragments_come_back_as_one_message_with_a_pong_between(server):
    with calling(server) as ws:
        ws.send_frame(websocket.ABNF.create_frame("one ", websocket.ABNF.OPCODE_TEXT, 0))
        ws.ping("marco")
        ws.send_frame(websocket.ABNF.create_frame("two", websocket.ABNF.OPCODE_CONT, 1))
        assert ws.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"marco")
        assert ws.recv() == "one two"


def test_websocket_client_sees_the_close_frame_of_the_server(server):
    with calling(server, "/close") as ws:
        opcode, payload = ws.recv_data(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert parse_close(payload) == (4001, "not you")


def test_websocket_client_gets_its_close_frame_back(server):
    with calling(server, "/farewell") as ws:
        ws.send_close(4004, b"bye from websocket-client")
        opcode, payload = ws.recv_data(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert parse_close(payload) == (4004, "bye from websocket-client")
    server.wait_for("after 0 messages 4004 'bye from websocket-client'")


def test_websocket_client_sees_a_refusal(server):
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(at(server, "/refuse"), timeout=PATIENCE)
    assert caught.value.status_code == 401
    assert caught.value.resp_body == REFUSAL.encode()


def test_websocket_client_with_callbacks_runs_from_open_to_close(server):
    calls = []

    def opened(app) -> None:
        calls.append("open")
        app.send("hello")

    def received(app, message: str) -> None:
        calls.append(message)
        app.close(status=4005, reason=b"bye from the callbacks")

    app = websocket.WebSocketApp(
        at(server, "/echo"),
        on_open=opened,
        on_message=received,
        on_error=lambda app, error: calls.append(error),
        on_close=lambda app, code, reason: calls.append("close"),
    )
    thread = threading.Thread(target=app.run_forever, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert calls == ["open", "hello", "close"]
    assert not thread.is_alive()


# -------------------------------------------------------------------- aiohttp


def in_session(server: Process, path: str, talk, **options):
    """What ``talk(ws)`` returns, ``ws`` being a WebSocket of aiohttp's."""

    async def conversation():
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(at(server, path, "http"), **options) as ws,
        ):
            return await talk(ws)

    return run(conversation())


def test_aiohttp_gets_text_bytes_and_a_mebibyte_back(server):
    async def talk(ws):
        await ws.send_str("grüß dich")
        await ws.send_bytes(b"\0\xff")
        await ws.send_json({"n": 1})
        await ws.send_bytes(bytes(MEBIBYTE))
        return (
            await ws.receive_str(),
            await ws.receive_bytes(),
            await ws.receive_json(),
            await ws.receive_bytes(),
        )

    assert in_session(server, "/echo", talk) == ("grüß dich", b"\0\xff", {"n": 1}, bytes(MEBIBYTE))


def test_aiohttp_offers_compression_and_gets_its_messages_back(server):
    async def talk(ws):
        await ws.send_str("a" * 5000)
        return await ws.receive_str()

    assert in_session(server, "/echo", talk, compress=15) == "a" * 5000


def test_aiohttp_pings_and_keeps_the_connection_by_its_heartbeat(server):
    async def talk(ws):
        await ws.ping(b"marco")
        return await ws.receive()

    message = in_session(server, "/echo", talk, autoping=False, heartbeat=PATIENCE)
    assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"marco")


def test_aiohttp_answers_the_pings_of_the_server(server):
    async def talk(ws):
        assert await ws.receive_str() == "what do you say?"
        await ws.send_str("first")
        await ws.send_str("second")
        return await ws.receive_str()

    assert in_session(server, "/ping", talk) == "answered"


def test_aiohttp_sees_the_close_of_the_server(server):
    async def talk(ws):
        message = await ws.receive()
        return message.type, message.data, message.extra, ws.close_code

    assert in_session(server, "/close", talk) == (aiohttp.WSMsgType.CLOSE, 4001, "not you", 4001)


def test_aiohttp_closes_and_its_code_and_reason_reach_the_view(server):
    async def talk(ws):
        await ws.send_str("one")
        return await ws.close(code=4006, message=b"bye from aiohttp"), ws.close_code

    assert in_session(server, "/farewell", talk) == (True, 4006)
    server.wait_for("after 1 messages 4006 'bye from aiohttp'")


def test_aiohttp_sees_a_refusal(server):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        in_session(server, "/refuse", None)
    assert caught.value.status == 401


def test_aiohttp_agrees_on_a_subprotocol(server):
    async def talk(ws):
        return ws.protocol, await ws.receive_str()

    protocols = ["chat.v1", "chat.v2"]
    assert in_session(server, "/accept", talk, protocols=protocols) == ("chat.v2", "chat.v2")


# -------------------------------------------------------------------- tornado


def test_tornado_offers_compression_and_gets_similar_messages_back_without_it(server):
    messages = [f"message {i} " * 1000 for i in range(3)]

    async def conversation():
        ws = await tornado.websocket.websocket_connect(at(server), compression_options={})
        try:
            for message in messages:
                await ws.write_message(message)
                assert await ws.read_message() == message
            return ws.headers.get("Sec-WebSocket-Extensions")
        finally:
            ws.close()
            assert await ws.read_message() is None

    assert run(conversation()) is None


# -------------------------------------------------------------------- wsproto


class Wsproto:
    """wsproto's state machine on a plain socket."""

    def __init__(self, server: Process, path: str = "/echo", **options) -> None:
        self.sock = socket.create_connection(server.address, timeout=PATIENCE)
        self.connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events = self.connection.events()
        self.send(events.Request(host="127.0.0.1", target=path, **options))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.sock.close()

    def send(self, *several: events.Event) -> None:
        """Send events, all in one segment."""
        self.sock.sendall(b"".join(map(self.connection.send, several)))

    def next(self) -> events.Event:
        while (event := next(self.events, None)) is None:
            self.connection.receive_data(self.sock.recv(65536) or None)
            self.events = self.connection.events()
        return event

    def next_message(self) -> str | bytes:
        """The next message, which wsproto hands out in pieces."""
        pieces = []
        while True:
            event = self.next()
            assert isinstance(event, events.Message)
            pieces.append(event.data)
            if event.message_finished:
                return pieces[0][:0].join(pieces)


@pytest.fixture
def wsproto_client(server):
    with Wsproto(server) as client:
        assert isinstance(client.next(), events.AcceptConnection)
        yield client


def test_wsproto_gets_text_bytes_and_a_mebibyte_back(wsproto_client):
    for data in ("grüß dich", bytes(range(256)) * (MEBIBYTE // 256)):
        kind = events.TextMessage if isinstance(data, str) else events.BytesMessage
        wsproto_client.send(kind(data=data))
        assert wsproto_client.next_message() == data


def test_wsproto_fragments_come_back_as_one_message_after_the_pong(wsproto_client):
    wsproto_client.send(
        events.TextMessage(data="one ", message_finished=False),
        events.Ping(payload=b"marco"),
        events.TextMessage(data="two", message_finished=True),
    )
    assert wsproto_client.next() == events.Pong(payload=b"marco")
    assert wsproto_client.next_message() == "one two"


def test_wsproto_gets_its_close_frame_back_and_then_the_end_of_the_stream(wsproto_client):
    wsproto_client.send(events.CloseConnection(code=4007, reason="bye from wsproto"))
    assert wsproto_client.next() == events.CloseConnection(code=4007, reason="bye from wsproto")
    assert wsproto_client.sock.recv(1) == b""


def test_wsproto_sees_the_close_of_the_server_and_answers_it(server):
    with Wsproto(server, "/close") as client:
        assert isinstance(client.next(), events.AcceptConnection)
        event = client.next()
        assert event == events.CloseConnection(code=4001, reason="not you")
        client.send(event.response())
        assert client.sock.recv(1) == b""


def test_wsproto_sees_a_refusal_with_its_body(server):
    with Wsproto(server, "/refuse") as client:
        refusal = client.next()
        assert isinstance(refusal, events.RejectConnection)
        assert refusal.status_code == 401
        body = b""
        while not isinstance(event := client.next(), events.RejectData) or not event.body_finished:
            body += event.data
        assert body + event.data == REFUSAL.encode()


def test_wsproto_agrees_on_a_subprotocol(server):
    with Wsproto(server, "/accept", subprotocols=["chat.v2"]) as client:
        accepted = client.next()
        assert isinstance(accepted, events.AcceptConnection)
        assert accepted.subprotocol == "chat.v2"
        assert client.next_message() == "chat.v2"


# ------------------------------------------------------------------ Node's ws


@pytest.fixture
def node_ws(node_modules, server):
    """``node_ws(scenario, path)``: what Node's ws has met."""
    node = need("node", "apt-get install nodejs")

    def run_scenario(scenario: str, path: str = "/echo"):
        done = subprocess.run(
            [node, NODE / "ws_client.cjs", scenario, at(server, path)],
            capture_output=True,
            timeout=2 * PATIENCE,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run_scenario


def test_node_gets_text_bytes_and_a_mebibyte_back_and_closes(node_ws):
    assert node_ws("echo") == {"answers": ["grüß dich", "", MEBIBYTE], "closed": [1000, ""]}


def test_node_fragments_come_back_as_one_message(node_ws):
    assert node_ws("fragments") == "one two three"


def test_node_gets_its_pings_answered(node_ws):
    assert node_ws("ping") == "marco"


def test_node_answers_the_pings_of_the_server(node_ws):
    assert node_ws("answer", "/ping") == ["what do you say?", "answered"]


def test_node_and_the_server_exchange_compressed_messages(node_ws):
    assert node_ws("deflate") == {
        "extensions": "permessage-deflate",
        "answers": ["a" * 5000, "", MEBIBYTE],
    }


def test_node_agrees_on_a_subprotocol(node_ws):
    assert node_ws("subprotocol", "/accept") == {"agreed": "chat.v2", "told": "chat.v2"}


def test_node_code_and_reason_reach_the_view_and_come_back(node_ws, server):
    assert node_ws("leave", "/farewell") == [4008, "bye from Node"]
    server.wait_for("after 0 messages 4008 'bye from Node'")


@pytest.mark.parametrize(
    ("path", "closed"),
    [("/close", [4001, "not you"]), ("/leave", [1000, ""]), ("/crash", [1011, ""])],
)
def test_node_sees_with_what_code_and_reason_the_server_closes(node_ws, path, closed):
    assert node_ws("left", path) == closed


def test_node_sees_1009_for_a_byte_more_than_a_mebibyte(node_ws):
    assert node_ws("toobig")[0] == 1009


def test_node_sees_the_status_and_the_body_of_a_refusal(node_ws):
    assert node_ws("refused", "/refuse") == [401, REFUSAL]


# ----------------------------------------------------------------------- curl

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)


def curl_command(server: Process, path: str, *headers: str) -> list[str]:
    curl = need("curl", "apt-get install curl")
    given = [argument for header in headers for argument in ("-H", header)]
    return [
        curl,
        "--silent",
        "--http1.1",
        "-i",
        "-N",
        "--noproxy",
        "*",
        "--max-time",
        str(PATIENCE),
        *given,
        at(server, path, "http"),
    ]


def curl(server: Process, path: str, *headers: str) -> tuple[str, bytes]:
    """The head and the body of a response."""
    done = subprocess.run(
        curl_command(server, path, *headers), capture_output=True, timeout=2 * PATIENCE, check=True
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return head.decode(), body


def test_curl_shows_the_101_and_the_frames_behind_it(server):
    end = b"\x81\x11hello and goodbye\x88\x02\x03\xe8"
    output = b""
    with subprocess.Popen(
        curl_command(server, "/leave", *UPGRADE), stdout=subprocess.PIPE
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not output.endswith(end):
                remaining = max(0, deadline - time.monotonic())
                ready, _, _ = select.select([process.stdout], [], [], remaining)
                assert ready, output
                more = process.stdout.read1()
                assert more, output
                output += more
        finally:
            process.kill()  # it answers no Close frame
    lines = output.removesuffix(end).decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert {
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    } <= set(lines)
    assert not [line for line in lines if line.lower().startswith(("content-", "transfer-"))]


def test_curl_gets_a_page_from_the_same_server(server):
    head, body = curl(server, "/plain")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert body == b"plain"


def test_curl_sees_why_an_upgrade_is_refused(server):
    head, body = curl(server, "/refuse", *UPGRADE)
    assert head.startswith("HTTP/1.1 401 Unauthorized\r\n")
    assert body == REFUSAL.encode()


# ------------------------------------------------------------------- Chromium

#: The arguments of every script: the URL and, added by Selenium, what to call in the end.
OPENING = """
    const [url, done] = [arguments[0], arguments[arguments.length - 1]];
    const told = [];
    const open = (...more) => {
        const ws = new WebSocket(url, ...more);
        ws.binaryType = "arraybuffer";
        ws.onerror = () => told.push("error");
        ws.onclose = ({code, reason, wasClean}) => done([...told, code, reason, wasClean]);
        return ws;
    };
"""


@pytest.fixture
def chromium(open_window, server):
    """``chromium(script, path)``: what a script in a page of the server's has been told."""
    window = open_window(at(server, "/plain", "http"))

    def run_script(script: str, path: str = "/echo"):
        return window.execute_async_script(OPENING + script, at(server, path))

    return run_script


def test_chromium_gets_text_and_array_buffers_back(chromium):
    assert chromium("""
        const ws = open();
        ws.onopen = () => {
            ws.send("grüß dich");
            ws.send("");
            ws.send(new Uint8Array([0, 255]).buffer);
            ws.send(new Blob(["blob"]));
            ws.send(new ArrayBuffer(1 << 20));
        };
        ws.onmessage = ({data}) => {
            if (typeof data == "string") told.push(data);
            else if (data.byteLength > 10) { told.push(data.byteLength); ws.close(1000); }
            else told.push([...new Uint8Array(data)]);
        };
    """) == ["grüß dich", "", [0, 255], [98, 108, 111, 98], MEBIBYTE, 1000, "", True]


def test_chromium_and_the_server_exchange_compressed_messages(chromium):
    assert chromium("""
        const ws = open();
        const sent = "grüß dich ".repeat(10000);
        ws.onopen = () => { told.push(ws.extensions); ws.send(sent); };
        ws.onmessage = ({data}) => { told.push(data === sent); ws.close(1000); };
    """) == [AGREED, True, 1000, "", True]


def test_chromium_gets_a_hundred_messages_sent_at_once_back_in_order(chromium):
    assert chromium("""
        const ws = open();
        ws.onopen = () => { for (let i = 0; i < 100; i++) ws.send(String(i)); };
        ws.onmessage = ({data}) => { if (told.push(data) == 100) ws.close(); };
    """) == [*map(str, range(100)), 1005, "", True]


def test_chromium_sees_the_code_and_the_reason_of_the_server(chromium):
    assert chromium("open();", "/close") == [4001, "not you", True]


def test_chromium_sees_that_a_view_has_failed(chromium):
    assert chromium("open();", "/crash") == [1011, "", True]


def test_chromium_code_and_reason_reach_the_view_and_come_back(chromium, server):
    script = 'const ws = open(); ws.onopen = () => ws.close(4009, "bye from Chromium");'
    assert chromium(script, "/farewell") == [4009, "bye from Chromium", True]
    server.wait_for("after 0 messages 4009 'bye from Chromium'")


def test_chromium_sees_a_refused_upgrade_as_an_error(chromium):
    assert chromium("open();", "/refuse") == ["error", 1006, "", False]


def test_chromium_agrees_on_a_subprotocol(chromium):
    assert chromium(
        """
        const ws = open(["chat.v1", "chat.v2"]);
        ws.onmessage = ({data}) => { told.push(ws.protocol, data); };
    """,
        "/accept",
    ) == ["chat.v2", "chat.v2", 1000, "", True]


def test_chromium_cannot_connect_from_the_page_of_another_origin(open_window, server):
    page = at(server, "/plain", "http").replace("127.0.0.1", "localhost")
    window = open_window(page)
    told = window.execute_async_script(OPENING + "open();", at(server))
    assert told == ["error", 1006, "", False]
    server.wait_for(r"Refused a WebSocket .*'http://localhost:\d+'.*allowed_origins")


def test_chromium_ends_the_view_when_its_window_is_closed(open_window, server):
    window = open_window(at(server, "/plain", "http"))
    assert (
        window.execute_async_script(
            OPENING + "const ws = open(); ws.onopen = () => { ws.send('one'); done('open'); };",
            at(server, "/farewell"),
        )
        == "open"
    )
    window.quit()
    server.wait_for("after 1 messages 1001 ''")
