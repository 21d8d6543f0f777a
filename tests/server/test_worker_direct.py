"""The short cut past gunicorn's parser: what it takes, and that gunicorn does the same with it."""

import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from random import Random

import pytest

from tests.server.test_fast_path import random_head
from tests.support.client import TEXT, RawClient, close_frame, frame, request
from tests.support.servers import serving, wait_until

APPLICATION = "tests.support.gunicorn_app"
PAGES = "/hint", "/fail", "/fail_late"
PLAIN = b"GET /plain HTTP/1.1\r\nHost: test.example\r\n\r\n"
SCHEMES = ["https", "http", "ssl", "on", "https,https", "HTTPS", ""]
SCHEME_HEADERS = ["X-Forwarded-Proto", "X-FORWARDED-PROTOCOL", "x-forwarded-ssl"]
ODD_HEADERS = [("SCRIPT_NAME", "/plain"), ("PATH_INFO", "/x"), ("X_Y", "1"), ("Cookie", "b=c")]


@pytest.fixture
def gunicorn(tmp_path):
    """``with gunicorn(*arguments) as process``, on port 0 and on two unix sockets."""

    def start(*arguments):
        command = ["-m", "gunicorn", "-k", f"{APPLICATION}.Worker", "-b", "127.0.0.1:0"]
        command += ["-b", f"unix:{tmp_path}/socket", "-b", f"unix:{tmp_path}/so:cket"]
        command += [*arguments, f"{APPLICATION}:application"]
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
            addresses = process.address, f"{tmp_path}/socket", f"{tmp_path}/so:cket"
            address = addresses[number % 3]
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
                    client.send(request(path) + frame(TEXT, "too early"))
                    lines = client.read_to_end().split(b"\r\n")
                    received.append([line for line in lines if not line.startswith(b"Date:")])
            assert received[0] == received[1]
            assert received[0][0].startswith(b"HTTP/1.1 ")
        process.wait_for(r"(?s)(request GET /fail\n.*){2}(Error handling request\n.*){2}")
        lines = re.findall(r'"GET (/\w+) HTTP/1.1" \d+ \d+', process.output)
        assert Counter(lines) == (dict.fromkeys(PAGES, 2) | {"/plain": 3} if log else {})


@pytest.mark.parametrize(
    "logger",
    ["gunicorn.glogging.Logger", f"{APPLICATION}.Logger", f"{APPLICATION}.AtomsLogger"],
    ids=["usual", "access", "atoms"],
)
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


def test_a_scheme_header_with_an_underscore_is_no_other_header(gunicorn, tmp_path):
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(
        "secure_scheme_headers = {'X_FORWARDED_PROTO': 'https'}\nheader_map = 'dangerous'\n"
    )
    with gunicorn("-c", str(settings)) as process:
        head = request(headers=[("X-Forwarded-Proto", "https")])
        (_, direct), (_, general) = answers(process.address, head)
        assert (direct["parsed"], general["parsed"]) == (False, True)
        assert direct["environ"] == general["environ"]


def test_limits_too_small_for_any_request_are_left_to_gunicorn(gunicorn):
    with gunicorn("--limit-request-line", "10") as process, process.client() as client:
        client.send(request())
        assert client.read_response()[0] == "414"


def test_a_worker_may_have_another_server(gunicorn):
    arguments = ["-k", f"{APPLICATION}.StreamServerWorker"]
    with gunicorn(*arguments) as process, process.client() as client:
        client.open("/say")
        assert client.read_frame() == (TEXT, b"hello")


@pytest.mark.parametrize("log", [[], ["--access-logfile", "-"]], ids=["silent", "logged"])
def test_a_timeout_that_leaves_the_view_after_the_101_is_logged(gunicorn, log):
    with gunicorn(*log) as process:
        with process.client() as client:
            client.open("/time_out")
            assert client.read_close() == (1001, "")
        process.wait_for("(?s)Error handling request GET /time_out.*Timeout: 1 second")
        if log:
            process.wait_for('"GET /time_out HTTP/1.1" 101 0')
        assert "During handling" not in process.output


def test_errors_are_written_to_the_file_that_gunicorn_has_reopened(gunicorn, tmp_path):
    with gunicorn("--error-logfile", str(tmp_path / "log")) as process:
        worker = int(process.wait_for(r"Booting worker with pid: (\d+)")[1])
        with process.client() as client:
            client.send(request("/complain"))
            assert client.read_response()[0] == "200"
            process.log.rename(tmp_path / "old")
            os.kill(worker, signal.SIGUSR1)
            wait_until(process.log.exists)
        with process.client() as client:
            client.send(request("/complain"))
            assert client.read_response()[0] == "200"
        process.wait_for("a complaint")


def test_requests_leave_nothing_to_the_garbage_collector(gunicorn):
    with gunicorn() as process:
        for path in ("/say", "/fail", "/garbage", "/say", "/fail", "/garbage"):
            with process.client() as client:
                client.send(request(path) + close_frame(1000))
                received = client.read_to_end()
        assert received.endswith(b"\r\n\r\n0")


