"""Text that cannot be encoded is refused where it comes in, and nothing is sent or changed."""

import contextlib
import json

import pytest
from gevent.event import AsyncResult

from geventws import Broadcast, connect, testing
from geventws.client.proxies import parse_proxy
from geventws.compat.websocket import WebSocket as OldWebSocket
from geventws.protocol.urls import parse_url
from tests.support.apps import echo
from tests.support.client import BINARY, PING, PONG, TEXT, frame

LONE = json.loads(r'"\ud800"')
#: The other ways in which a surrogate can be alone.
SURROGATES = [LONE, "\udfff", "x" * 1000 + LONE, "\udc00\ud800", f"{LONE}é", f"grüß{LONE}😀"]
SECONDS = 10  # nothing here takes so long


class Text(str):
    """A subclass goes another way in the compiled core."""

    __slots__ = ()


WAYS = {
    "send": lambda ws, text: ws.send(text),
    "send as binary": lambda ws, text: ws.send(text, binary=True),
    "send as text": lambda ws, text: ws.send(text, binary=False),
    "send a subclass": lambda ws, text: ws.send(Text(text)),
    "send plain": lambda ws, text: ws.send(text, compress=False),
    "ping": lambda ws, text: ws.ping(text),
    "close": lambda ws, text: ws.close(4000, text),
}


@pytest.mark.parametrize("text", SURROGATES)
@pytest.mark.parametrize("way", WAYS)
def test_a_view_that_sends_a_lone_surrogate_gets_a_valueerror_and_goes_on(run, way, text):
    def view(ws):
        with pytest.raises(ValueError, match=r"it has a lone surrogate, U\+D[89A-F]"):
            WAYS[way](ws, text)
        ws.send("still open")
        return ws.receive()

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"still open")
    client.send(frame(TEXT, "and usable"))
    assert result.get(timeout=SECONDS) == "and usable"


@pytest.mark.parametrize("compression", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_sends_a_lone_surrogate_goes_on(way, compression):
    with testing.connect(echo, compression=compression) as ws:
        with pytest.raises(ValueError, match=r"U\+D800, at index 0"):
            WAYS[way](ws, LONE)
        ws.send("still open")
        assert ws.receive() == "still open"


def test_between_answers_of_one_dispatch_nothing_is_lost(run):
    """There, frames gather in a buffer before they are written."""

    def view(ws):
        for message in ws:
            with contextlib.suppress(ValueError):
                ws.send(message + LONE)
            ws.send(message)

    client, _ = run(view)
    client.send(frame(TEXT, "1") + frame(TEXT, "2") + frame(PING, "p") + frame(TEXT, "3"))
    received = [client.read_frame() for _ in range(4)]
    assert [each for each in received if each[0] == TEXT] == [
        (TEXT, b"1"),
        (TEXT, b"2"),
        (TEXT, b"3"),
    ]
    assert (PONG, b"p") in received


def test_surrogates_in_pairs_are_characters(run):
    client, _ = run(lambda ws: (ws.send(json.loads(r'"\ud83d\ude00"')), ws.send("\0")))
    assert [client.read_frame() for _ in range(2)] == [(TEXT, "😀".encode()), (TEXT, b"\0")]


# --------------------------------------------------------------------- handshakes

HEADERS = [
    (LONE, "a", ValueError),
    ("X", LONE, ValueError),
    ("X", "snow \u2603", ValueError),
    ("X", b"bytes", TypeError),
    (b"X", "a", TypeError),
    ("X", 5, TypeError),
    (5, "a", TypeError),
    ("X", None, TypeError),
    (None, "a", TypeError),
    ("X", "a\r\nY: b", ValueError),
    ("X", "\0", ValueError),
    ("X" * 10 + " ", "a", ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), HEADERS)
def test_a_header_that_cannot_be_sent_is_refused_before_the_101(run, name, value, error):
    def view(ws):
        with pytest.raises(error, match="cannot be a header"):
            ws.accept(headers=[("X-Good", "a"), (name, value)])
        ws.accept(headers=[("X-Good", "b")])
        ws.send("open")

    client, _ = run(view)
    assert client.headers["x-good"] == "b"
    assert client.read_frame() == (TEXT, b"open")


@pytest.mark.parametrize("subprotocol", [LONE, "a b", "grüß", "", b"chat"])
def test_a_subprotocol_that_was_not_offered_is_refused_before_the_101(run, subprotocol):
    refused = AsyncResult()

    def view(ws):
        try:
            ws.accept(subprotocol=subprotocol)
        except ValueError as problem:
            refused.set(str(problem))
        ws.accept()

    client, _ = run(view)
    assert "did not offer" in refused.get(timeout=SECONDS)
    assert client.read_close() == (1000, "")


@pytest.fixture
def nobody(serve):
    """The URL of a server that fails the test if anybody connects."""
    connections = []
    server = serve(lambda environ, start_response: connections.append(environ))
    yield f"ws://127.0.0.1:{server.server_port}"
    assert not connections


@pytest.mark.parametrize(("name", "value", "error"), HEADERS)
def test_a_header_that_cannot_be_sent_is_refused_before_there_is_a_connection(
    name, value, error, nobody
):
    with pytest.raises(error, match="cannot be a header"):
        connect(nobody, headers=[(name, value)])
    with pytest.raises(error, match="cannot be a header"):
        testing.connect(echo, headers=[(name, value)])


@pytest.mark.parametrize(
    "headers", [None, 5, "X: a", b"X: a", ["X: a"], [("X", "a", "b")], [("X",)], [None]]
)
def test_headers_that_are_neither_a_mapping_nor_pairs_are_refused(headers, nobody, run):
    with pytest.raises(TypeError, match="headers must be a mapping or pairs"):
        connect(nobody, headers=headers)
    if headers is None:
        return

    def view(ws):
        with pytest.raises(TypeError, match="headers must be a mapping or pairs"):
            ws.accept(headers=headers)
        ws.send("open")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b"open")


