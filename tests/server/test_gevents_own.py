"""gevent's tests of its WSGI server, with our classes in gevent's place.

They come with gevent's wheel. What differs has its reason here.
"""

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.support.servers import ROOT

STRICT = {
    "test__pywsgi.ChunkedInputTests.test_close_before_finished": "a client that leaves in the middle of its body is no error of ours, and no traceback",
    "test__pywsgi.ChunkedInputTests.test_dirt": "RFC 9112 section 7.1.1: the extension of a chunk has a grammar; gunicorn wants it, too",
    "test__pywsgi.ChunkedInputTests.test_chunked_readline": "RFC 9112 section 6.1: Content-Length and Transfer-Encoding together are an attack",
    "test__pywsgi.ChunkedInputTests.test_short_read_with_content_length": "the same",
    "test__pywsgi.ChunkedInputTests.test_short_read_with_zero_content_length": "the same",
    "test__pywsgi.TestMultiLineHeader.test_multiline_116": "RFC 9112 section 5.2: a folded header is refused with 400, as by gunicorn",
}
WEBSOCKETS = {
    "test__pywsgi.TestConnectionUpgrades.test_connection_upgrade": "Connection: upgrade alone does not ask for a WebSocket; its body is read as HTTP says",
    "test__pywsgi.TestConnectionUpgrades.test_upgrade_websocket": "the same, of Upgrade alone",
}
SERVER = {
    "test__server_pywsgi.TestSSLGetCertificate.test_wrap_socket_and_handle_wrap_failure": "None, which the test gives for a socket, cannot be asked whether the client is there",
}
DIFFERS = {
    "server": STRICT | WEBSOCKETS | SERVER,
    "compat": STRICT | WEBSOCKETS | SERVER,
    "handler": STRICT | WEBSOCKETS,
    "middleware": WEBSOCKETS,
}


@cache
def outcome(way: str) -> tuple[list[int], dict[str, str]]:
    """How many tests of each module have run, and which did not pass; takes four seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.gevents_own", way],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    counts, failures = zip(*json.loads(done.stdout), strict=True)
    return counts, {name: why for failed in failures for name, why in failed.items()}


@pytest.mark.parametrize("way", DIFFERS)
def test_it_passes_all_that_gevents_passes_but_for_what_is_listed(way):
    counts, failed = outcome(way)
    counts_of_gevent, failed_of_gevent = outcome("gevent")
    assert counts == counts_of_gevent
    expected = failed_of_gevent.keys() | DIFFERS[way].keys()
    assert failed.keys() == expected, "\n".join(failed.values())
