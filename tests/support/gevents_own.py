"""``python -m tests.support.gevents_own WAY``: run gevent's tests of its WSGI server with ours.

Prints, as JSON, how many tests of each module have run, and of each that did not pass its name and
why.
"""

import importlib.util
import io
import json
import re
import sys
import unittest

from gevent import pywsgi

import geventws
from geventws.compat.handler import WebSocketHandler as OldHandler
from geventws.compat.server import WebSocketServer as OldServer

#: The first one has the tests of ``test__server``, too. The second one calls ``patch_all()``.
MODULES = ["test__server_pywsgi", "test__pywsgi"]


class Wrapped(pywsgi.WSGIServer):
    """gevent's server, with our middleware around each application."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if getattr(self, "application", None) is not None:
            self.application = geventws.WebSocketMiddleware(self.application)


SERVERS = {
    "gevent": pywsgi.WSGIServer,
    "handler": pywsgi.WSGIServer,
    "middleware": Wrapped,
    "server": geventws.WebSocketServer,
    "compat": OldServer,
}
HANDLERS = {
    "handler": geventws.WebSocketHandler,
    "server": geventws.WebSocketHandler,
    "compat": OldHandler,
}


def install(way: str) -> None:
    """Put our classes in the place of gevent's, whose tests look them up in the module."""
    handler = HANDLERS.get(way)
    if handler is not None:
        handler.stop_timeout = pywsgi.WSGIServer.stop_timeout  # the tests wait for it
        pywsgi.WSGIServer.handler_class = pywsgi.WSGIHandler = handler
    pywsgi.WSGIServer = SERVERS[way]


def load(module: str):
    """A module of ``gevent.tests``, with a Host in each request that has none.

    RFC 9112 section 3.2 wants it to be refused with 400, which is not what these tests are about.
    """
    spec = importlib.util.find_spec(f"gevent.tests.{module}")
    source = re.sub(
        r"(HTTP/1\.1\\r\\n)(?=\\r\\n|transfer-encoding|Content-Length: %s)",
        r"\1Host: localhost\\r\\n",
        spec.loader.get_source(spec.name),
    )
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    exec(compile(source, spec.origin, "exec"), loaded.__dict__)
    return loaded


def run(module: str) -> tuple[int, dict[str, str]]:
    """Run a module of ``gevent.tests``; returns how many tests have run, and what failed.

    A test fails if it does so twice: some have deadlines that a busy machine misses.
    """
    first = result_of(unittest.defaultTestLoader.loadTestsFromModule(load(module)))
    failed = [*first.failures, *first.errors]
    again = result_of(unittest.TestSuite(type(test)(test._testMethodName) for test, _ in failed))
    failed = [*again.failures, *again.errors]
    names = {test.id().removeprefix("gevent.tests."): why for test, why in failed}
    return first.testsRun - len(first.skipped), names


def result_of(tests: unittest.TestSuite) -> unittest.TestResult:
    return unittest.TextTestRunner(io.StringIO(), verbosity=0).run(tests)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    install(sys.argv[1])
    json.dump([run(module) for module in MODULES], out)
