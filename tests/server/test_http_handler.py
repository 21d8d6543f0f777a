"""Plain HTTP/1.1 as RFC 9112 wants it, compared with gunicorn's parser in its strict mode."""

import json
from random import Random

import pytest
from gevent.pywsgi import WSGIServer
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser

from geventws import WebSocketHandler, WebSocketMiddleware
from tests.support.client import RawClient
from tests.support.servers import SECONDS, wait_until

NEXT = b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def report(environ, start_response):
    """Tells what the request was."""
    told = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "body": environ["wsgi.input"].read().decode("latin-1"),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def ignore(environ, start_response):
    """Answers without a look at the body."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def ours(server, data: bytes) -> list[dict]:
    """The requests that our server has found in some bytes."""
    found = []
    with server.client() as client:
        client.send(data)
        client.sock.shutdown(1)
        client.buffer = client.read_to_end()
        while client.buffer:
            if client.buffer.startswith(b"HTTP/1.1 100 "):
                client.read_head()
            status, body = client.read_response()
            if status != "200":
                break
            found.append(json.loads(body))
    return found


def gunicorns(data: bytes) -> list[dict]:
    """The requests that gunicorn's parser finds in them, as it is by default."""
    found = []
    pieces = [data[i : i + 7] for i in range(0, len(data), 7)]
    try:
        for request in RequestParser(Config(), iter(pieces), ("127.0.0.1", 1)):
            body = request.body.read().decode("latin-1")
            found.append(
                {
                    "method": request.method,
                    "path": request.path,
                    "query": request.query,
                    "body": body,
                }
            )
    except (ParseException, NoMoreData):
        pass
    return found