@pytest.mark.parametrize(
    "options",
    [
        {"origin": LONE},
        {"subprotocols": [LONE]},
        {"subprotocols": ["grüß"]},
    ],
)
def test_what_cannot_be_in_a_request_is_refused_before_there_is_a_connection(options, nobody):
    with pytest.raises(ValueError, match="cannot be"):
        connect(nobody, **options)
    with pytest.raises(ValueError, match="cannot be"):
        testing.connect(echo, **options)


@pytest.mark.parametrize("rest", [f"/{LONE}", f"/?{LONE}", f"/a{LONE}b?c"])
def test_a_path_that_cannot_be_encoded_is_refused(rest, nobody):
    with pytest.raises(ValueError, match="the URL cannot be encoded in UTF-8"):
        connect(nobody + rest)
    with pytest.raises(ValueError, match="the URL cannot be encoded in UTF-8"):
        testing.connect(echo, rest)


@pytest.mark.parametrize(
    "url",
    [
        f"ws://{LONE}:x@host/",
        f"ws://user:{LONE}@host/",
        f"ws://{LONE}.example/",
    ],
)
def test_a_url_that_cannot_be_encoded_is_refused(url):
    with pytest.raises(ValueError, match="the URL cannot be encoded in UTF-8"):
        parse_url(url)
    with pytest.raises(ValueError, match="the URL of the proxy cannot be encoded in UTF-8"):
        parse_proxy(url.replace("ws", "http", 1))


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a\0b",
        "a" * 64,
        "ä" * 64,
        "a..b",
        ".a",
        "a\u3000b",
        "a\x7f",
        "a" * 60 + ".a" * 120,
        "a<b",
        'a"b',
        "a\\b",
    ],
)
def test_what_cannot_be_the_name_of_a_host_is_refused(host):
    for parse, url in ((parse_url, f"ws://{host}/"), (parse_proxy, f"http://{host}/")):
        with pytest.raises(ValueError, match=r"cannot be the name of a host|control characters"):
            parse(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://127.0.0.1/", "127.0.0.1"),
        ("ws://[::1]/", "::1"),
        ("ws://BÜCHER.example/", "xn--"),
        ("ws://my_service/", "my_service"),
        ("ws://example.com./", "example.com."),
        ("ws://[fe80::1%25eth0]/", "fe80::1%eth0"),
        ("ws://xn--bcher-kva.example/", "xn--bcher"),
    ],
)
def test_what_is_the_name_of_a_host(url, host):
    assert parse_url(url).host.startswith(host)


