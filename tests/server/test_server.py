"""What is special to :class:`geventws.WebSocketServer`."""

import subprocess
import sys

import gevent
import pytest

from geventws import WebSocketServer
from tests.support.apps import site
from tests.support.servers import SECONDS


@pytest.mark.parametrize("warns", [True, False])
def test_serve_forever_warns_once_in_a_program_that_is_not_patched(caplog, warns):
    class Server(WebSocketServer):
        warns_if_unpatched = warns

    server = Server(("127.0.0.1", 0), site, log=None)
    server.start()
    assert caplog.text == ""
    serving = gevent.spawn(server.serve_forever)
    gevent.idle()
    server.stop()
    serving.get(timeout=SECONDS)
    assert caplog.text.count("monkey.patch_all()") == warns


def test_serve_forever_is_silent_in_a_patched_program():
    program = (
        "from gevent import monkey; monkey.patch_all(); import gevent, geventws;"
        "server = geventws.WebSocketServer(('127.0.0.1', 0), None);"
        "server.start(); gevent.spawn(server.stop); server.serve_forever()"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
