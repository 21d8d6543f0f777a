"""The short cut past gunicorn's parser: what it takes, and that gunicorn does the same with it."""

import json
import re
from collections import Counter
from random import Random

import pytest

from tests.server.test_fast_path import random_head
from tests.support.client import TEXT, RawClient, close_frame, request
from tests.support.servers import serving

APPLICATION = "tests.support.gunicorn_app"
PAGES = "/hint", "/fail", "/fail_late"
PLAIN = b"GET /plain HTTP/1.1\r\nHost: test.example\r\n\r\n"
SCHEMES = ["https", "http", "ssl", "on", "https,https", "HTTPS", ""]
SCHEME_HEADERS = ["X-Forwarded-Proto", "X-FORWARDED-PROTOCOL", "x-forwarded-ssl"]
ODD_HEADERS = [("SCRIPT_NAME", "/plain"), ("PATH_INFO", "/x"), ("X_Y", "1"), ("Cookie", "b=c")]


@pytest.fixture
def gunicorn(tmp_path):
    """``with gunicorn(*arguments) as process``, on port 0 and on a unix socket."""

    def start(*arguments):
        command = ["-m", "gunicorn", "-k", f"{APPLICATION}.Worker", "-b", "127.0.0.1:0"]
        command += ["-b", f"unix:{tmp_path}/socket", *arguments, f"{APPLICATION}:application"]
        return serving(command, tmp_path / "log")

    return start


def answers(address, head):
    """What is answered to a request that is the first of its connection, and to one that is not."""
    for before in (b"", PLAIN):
        with RawClient(address) as client:
            if before:
                client.send(before)
                assert client.read_response()[0] == "200"
            client.send(head)
            code, body = client.read_response()
            yield code, json.loads(body) if code == "200" else body


def with_odd_headers(random, head):
    """A head with headers of proxies, and with headers that gunicorn treats in its own way."""
    headers = random.choices(ODD_HEADERS, k=random.random() < 0.3)
    if random.random() < 0.5:
        names = random.choices(SCHEME_HEADERS, k=random.choice([1, 1, 1, 2]))
        headers += [(name, random.choice(SCHEMES)) for name in names]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head[:-2] + lines.encode() + b"\r\n"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["--forwarded-allow-ips", "10.0.0.1", "--header-map", "dangerous"],
        ["--limit-request-line", "30", "--limit-request-fields", "9"],
        ["--limit-request-field_size", "300", "--header-map", "refuse"],
    ],
    ids=["usual", "untrusted", "short", "small"],
)
def test_the_environ_is_the_one_that_gunicorn_makes(gunicorn, tmp_path, settings):
    random = Random(23)
    taken = 0
    with gunicorn(*settings) as process:
        for number in range(120):
            head = with_odd_headers(random, random_head(random))
            address = process.address if number % 2 else f"{tmp_path}/socket"
            (code, direct), (general_code, general) = answers(address, head)
            assert code == general_code, head
            if code != "200":
                continue
            assert general["parsed"]
            taken += not direct["parsed"]
            assert direct["environ"] == general["environ"], head
        assert taken > 10
        assert "Traceback" not in process.output


@pytest.mark.parametrize("log", [[], ["--access-logfile", "-"]], ids=["silent", "logged"])
def test_a_response_of_http_is_the_one_that_gunicorn_sends(gunicorn, log):
    with gunicorn(*log) as process:
        for path in PAGES:
            received = []
            for before in (b"", PLAIN):
                with process.client() as client:
                    if before:
                        client.send(before)
                        assert client.read_response()[0] == "200"
                    client.send(request(path))
                    lines = client.read_to_end().split(b"\r\n")
                    received.append([line for line in lines if not line.startswith(b"Date:")])
            assert received[0] == received[1]
            assert received[0][0].startswith(b"HTTP/1.1 ")
        process.wait_for(r"(?s)(request GET /fail\n.*){2}(Error handling request\n.*){2}")
        lines = re.findall(r'"GET (/\w+) HTTP/1.1" \d+ \d+', process.output)
        assert Counter(lines) == (dict.fromkeys(PAGES, 2) | {"/plain": 3} if log else {})


@pytest.mark.parametrize("logger", ["gunicorn.glogging.Logger", f"{APPLICATION}.Logger"])
def test_the_access_log_is_the_one_that_gunicorn_writes(gunicorn, logger):
    form = "<%(s)s %(r)s %(b)s %(l)s %(h)s %({user-agent}i)s %({x-said}o)s %({path_info}e)s>"
    arguments = ["--access-logfile", "-", "--access-logformat", form, "--logger-class", logger]
    with gunicorn(*arguments) as process:
        for before in (b"", PLAIN):
            with process.client() as client:
                if before:
                    client.send(before)
                    assert client.read_response()[0] == "200"
                client.open("/say", headers=[("User-Agent", "a test")])
                assert client.read_frame() == (TEXT, b"hello")
                assert client.read_close() == (1000, "")
                client.send(close_frame(1000))
                assert client.read_to_end() == b""
        line = "<101 GET /say HTTP/1.1 0 - 127.0.0.1 a test yes /say>"
        process.wait_for(f"(?s)({line}.*){{2}}")


def test_hooks_before_and_after_a_request_are_called(gunicorn, tmp_path):
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(f"from {APPLICATION} import post_request, pre_request\n")
    with gunicorn("-c", str(settings)) as process:
        with process.client() as client:
            client.open("/say")
            assert client.read_frame() == (TEXT, b"hello")
            assert client.read_close() == (1000, "")
            client.send(close_frame(1000))
        process.wait_for("(?s)before /say.*after /say: 101 Switching Protocols")