def test_a_user_in_latin_1_is_sent_as_it_is_escaped(serve):
    seen = AsyncResult()

    def app(environ, start_response):
        seen.set(environ["HTTP_AUTHORIZATION"])
        return []

    port = serve(app).server_port
    list(connect(f"ws://gr%FC%DF:%0d%0aX@127.0.0.1:{port}/"))
    assert seen.get(timeout=SECONDS) == "Basic Z3L83zoNClg="


def test_a_cookie_of_a_test_that_cannot_be_sent():
    with pytest.raises(ValueError, match="cannot be a header"):
        testing.connect(echo, cookies={"a": LONE})


# ----------------------------------------------------------------------------- compat


def test_the_old_names_refuse_it_too():
    with pytest.raises(ValueError, match="lone surrogate"):
        OldWebSocket._encode_bytes(LONE)


# -------------------------------------------------------------------------- broadcast

MESSAGES = {"text": "hello", "binary": b"\xed\xa0\x80"}


@pytest.mark.parametrize(
    "channel",
    [*SURROGATES, "", None, b"room", 5, ["room"], "ä" * 513, "a" * 1025, "a" * 10_000_000],
)
def test_a_channel_that_cannot_be_named_is_refused_by_all_verbs(channel):
    broadcast = Broadcast(history=5)
    verbs = [
        lambda: broadcast.publish(channel, "hello"),
        lambda: broadcast.history(channel),
        lambda: broadcast.subscribers(channel),
        lambda: broadcast.listen(channel),
        lambda: broadcast.subscribe([channel], None),
    ]
    if not isinstance(channel, list):
        verbs.append(lambda: broadcast.subscribe(channel, None))
    for verb in verbs:
        with pytest.raises(ValueError, match="a channel") as caught:
            verb()
        assert len(str(caught.value)) < 300
    assert not broadcast._channels
    broadcast.close()


@pytest.mark.parametrize("channel", ["\0", "a\r\nb", "{a}", "😀", "a" * 1024, "ä" * 512, " ", "*"])
def test_any_other_name_is_a_channel(channel):
    broadcast = Broadcast(history=5)
    with broadcast.listen(channel) as messages:
        broadcast.publish(channel, "hello")
        assert next(messages).data == "hello"
    assert len(broadcast.history(channel)) == 1
    broadcast.close()


@pytest.mark.parametrize("text", SURROGATES)
def test_a_message_that_cannot_be_encoded_is_refused_and_not_kept(text):
    broadcast = Broadcast(history=5)
    with pytest.raises(ValueError, match="lone surrogate"):
        broadcast.publish("room", text)
    assert broadcast.history("room") == []
    broadcast.close()


@pytest.mark.parametrize("since", [5, b"1-1", [], {}, True])
def test_an_id_that_is_no_string_is_refused(run, since):
    broadcast = Broadcast(history=5)

    def view(ws):
        with pytest.raises(TypeError, match="since is the id of a message"):
            broadcast.subscribe("room", ws, since)
        ws.send("on")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b"on")
    assert broadcast.subscribers("room") == 0


@pytest.mark.parametrize(
    "since", [*SURROGATES, "9" * 10_000_000, "-", "\0", "\u0661-\u0661", "1-1-1", "+1-1"]
)
def test_an_id_that_a_client_has_made_up_is_unknown(run, since):
    broadcast = Broadcast(history=5)
    broadcast.publish("room", "kept")

    def view(ws):
        with broadcast.subscribe("room", ws, since) as subscription:
            ws.send(str(subscription.recovered))

    client, _ = run(view)
    assert [client.read_frame() for _ in range(2)] == [(TEXT, b"kept"), (TEXT, b"False")]


@pytest.mark.parametrize("wrong", ["text", "none", "failure"])
def test_an_envelope_that_cannot_be_sent_is_left_out_of_a_replay_as_it_is_live(run, caplog, wrong):
    def envelope(message, id_):
        if message == b"bad":
            return {"text": LONE, "none": None}[wrong]
        return message

    broadcast = Broadcast(history=5, envelope=envelope)
    for message in ("a", b"bad", b"b"):
        broadcast.publish("room", message)

    def view(ws):
        with broadcast.subscribe("room", ws, "0-0"):
            broadcast.publish("room", b"bad")
            broadcast.publish("room", "c")

    client, _ = run(view)
    received = [client.read_frame() for _ in range(3)]
    assert received == [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b"c")]
    assert [record.getMessage() for record in caplog.records] == [
        "A message of 'room' cannot be sent and was dropped"
    ] * 2