@pytest.mark.parametrize("size", [0, 1, len(request()) - 1])
def test_a_request_that_arrives_late_or_in_pieces_opens_a_websocket(gunicorn, size):
    with gunicorn() as process, process.client() as client:
        for data in (request("/repeat")[:size], request("/repeat")[size:] + frame(TEXT, "behind")):
            client.send(data)
            with process.client() as other:  # when it is served, the bytes before have been seen
                other.send(PLAIN)
                assert other.read_response()[0] == "200"
        assert client.read_head() == "101"
        assert client.read_frame() == (TEXT, b"behind")
        client.finish()


def test_frames_in_the_segment_of_the_request_are_received(gunicorn):
    many = [frame(TEXT, f"{number}") for number in range(3_000)]  # more than one read takes
    with gunicorn() as process, process.client() as client:
        client.send(request("/repeat") + b"".join(many))
        assert client.read_head() == "101"
        for number in range(len(many)):
            assert client.read_frame() == (TEXT, str(number).encode())
        client.finish()


def test_worker_connections_bounds_the_views_that_run(gunicorn):
    with gunicorn("--worker-connections", "3") as process:
        clients = [process.client() for _ in range(30)]
        for client in clients:
            client.send(request("/crowd"))
        found = [client.read_response() for client in clients]
        assert {code for code, _ in found} == {"200"}
        assert max(int(body) for _, body in found) == 3
        for client in clients:
            client.sock.close()


def test_a_client_that_must_wait_for_worker_connections_is_logged(gunicorn):
    with gunicorn("--worker-connections", "1") as process, process.client() as client:
        client.open("/repeat")
        with process.client() as other:
            other.send(request("/repeat"))
            process.wait_for(r"has 1 connections, the maximum \(--worker-connections\)")
            client.finish()
            assert other.read_head() == "101"
            other.finish()


def test_silent_clients_hold_places_of_worker_connections_only_for_keep_alive(gunicorn):
    arguments = "--worker-connections", "2", "--keep-alive", "1"
    with gunicorn(*arguments) as process, process.client() as one, process.client() as two:
        process.client().sock.close()  # this one leaves
        process.wait_for("has 2 connections")
        with process.client() as third:
            third.open("/repeat")
            assert one.read_to_end() == two.read_to_end() == b""
            third.finish()


def test_many_requests_that_come_after_their_connections_are_served(gunicorn):
    with gunicorn() as process, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(process.client()) for _ in range(50)]
        stack.enter_context(process.client()).open("/say")  # the others are accepted before
        for client in clients[::2]:
            client.send(request("/say"))
        for client in clients[1::2]:
            client.send(PLAIN)
        for client in clients[::2]:
            assert client.read_head() == "101"
        for client in clients[1::2]:
            assert client.read_response()[0] == "200"


def test_a_request_that_comes_while_the_worker_stops_is_answered(gunicorn):
    with gunicorn("--keep-alive", "20") as process, process.client() as client:
        with process.client() as other:
            other.send(PLAIN)
            assert other.read_response()[0] == "200"
        process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(process.address), "the end of the listening socket")
        client.send(PLAIN)
        assert client.read_response()[0] == "200"


def test_a_stop_gives_a_silent_client_no_more_time(gunicorn):
    with gunicorn("--keep-alive", "4") as process, process.client() as silent:
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() > begin + 2, "half of the time")
        process.process.send_signal(signal.SIGTERM)
        assert silent.read_to_end() == b""
        assert time.monotonic() - begin < 5.8  # 6 and more, if it began again


def is_refused(address):
    try:
        RawClient(address).sock.close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_worker_with_its_own_handle_gets_every_connection(gunicorn):
    with gunicorn("-k", f"{APPLICATION}.HandlingWorker") as process:
        for _ in range(3):
            with process.client() as client:
                client.open("/repeat")
                client.finish()
        process.wait_for("(?s)(a connection from 127.0.0.1.*){3}")


def test_the_default_timeout_of_new_sockets_is_not_for_those_of_views(gunicorn):
    with gunicorn() as process:
        for _ in range(2):
            with process.client() as client:
                client.send(request("/patience"))
                assert client.read_response() == ("200", b"None")


def test_a_greenlet_cannot_wait_for_the_socket_of_an_open_websocket(gunicorn):
    with gunicorn() as process, process.client() as client:
        client.open("/read_too")
        assert client.read_frame() == (TEXT, b"ConcurrentObjectUseError")
        assert client.read_close() == (1000, "")


def test_the_greenlet_of_a_view_does_not_show_the_request(gunicorn):
    with gunicorn() as process, process.client() as client:
        client.send(request("/who?s3cret"))
        code, body = client.read_response()
        assert code == "200"
        assert b"greenlet" in body.lower()
        assert b"s3cret" not in body
