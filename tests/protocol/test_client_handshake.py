"""The client's side of the opening handshake, sans I/O; the key is the RFC's own."""

import base64

import pytest

from geventws import Deflate, HandshakeError
from geventws.protocol.client_handshake import (
    Response,
    check_response,
    new_key,
    pairs,
    parse_response,
    request_head,
)
from geventws.protocol.permessage_deflate import Agreement
from geventws.protocol.urls import parse_url
from tests.support.client import ACCEPT, KEY

TARGET = parse_url("ws://example.com/chat?room=1")
GOOD = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}


def response(**changes):
    """A good answer with some of its headers changed; None removes one."""
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return Response(
        101,
        "101 Switching Protocols",
        [(name, value) for name, value in headers.items() if value is not None],
    )


# ----------------------------------------------------------------- the request


def test_a_key_is_sixteen_fresh_bytes_in_base64():
    first, second = new_key(), new_key()
    assert len(base64.b64decode(first, validate=True)) == 16
    assert first != second


def test_a_request_has_the_headers_of_section_4_1():
    assert request_head(TARGET, KEY) == (
        b"GET /chat?room=1 HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"\r\n"
    )


def test_a_request_has_what_the_caller_wants_on_top():
    head = request_head(
        parse_url("wss://ada:p%C3%A4ss@example.com:8443/"),
        KEY,
        subprotocols=["chat", "superchat"],
        origin="https://example.com",
        compression=Deflate(),
        headers=[("Cookie", "a=b"), ("X-Name", "na\xefve")],
    )
    lines = head.split(b"\r\n")
    assert lines[:2] == [b"GET / HTTP/1.1", b"Host: example.com:8443"]
    assert lines[6:] == [
        b"Origin: https://example.com",
        b"Sec-WebSocket-Protocol: chat, superchat",
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover;"
        b" client_no_context_takeover; client_max_window_bits",
        b"Authorization: Basic YWRhOnDDpHNz",
        b"Cookie: a=b",
        b"X-Name: na\xefve",
        b"",
        b"",
    ]


@pytest.mark.parametrize("subprotocols", [["a b"], [""], ["chat", "chat"]])
def test_subprotocols_must_be_distinct_tokens(subprotocols):
    with pytest.raises(ValueError, match="are not distinct tokens"):
        request_head(TARGET, KEY, subprotocols=subprotocols)


@pytest.mark.parametrize("name", ["Connection", "upgrade", "SEC-WEBSOCKET-KEY", "Content-Length"])
def test_the_headers_of_the_handshake_belong_to_it(name):
    with pytest.raises(ValueError, match=f"the header {name} belongs to the handshake"):
        request_head(TARGET, KEY, headers=[(name, "x")])


@pytest.mark.parametrize("given", [{"a": "1", "b": "2"}, [("a", "1"), ("b", "2")]])
def test_headers_are_given_as_a_mapping_or_as_pairs(given):
    assert pairs(given) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("header", [("a b", "1"), ("a", "1\r\nb: 2"), ("Host", "a\r\nb: 2")])
def test_a_header_that_cannot_be_sent_is_refused(header):
    with pytest.raises(ValueError, match="cannot be a header"):
        pairs([header])
    with pytest.raises(ValueError, match="cannot be a header"):
        request_head(TARGET, KEY, headers=[header])


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (("a", 1), "its value is not a str, but int"),
        (("a", None), "its value is not a str, but NoneType"),
        (("a", b"1"), "its value is not a str, but bytes"),
        ((b"a", "1"), "its name is not a str, but bytes"),
        ((None, "1"), "its name is not a str, but NoneType"),
    ],
)
def test_a_header_of_another_type_than_str_is_a_type_error(header, why):
    with pytest.raises(TypeError, match=f"cannot be a header: {why}"):
        pairs([header])


def test_a_host_among_the_headers_takes_the_place_of_the_host_of_the_url():
    head = request_head(TARGET, KEY, headers=[("A", "1"), ("host", "virtual.example"), ("B", "2")])
    lines = head.split(b"\r\n")
    assert lines[1] == b"Host: virtual.example"
    assert sum(line.lower().startswith(b"host:") for line in lines) == 1
    assert lines[6:] == [b"A: 1", b"B: 2", b"", b""]


