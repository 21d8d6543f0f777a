"""The short cut past gevent's parser: what it takes, and that it means the same."""

import json

import pytest

from geventws.server.fast_path import parse_request
from tests.support.client import KEY, request


def test_a_plain_request_is_taken_and_what_follows_is_not():
    head = request("/chat%20room?name=%41", [("Cookie", "a=b")])
    taken = parse_request(head + b"\x81\x80")
    assert taken.line == "GET /chat%20room?name=%41 HTTP/1.1"
    assert taken.target == "/chat%20room?name=%41"
    assert taken.size == len(head)
    assert taken.variables == {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/chat room",
        "QUERY_STRING": "name=%41",
        "HTTP_HOST": "test.example",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_COOKIE": "a=b",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
    }


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(request()[:-1], id="not whole"),
        pytest.param(request(without="Upgrade"), id="not for a WebSocket"),
        pytest.param(request(headers=[("Upgrade", "h2c")]), id="for something else"),
        pytest.param(request(without="Connection"), id="not for an upgrade"),
        pytest.param(request(method="POST"), id="not GET"),
        pytest.param(request(http="HTTP/1.0"), id="not HTTP/1.1"),
        pytest.param(request("http://test.example/echo"), id="for a proxy"),
        pytest.param(request("/a b"), id="a blank in the target"),
        pytest.param(request(headers=[("Content-Length", "5")]), id="with a body"),
        pytest.param(request(headers=[("Transfer-Encoding", "chunked")]), id="with chunks"),
        pytest.param(request(headers=[("Expect", "100-continue")]), id="that waits"),
        pytest.param(request(headers=[("Cookie", "a=b\r\n c=d")]), id="folded"),
        pytest.param(request(headers=[("Cookie ", "a=b")]), id="a blank before the colon"),
        pytest.param(request(headers=[("Cookie", "a\0b")]), id="a control character"),
        pytest.param(request(headers=[("Cookie", "a\nb")]), id="a bare line feed"),
        pytest.param(request(headers=[(f"X-{i}", "") for i in range(96)]), id="many headers"),
    ],
)
def test_what_leaves_a_doubt_is_left_to_the_general_parser(head):
    assert parse_request(head) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Cookie", "a=b"), ("cookie", "c=d"), ("COOKIE", "é")],
        [("X-Twice", "1"), ("x-twice", "2"), ("X-Empty", "")],
        [("X_Real_IP", "10.0.0.1"), ("X-Real-IP", " 10.0.0.2\t")],
        [("Origin", "http://test.example"), ("User-Agent", "x" * 600)],
    ],
    ids=["none", "cookies", "twice", "an underscore", "alike and long"],
)
def test_the_environ_is_the_one_that_gevents_parser_makes(serve, headers):
    def app(environ, start_response):
        ws = environ.get("wsgi.websocket")
        if ws is None:
            start_response("204 No Content", [])
            return []
        ws.send(json.dumps({name: str(value) for name, value in environ.items()}))
        return []

    server = serve(app)
    variables = []
    for requests_before in (0, 1):
        client = server.client()
        for _ in range(requests_before):  # only the first one of a connection takes the short cut
            client.send(b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n")
            assert client.read_head() == "204"
        client.open("/a%2Fb%C3%A9?q=%20", headers)
        variables.append(json.loads(client.read_frame()[1]))
        client.sock.close()
    for one in variables:
        for name in ("REMOTE_PORT", "wsgi.websocket", "wsgi.input", "wsgi.input_terminated"):
            del one[name]
    assert variables[0] == variables[1]
