"""JSON in messages: ``send_json()`` and ``receive_json()``, on both sides."""

import json
from types import SimpleNamespace

import pytest

from geventws import ConnectionClosed, connect
from geventws.options import Options
from geventws.testing import connect as connect_in_test
from tests.support.client import BINARY, CLOSE, TEXT, close_frame, frame
from tests.support.servers import SECONDS, wait_until

VALUES = [None, True, 0, -1.5, "", "hällo 😀", [], {}, {"a": [1, {"b": None}]}, "\ud800"]
INVALID = ["", "x", "{", "NaN", "[Infinity]", "1e999", '{"a": 1,}', "1 2", "\ufeff1", "[" * 100_000]


def echo_json(environ, start_response):
    ws = environ["wsgi.websocket"]
    while True:
        ws.send_json(ws.receive_json())


@pytest.mark.parametrize("dial", ["client", "test client"])
def test_every_value_of_json_comes_back(serve, dial):
    if dial == "client":
        opened = connect(f"ws://127.0.0.1:{serve(echo_json).server_port}/")
    else:
        opened = connect_in_test(echo_json)
    with opened as ws:
        for value in VALUES:
            ws.send_json(value)
            assert ws.receive_json() == value
        with pytest.raises(TimeoutError):
            ws.receive_json(timeout=0.01)


def test_json_is_sent_as_text_without_spaces(run):
    client, _ = run(lambda ws: ws.send_json({"a": [1, "é"]}))
    assert client.read_frame() == (TEXT, rb'{"a":[1,"\u00e9"]}')


@pytest.mark.parametrize("text", INVALID)
def test_a_message_that_is_not_json_closes_with_1007(run, text):
    def view(ws):
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive_json()
        return caught.value

    client, result = run(view)
    client.send(frame(TEXT, text))
    assert client.read_frame() == (CLOSE, b"\x03\xefnot JSON")
    error = result.get(timeout=SECONDS)
    assert (error.code, error.reason, error.by_peer) == (1007, "not JSON", False)


def test_a_binary_message_closes_with_1003_and_the_log_says_so(run, caplog):
    client, _ = run(lambda ws: ws.receive_json())
    with caplog.at_level("INFO"):
        client.send(frame(BINARY, b"{}"))
        assert client.read_frame() == (CLOSE, b"\x03\xebnot a text message")
        client.send(close_frame(1003))
        client.read_to_end()
        wait_until(
            lambda: "sent a message that is not a text message; closed with 1003" in caplog.text
        )


def test_the_end_raises_because_none_is_a_value(run):
    def view(ws):
        assert ws.receive_json() is None
        codes = []
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                ws.receive_json()
            codes.append(caught.value.code)
        return codes

    client, result = run(view)
    client.send(frame(TEXT, "null") + close_frame(3000))
    assert result.get(timeout=SECONDS) == [3000, 3000]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_a_number_that_is_not_json_is_refused_and_nothing_is_sent(run, value):
    def view(ws):
        with pytest.raises(ValueError, match="JSON"):
            ws.send_json(value)
        ws.send_json("next")

    client, _ = run(view)
    assert client.read_frame() == (TEXT, b'"next"')


@pytest.mark.parametrize("value", [{"a": 1}, [1]])
@pytest.mark.parametrize("is_accepted", [False, True])
def test_send_names_send_json_for_a_dict_and_a_list(run, value, is_accepted):
    def view(ws):
        if is_accepted:
            ws.accept()
        with pytest.raises(TypeError, match=r"send_json\(\)"):
            ws.send(value)
        return True

    _, result = run(view)
    assert result.get(timeout=SECONDS)


def test_other_functions_may_encode_to_bytes_and_decode(serve):
    codec = SimpleNamespace(
        dumps=lambda value: json.dumps({"of": value}).encode(),
        loads=lambda text: json.loads(text)["of"] + 1,
    )
    server = serve(echo_json, json=codec)
    with server.client() as client:
        client.open()
        client.send(frame(TEXT, '{"of": 1}'))
        assert client.read_frame() == (TEXT, b'{"of": 2}')
    with connect(f"ws://127.0.0.1:{server.server_port}/", json=codec) as ws:
        ws.send_json(1)
        assert ws.receive_json() == 3


def test_the_option_needs_both_functions():
    with pytest.raises(TypeError, match="json must have"):
        Options(json=json.dumps)