def get(*lines: bytes, first: bytes = b"GET /first?q=1 HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([first, *([b"Host: h"] if host else []), *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"", first: bytes = b"POST /first HTTP/1.1") -> bytes:
    return get(*lines, first=first) + body


def chunks(body: bytes, *lines: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
GOOD = {
    "get": get(),
    "empty line first": b"\r\n" + get(),
    "keep-alive in 1.0": get(b"Connection: keep-alive", first=b"GET /first HTTP/1.0"),
    "no host in 1.0": get(b"Connection: keep-alive", first=b"GET /first HTTP/1.0", host=False),
    "length": post(b"Content-Length: 5", body=b"hello"),
    "length zero": post(b"Content-Length: 0"),
    "length with zeros": post(b"Content-Length: 0005", body=b"hello"),
    "blanks around": post(b"Content-Length: \t5 \t", body=b"hello"),
    "no blank": post(b"Content-Length:5", body=b"hello"),
    "a request in a body": post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "upgrade": post(b"Connection: upgrade", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "upgrade, more": post(b"Connection: upgrade, x", b"Content-Length: 5", body=b"hello"),
    "upgrade, h2c": post(
        b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"
    ),
    "upgrade, chunks": chunks(b"5\r\nhello\r\n0\r\n\r\n", b"Connection: upgrade"),
    "get with a body": get(b"Connection: upgrade", b"Content-Length: 5") + b"hello",
    "underscore": post(b"Content_Length: 99", b"Content-Length: 5", body=b"hello"),
    "underscore, chunked": post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"),
    "chunks": chunks(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
    "hex": chunks(b"A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n"),
    "Chunked": post(b"transfer-encoding: CHUNKED", body=b"1\r\nx\r\n0\r\n\r\n"),
    "extension": chunks(b'5;a\r\nhello\r\n5 ; a = "b\\"c";d=e\r\nhello\r\n0;last\r\n\r\n'),
    "trailers": chunks(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More:\r\n\r\n"),
    "no chunks": chunks(b"0\r\n\r\n"),
    "a request in a chunk": chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "expect": post(b"Expect: 100-Continue", b"Content-Length: 5", body=b"hello"),
    "absolute": get(first=b"GET http://h/first?q=1 HTTP/1.1"),
    "asterisk": get(first=b"OPTIONS * HTTP/1.1"),
    "options": get(first=b"OPTIONS /first HTTP/1.1"),
    "no-one's method": get(first=b"M-SEARCH /first HTTP/1.1"),
    "two slashes": get(first=b"GET //first//second HTTP/1.1"),
    "cookies": get(b"Cookie: a=b", b"Cookie: c=d"),
    "obs-text": get(b"X: \xe9"),
}
#: Refused by gunicorn.
REFUSED = {
    "two hosts": get(b"Host: other"),
    "the same host twice": get(b"Host: h"),
    "two content types": post(b"Content-Type: a/b", b"Content-Type: c/d"),
    "blank before the colon": post(b"Content-Length : %d" % len(SMUGGLED), body=SMUGGLED),
    "tab before the colon": post(b"Content-Length\t: %d" % len(SMUGGLED), body=SMUGGLED),
    "blank first": get(b" X: y", host=False),
    "no colon": get(b"X"),
    "no name": get(b": y"),
    "name": get(b"X@: y"),
    "name in latin-1": get(b"X\xe9: y"),
    "folded": get(b"X: y", b" z"),
    "folded with a tab": get(b"X: y", b"\tz"),
    "folded length": post(b"Content-Length:", b" 5", body=b"hello"),
    "nul": get(b"X: a\0b"),
    "nul in a name": get(b"X\0: b"),
    "control": get(b"X: a\x01b"),
    "delete": get(b"X: a\x7fb"),
    "vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "bare cr": get(b"X: a\rb"),
    "bare cr and a header": get(b"X: a\rContent-Length: 5"),
    "bare lf": get(b"X: a\nY: b"),
    "lf ends the request line": get().replace(b"1.1\r\n", b"1.1\n"),
    "lf ends a header": get().replace(b"Host: h\r\n", b"Host: h\n"),
    "lf ends the head": get()[:-2] + b"\n",
    "cr ends the request line": get().replace(b"1.1\r\n", b"1.1\r"),
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
    "the same length twice": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "a list of lengths": post(b"Content-Length: 5, 5", body=b"hello"),
    "length and chunks": chunks(b"0\r\n\r\n", b"Content-Length: 5"),
    "chunks and a length": post(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunks twice": chunks(b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "chunks in chunks": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello"),
    "chunked is not last": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "quoted coding": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "gzip": post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    "empty coding": post(b"Transfer-Encoding:", body=b"0\r\n\r\n"),
    "no-break space": post(b"Transfer-Encoding: chunked\xa0", body=b"0\r\n\r\n"),
    "next line": post(b"Transfer-Encoding: chunked\x85", body=b"0\r\n\r\n"),
    "chunks in 1.0": post(
        b"Transfer-Encoding: chunked", first=b"POST /first HTTP/1.0", body=b"0\r\n\r\n"
    ),
    "expectation": post(b"Expect: 200-ok"),
    **{
        f"length {value!r}": post(b"Content-Length: " + value, body=b"hello")
        for value in (b"+5", b"-5", b"5_0", b"0x5", b"5.0", b"5 5", b"", b"\xb2", b"five", b"5;")
    },
    **{
        f"chunk {value!r}": chunks(value + b"\r\nhello\r\n0\r\n\r\n")
        for value in (
            b"0x5",
            b"+5",
            b" 5",
            b"-5",
            b"5_0",
            b"",
            b"g",
            b"5 ",
            b"\t5",
            b"5\0",
            b"5;\0",
            b"5; a\0b",
            b"5;a=\x01",
            b'5;a="b',
            b"5;a\rb",
            b"5;a\nb",
            b"5;" + b"a" * 9000,
            b"0" * 9000 + b"5",
        )
    },
    "chunk with a bare lf": chunks(b"5\nhello\r\n0\r\n\r\n"),
    "chunk without its end": chunks(b"5\r\nhello0\r\n\r\n"),
    "chunk with another end": chunks(b"5\r\nhelloxx0\r\n\r\n"),
    "chunk that ends with lf": chunks(b"5\r\nhello\n0\r\n\r\n"),
    "last chunk without crlf": chunks(b"5\r\nhello\r\n0\r\n") + b"x",
    "trailer with a blank": chunks(b"0\r\nX : y\r\n\r\n"),
    "trailer without a colon": chunks(b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
    "trailer with lf": chunks(b"0\r\nX: y\nZ: z\r\n\r\n"),
    "trailer with nul": chunks(b"0\r\nX: y\0\r\n\r\n"),
    "trailer folded": chunks(b"0\r\nX: y\r\n z\r\n\r\n"),
    "trailer length": chunks(b"0\r\nContent-Length: 5\r\n\r\n"),
    "trailer host": chunks(b"0\r\nHost: other\r\n\r\n"),
    "trailers without end": chunks(b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n"),
    **{
        f"line {line!r}": get(first=line)
        for line in (
            b"GET  /first HTTP/1.1",
            b"GET /first  HTTP/1.1",
            b" GET /first HTTP/1.1",
            b"GET /first HTTP/1.1 ",
            b"GET\t/first HTTP/1.1",
            b"GET /fi rst HTTP/1.1",
            b"GET /first",
            b"GET",
            b"",
            b"get /first HTTP/1.1",
            b"G@T /first HTTP/1.1",
            b"GE /first HTTP/1.1",
            b"GET /first HTTP/2.0",
            b"GET /first http/1.1",
            b"GET /first HTTP/1",
            b"GET /first HTTP/11",
            b"GET /first HTTP/1.10",
            b"GET /first HTTP/0.9",
            b"GET /first HTTP/-1.1",
            b"GET /first HTTPS/1.1",
            b"GET /first HTTP/1.1x",
            b"GET /f\0 HTTP/1.1",
            b"GET /f\xe9 HTTP/1.1",
            b"GET /f\x0b HTTP/1.1",
            b"GET \x0b/first HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET first HTTP/1.1",
            b"GET h:80 HTTP/1.1",
            b"GET h HTTP/1.1",
            b"GET /first HTTP/1.\xb2",
            b"G" * 21 + b" /first HTTP/1.1",
        )
    },
    "two empty lines first": b"\r\n\r\n" + get(),
    "lf first": b"\n" + get(),
    "cut off in the head": get()[:-2],
    "cut off in a line": get()[:-6],
}
#: What gunicorn takes, with the reason why we do not.
REFUSED_BY_US = {
    "no host": (get(host=False), "RFC 9112 section 3.2: MUST respond with 400"),
    "bad host": (get(b"Host: a/b", host=False), "the same, for an invalid value"),
    "host and user": (get(b"Host: a@b", host=False), "the same"),
    "gzip, chunked": (
        post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        "RFC 9112 section 6.1: 501 for a coding that is not understood; gunicorn passes gzip on",
    ),
    "fragment": (get(first=b"GET /first#x HTTP/1.1"), "RFC 9112 section 3.2 has no fragments"),
    "scheme": (get(first=b"GET ftp://h/first HTTP/1.1"), "we serve http and https"),
    "relative": (get(first=b"GET first://x HTTP/1.1"), "the same"),
    "head": (
        post(b"Content-Length: 5", first=b"HEAD /first HTTP/1.1", body=b"hello"),
        "gevent refuses it: it cannot be meant well",
    ),
}


@pytest.fixture(scope="module")
def server():
    """The handler, which is all of ours that reads HTTP."""
    server = WSGIServer(("127.0.0.1", 0), report, handler_class=WebSocketHandler, log=None)
    server.client = lambda: RawClient(("127.0.0.1", server.server_port))
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_good_request_is_read_as_gunicorn_reads_it_and_so_is_the_next_one(server, data):
    found = ours(server, data + NEXT)
    assert found == gunicorns(data + NEXT)
    assert [request["path"] for request in found][-1] == "/next"
    assert len(found) == 2


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_gunicorn_refuses_is_refused_with_all_that_follows(server, data):
    assert gunicorns(data + NEXT) == []
    assert ours(server, data + NEXT) == []


@pytest.mark.parametrize("data", [data for data, _ in REFUSED_BY_US.values()], ids=REFUSED_BY_US)
def test_some_more_is_refused(server, data):
    assert len(gunicorns(data + NEXT)) > 0
    assert ours(server, data + NEXT) == []


SCRAPS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"5",
    b"a",
    b"+",
    b"-",
    b"_",
    b"\x0b",
    b"\x1c",
    b"\x7f",
    b"\x85",
    b"\xa0",
    b"#",
    b'"',
    b"chunked",
    b"Host: z\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\n",
]


def mutilated(random: Random) -> bytes:
    pool = [data for data in (*GOOD.values(), *REFUSED.values()) if len(data) < 500]
    data = bytearray(random.choice(pool))
    for _ in range(random.randrange(1, 4)):
        start = random.randrange(len(data) + 1)
        end = start + random.choice([0, 0, 1, 2])
        data[start:end] = random.choice([*SCRAPS, b"", bytes([random.randrange(256)])])
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_in_mutilated_requests_gunicorn_finds_too(server, seed):
    random = Random(seed)
    for _ in range(100):
        data = mutilated(random) + NEXT
        found = ours(server, data)
        wanted = gunicorns(data)
        for request in wanted:
            request["path"] = request["path"] or "/"  # RFC 9110 section 4.2.3: they are the same
        assert found == wanted[: len(found)], data


@pytest.mark.parametrize("app", [report, ignore])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_follows_a_bad_request_is_not_served_whatever_the_application_does(serve, app, data):
    paths = []

    def swallowing(environ, start_response):
        paths.append(environ["PATH_INFO"])
        try:
            return app(environ, start_response)
        except OSError:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []

    with serve(swallowing).client() as client:
        client.send(data + SMUGGLED + NEXT)
        client.sock.shutdown(1)
        client.read_to_end()
    assert set(paths) <= {"/first"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (REFUSED["two hosts"], "400"),
        (REFUSED["blank before the colon"], "400"),
        (REFUSED["gzip"], "400"),
        (REFUSED_BY_US["gzip, chunked"][0], "501"),
        (REFUSED["expectation"], "417"),
        (REFUSED["chunk b'+5'"], "400"),
    ],
)
def test_a_refusal_has_its_status_and_one_line_in_the_log(server, caplog, capfd, data, status):
    caplog.set_level("INFO", "geventws")
    with server.client() as client:
        client.send(data)
        assert client.read_head() == status
        assert client.headers["connection"] == "close"
        client.sock.shutdown(1)
        client.read_to_end()
    wait_until(lambda: caplog.records)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("Bad request from 127.0.0.1: ")
    assert capfd.readouterr().err == ""


def test_the_host_of_an_absolute_target_is_the_one_that_counts(serve):
    hosts = []

    def app(environ, start_response):
        hosts.append((environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]))
        return ignore(environ, start_response)

    with serve(app).client() as client:
        for target in (b"http://a.example:81/p?q", b"HTTPS://b.example", b"http://c.example?q"):
            client.send(get(first=b"GET " + target + b" HTTP/1.1"))
            assert client.read_response() == ("200", b"ok")
    assert hosts == [
        ("a.example:81", "/p", "q"),
        ("b.example", "/", ""),
        ("c.example", "/", "q"),
    ]


def test_nothing_follows_a_connect_or_a_connection_that_is_to_close(server):
    for data in (
        get(first=b"CONNECT h:443 HTTP/1.1"),
        get(b"Connection: x, close"),
        get(b"Connection: x", b"Connection: close"),
    ):
        assert len(ours(server, data + NEXT)) == 1


def test_a_continue_is_sent_once_and_not_to_http_1_0(server):
    for version, continued in ((b"1.1", True), (b"1.0", False)):
        with server.client() as client:
            client.send(
                post(
                    b"Expect: 100-continue", b"Content-Length: 5", first=b"POST /a HTTP/" + version
                )
            )
            if continued:
                assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
            client.send(b"hello")
            status, body = client.read_response()
            assert (status, json.loads(body)["body"]) == ("200", "hello")


def test_a_body_that_claims_to_be_huge_costs_what_has_come(serve):
    with serve(report).client() as client:
        client.send(post(b"Content-Length: %d" % (1 << 58), body=b"hello"))
        client.sock.shutdown(1)
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    "read",
    [
        lambda body: body.read(),
        lambda body: b"".join(iter(lambda: body.read(3), b"")),
        b"".join,
        lambda body: b"".join(body.readlines()),
        lambda body: b"".join(iter(lambda: body.readline(4), b"")),
        lambda body: body.read(-1),
        lambda body: body.read(None) + body.read() + body.readline(),
    ],
)
def test_a_body_can_be_read_in_every_way_of_pep_3333(serve, read):
    text = b"one\ntwo, and more\n\nthree" * 5000

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [read(environ["wsgi.input"])]

    pieces = [text[:5], text[5:6], text[6:4000], text[4000:]]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with serve(app).client() as client:
        for data in (post(b"Content-Length: %d" % len(text), body=text), chunks(encoded)):
            client.send(data)
            assert client.read_response() == ("200", text)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Connection: upgrade"],
        [b"Connection: Upgrade", b"Upgrade: h2c"],
        [b"Connection: keep-alive, Upgrade", b"Upgrade: h2c"],
    ],
)
def test_the_body_of_a_request_with_connection_upgrade_is_its_body(way_in, headers):
    """nginx sends that header always if it is told to with proxy_set_header."""
    for encoding in ([b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]):
        body = b"hello" if b"Length" in encoding[0] else b"5\r\nhello\r\n0\r\n\r\n"
        with way_in.client() as client:
            for _ in range(3):
                first = b"POST /upload HTTP/1.1"
                client.send(post(*headers, *encoding, body=body, first=first))
                assert client.read_response() == ("200", b"5")
            client.send(post(*headers, *encoding, body=body, first=b"POST /plain HTTP/1.1"))
            assert client.read_response() == ("200", b"plain")
            client.send(get(*headers, first=b"GET /plain HTTP/1.1"))
            assert client.read_response() == ("200", b"plain")


def test_it_is_with_the_middleware_around_another_middleware_too(serve):
    def outer(environ, start_response):
        return WebSocketMiddleware(report)(environ, start_response)

    server = WSGIServer(("127.0.0.1", 0), outer, log=None)
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)) as client:
            client.send(GOOD["upgrade"])
            status, body = client.read_response()
            assert (status, json.loads(body)["body"]) == ("200", SMUGGLED.decode())
    finally:
        server.stop(SECONDS)


def test_a_refusal_arrives_even_if_much_was_sent_behind_it(serve):
    server = serve(report)
    for data in (REFUSED["two hosts"], REFUSED["chunk b'+5'"]):
        for _ in range(20):
            with server.client() as client:
                client.send(data + bytes(300_000))
                assert client.read_head() == "400"


def test_nothing_follows_a_101_of_the_applications_own(serve):
    paths = []

    def app(environ, start_response):
        paths.append(environ["PATH_INFO"])
        start_response("101 Switching Protocols", [("Upgrade", "x"), ("Connection", "upgrade")])
        return iter([b"done"])

    with serve(app).client() as client:
        client.send(get(b"Connection: upgrade", b"Upgrade: x") + SMUGGLED)
        assert client.read_head() == "101"
        assert client.read_to_end() == b"done"
    assert paths == ["/first"]
