"""gevent's tests of its servers, with our server, handler and middleware in gevent's place.

They come with gevent's wheel. What differs has its reason here.
"""

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.support.servers import ROOT

MODULES = ["test__pywsgi", "test__server_pywsgi", "test__server"]

STRICT = {
    "ChunkedInputTests.test_close_before_finished": "a client that leaves in the middle of its body is no error of ours, and no traceback",
    "ChunkedInputTests.test_dirt": "RFC 9112 section 7.1.1: the extension of a chunk has a grammar; gunicorn wants it, too",
    "ChunkedInputTests.test_chunked_readline": "RFC 9112 section 6.1: Content-Length and Transfer-Encoding together are an attack",
    "ChunkedInputTests.test_short_read_with_content_length": "the same",
    "ChunkedInputTests.test_short_read_with_zero_content_length": "the same",
    "TestMultiLineHeader.test_multiline_116": "RFC 9112 section 5.2: a folded header is refused with 400, as by gunicorn",
}
WEBSOCKETS = {
    "TestConnectionUpgrades.test_connection_upgrade": "Connection: upgrade alone does not ask for a WebSocket; its body is read as HTTP says",
    "TestConnectionUpgrades.test_upgrade_websocket": "the same, of Upgrade alone",
}
SERVER = {
    "TestSSLGetCertificate.test_wrap_socket_and_handle_wrap_failure": "None, which the test gives for a socket, cannot be asked whether the client is there",
}
DIFFERS = {
    ("server", "test__pywsgi"): STRICT | WEBSOCKETS,
    ("handler", "test__pywsgi"): STRICT | WEBSOCKETS,
    ("middleware", "test__pywsgi"): WEBSOCKETS,
    ("server", "test__server_pywsgi"): SERVER,
}


@cache
def outcome(way: str, module: str) -> tuple[int, dict[str, str]]:
    """How many tests there are, and which do not pass; each run takes two to eleven seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.gevents_own", way, module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    count, failed = json.loads(done.stdout)
    return count, failed


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("way", ["server", "handler", "middleware"])
def test_it_passes_all_that_gevents_passes_but_for_what_is_listed(way, module):
    count, failed = outcome(way, module)
    count_of_gevent, failed_of_gevent = outcome("gevent", module)
    assert count == count_of_gevent
    expected = failed_of_gevent.keys() | DIFFERS.get((way, module), {}).keys()
    assert failed.keys() == expected, "\n".join(failed.values())
