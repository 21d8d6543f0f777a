"""The short cut past gevent's parser: what it takes, and that it means the same."""

from random import Random

import pytest

from geventws.server import fast_path_py
from geventws.server.fast_path import parse_request
from geventws.server.request_body import EmptyInput
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


NAMES = ["Cookie", "COOKIE", "X-Twice", "x-twice", "X_Twice", "X-Empty", "Origin", "User-Agent"]
NAMES += ["Accept-Language", "Forwarded", "X-Cookie-Jar", "X-" + "Long-" * 20, "X!#$%&'*+.^`|~1"]
TARGET = "".join(map(chr, range(0x21, 0x7F))).replace("#", "") + "%%%%%%%%?"
HOSTILE = b"\r\n\0\t :%#?_-\x7f\x80aZ0"
VALUE = "".join(map(chr, [9, *range(0x20, 0x7F), *range(0x80, 0x100)]))


def random_head(random: Random) -> bytes:
    """The head of a request for a WebSocket."""

    def some(alphabet: str, most: int) -> str:
        return "".join(random.choices(alphabet, k=random.randrange(most)))

    fields = [
        ("Host", random.choice(["test.example", "[::1]:80"])),
        ("Upgrade", random.choice(["websocket", "WebSocket", "h2c, websocket"])),
        ("Connection", random.choice(["Upgrade", "keep-alive, Upgrade", "upgrade"])),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        # The Origins together must be shorter than the limit of 1,024 bytes.
        *(
            (name, some(VALUE, 100 if name == "Origin" else 600))
            for name in random.choices(NAMES, k=random.randrange(9))
        ),
    ]
    random.shuffle(fields)
    lines = [f"GET /{some(TARGET, 40)} HTTP/1.1", *(f"{name}:{value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_the_twins_parse_alike():
    random = Random(19)
    taken = 0
    for _ in range(3_000):
        head = bytearray(random_head(random))
        for _ in range(random.randrange(3)):
            at = random.randrange(len(head))
            head[at : at + random.randrange(3)] = random.choices(HOSTILE, k=random.randrange(3))
        data = bytes(head)
        expected = fast_path_py.parse_request(data)
        assert parse_request(data) == expected, data
        taken += expected is not None
    assert taken > 500


def described(environ: dict) -> dict:
    """What applications see of an environ, of its objects the type; both are compared."""
    body = environ["wsgi.input"]
    sock = getattr(getattr(body, "raw", None), "_sock", None)
    seen = {
        name: value if isinstance(value, (str, bool, tuple)) else type(value)
        for name, value in environ.items()
    }
    seen["wsgi.input"] = EmptyInput if isinstance(body, EmptyInput) else type(body)
    seen["REMOTE_PORT"] = environ["REMOTE_PORT"].isdecimal()
    reads = body.read(), body.read(1), body.readline(), body.readlines(), list(body)
    return {**seen, "socket": sock and sock.getpeername()[0], "reads": reads}


def test_the_environ_is_the_one_that_the_general_parser_makes(serve):
    environs = []

    def app(environ, start_response):
        environs.append(described(environ))
        start_response("204 No Content", [])
        return []

    server = serve(app, allowed_origins="*")
    random = Random(17)
    for _ in range(200):
        head = random_head(random)
        assert parse_request(head) is not None
        environs.clear()
        for before in (b"", b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n"):
            # Only the first request of a connection takes the short cut.
            with server.client() as client:
                if before:
                    client.send(before)
                    assert client.read_head() == "204"
                client.send(head)
                assert client.read_head() == "204"
        fast, _plain, general = environs
        assert fast == general, head
        assert {name: type(value) for name, value in fast.items()} == {
            name: type(value) for name, value in general.items()
        }
        assert fast["socket"] == "127.0.0.1"
