"""A load test with Locust, in a process of its own, as Locust patches everything."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from functools import partial

import gevent
import pytest

from tests.support.servers import ROOT
from tests.support.tools import missing


@pytest.fixture(autouse=True)
def locust():
    if importlib.util.find_spec("locust") is None:
        missing("Locust is not installed: pip install locust")


def site(environ, start_response):
    ws = environ.get("wsgi.websocket")
    path = environ["PATH_INFO"]
    if ws is None:
        start_response("200 OK", [("Set-Cookie", "name=Ada"), ("Content-Length", "0")])
    elif path == "/refuse" or (path == "/" and environ.get("HTTP_COOKIE") != "name=Ada"):
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
    elif path == "/push":
        ws.send("one")
        ws.send("two")
    elif path == "/overload":
        ws.close(1013, "try again later")
    else:
        for message in ws:
            if message != "say nothing":
                ws.send(message)
    return []


def run_locust(file, server, *arguments) -> str:
    """Run the load test of a file; return its output."""
    host = f"http://127.0.0.1:{server.server_port}"
    run = partial(
        subprocess.run,
        [sys.executable, "-m", "locust", "-f", file, "--headless", "--host", host, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return gevent.get_hub().threadpool.apply(run).stdout  # the server runs in this thread


def test_the_statistics_have_round_trips_sizes_and_failures(serve):
    output = run_locust("tests/support/locustfile.py", serve(site), "--users", "1")
    assert "Traceback" not in output, output
    lines, errors = json.loads(re.search("report: (.*)", output)[1])
    # requests, failures, requests without a time, bytes
    assert lines == {
        "kept connect": [1, 0, 0, 0],
        "kept request": [1, 0, 0, 5],
        "/echo connect": [1, 0, 0, 0],
        "/echo request": [4, 1, 0, 5 + 7 + 4],
        "/echo send": [1, 0, 1, 5],
        "/echo receive": [1, 0, 1, 5],
        "/push connect": [1, 0, 0, 0],
        "/push receive": [2, 0, 2, 6],
        "/overload connect": [1, 0, 0, 0],
        "/overload receive": [1, 1, 1, 0],
        "/overload send": [1, 1, 1, 0],
        "/refuse connect": [1, 1, 0, 0],
        "/nobody connect": [1, 1, 0, 0],
    }
    closed = "ConnectionClosed(1013, 'try again later', by_peer=True)"
    assert errors.pop("/nobody connect").startswith("ConnectionRefusedError")
    assert errors == {
        "/echo request": "TimeoutError('no answer within 0.01 seconds')",
        "/overload receive": closed,
        "/overload send": closed,
        "/refuse connect": "HandshakeError('503 Service Unavailable')",
    }


def test_the_example_runs_without_failures(serve):
    app = runpy.run_path(ROOT / "examples" / "locust_load" / "server.py")["app"]
    output = run_locust(
        "examples/locust_load/locustfile.py,tests/support/locust_example.py",
        serve(app),
        *("--users", "6", "--spawn-rate", "6"),
    )
    assert set(re.findall(r"(?m)^WS +(\S.*\S) +[1-9]\d* +0\(0", output)) == {
        *("/echo connect", "/echo request", "/room connect", "/room request", "/room receive"),
        *("/room of listeners connect", "/room of listeners receive"),
    }