def test_two_hosts_are_refused():
    with pytest.raises(ValueError, match="Host is given more than once"):
        request_head(TARGET, KEY, headers=[("Host", "a"), ("host", "b")])


def test_an_authorization_among_the_headers_takes_precedence_over_the_user_in_the_url():
    head = request_head(
        parse_url("ws://ada@example.com/"), KEY, headers=[("authorization", "Bearer x")]
    )
    lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]
    assert lines == [b"authorization: Bearer x"]


# ---------------------------------------------------------------- the response


def test_the_head_of_a_response_is_taken_apart():
    parsed = parse_response(b"HTTP/1.1 404 Not Found\r\nA: 1\r\nb:\t 2 \r\nB:3")
    assert parsed == (404, "404 Not Found", [("A", "1"), ("b", "2"), ("B", "3")])
    assert parsed.get("B") == "2, 3"
    assert parsed.get("c") == ""


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HTTP/2 200 OK",
        b"SSH-2.0-OpenSSH",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 099 x",
    ],
)
def test_what_is_no_http_is_no_answer(first):
    with pytest.raises(HandshakeError, match="HTTP") as caught:
        parse_response(first)
    assert caught.value.status_code == 0


@pytest.mark.parametrize("line", [b"", b"no colon", b"a b: c", b": c", b" folded: c"])
def test_a_malformed_header_is_an_error(line):
    with pytest.raises(HandshakeError, match="header") as caught:
        parse_response(b"HTTP/1.1 101 Switching Protocols\r\n" + line)
    assert caught.value.status_code == 101


@pytest.mark.parametrize(
    "changes", [{}, {"Upgrade": "WebSocket"}, {"Connection": "keep-alive, upgrade"}]
)
def test_a_good_answer_passes(changes):
    assert check_response(response(**changes), KEY, ["chat"], None) == (None, None)


def test_what_was_offered_is_agreed_on():
    answer = response(
        Sec_WebSocket_Protocol="chat",
        Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=10;"
        " server_no_context_takeover; client_no_context_takeover",
    )
    assert check_response(answer, KEY, ["other", "chat"], Deflate()) == (
        "chat",
        Agreement(True, True, 10, 15),
    )


def test_the_server_may_decline_all_that_was_offered():
    assert check_response(response(), KEY, ["chat"], Deflate()) == (None, None)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Upgrade": None}, "lacks Upgrade: websocket"),
        ({"Upgrade": "h2c"}, "lacks Upgrade: websocket"),
        ({"Connection": None}, "lacks Connection: Upgrade"),
        ({"Connection": "upgraded"}, "lacks Connection: Upgrade"),
        ({"Sec_WebSocket_Accept": None}, "wrong Sec-WebSocket-Accept"),
        ({"Sec_WebSocket_Accept": ACCEPT.lower()}, "wrong Sec-WebSocket-Accept"),
        ({"Sec_WebSocket_Protocol": "other"}, "a subprotocol that was not offered"),
        ({"Sec_WebSocket_Protocol": "chat, other"}, "a subprotocol that was not offered"),
        ({"Sec_WebSocket_Extensions": "foo"}, "an extension that was not offered"),
        ({"Sec_WebSocket_Extensions": "permessage-deflate; x"}, "x is unknown"),
        ({"Sec_WebSocket_Extensions": "(malformed)"}, "not an extension"),
    ],
)
def test_a_wrong_answer_fails_the_connection(changes, why):
    with pytest.raises(HandshakeError, match=why) as caught:
        check_response(response(**changes), KEY, ["chat"], Deflate())
    assert caught.value.status_code == 101


def test_an_extension_that_was_not_offered_fails_the_connection():
    answer = response(Sec_WebSocket_Extensions="permessage-deflate")
    with pytest.raises(HandshakeError, match="an extension that was not offered"):
        check_response(answer, KEY, [], None)
