"""The log of opened and closed WebSockets, which all ways in share."""

import logging
import re

import pytest

from tests.support.apps import echo
from tests.support.client import TEXT, close_frame, frame
from tests.support.servers import wait_until

LOGGER = "geventws.connections"


def echo_detached(environ, start_response):
    environ["wsgi.websocket"].detach(lambda ws, message: ws.send(message))
    return []


@pytest.mark.parametrize("app", [echo, echo_detached])
def test_opening_and_end_have_a_line_each_with_fields(serve, caplog, app):
    caplog.set_level(logging.INFO, LOGGER)
    server = serve(app)
    with server.client().open("/a%0Ab?token=secret") as client:
        for text in ("one", "two"):
            client.send(frame(TEXT, text))
            client.read_frame()
        client.send(frame(TEXT, "three") + close_frame(1001))
        client.read_frame()
        client.read_close()
    wait_until(lambda: len(caplog.records) == 2, "the line of the end")
    opened, closed = caplog.records
    assert re.fullmatch(r"127\.0\.0\.1 /a\\nb opened \[\w{16}\]", opened.getMessage())
    line = r"127\.0\.0\.1 /a\\nb closed 1001 after [\d.]+ s, 3 in, 3 out \[\w{16}\]"
    assert re.fullmatch(line, closed.getMessage())
    assert (closed.event, closed.client, closed.code) == ("closed", "127.0.0.1", 1001)
    assert (closed.received, closed.sent) == (3, 3)
    assert closed.connection_id == opened.connection_id


def test_nothing_is_done_until_the_log_is_enabled(serve, caplog):
    ids = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ids.append(ws._id)
        return []

    caplog.set_level(logging.INFO, "geventws")
    with serve(app).client().open() as client:
        client.finish()
    assert ids == [""]
    assert not caplog.records
