"""``python -m tests.support.gevents_own WAY MODULE``: run gevent's tests of its servers with ours.

Prints, as JSON, how many tests have run, and of each that did not pass its name and why.
"""

import importlib.util
import io
import json
import re
import sys
import unittest

from gevent import pywsgi

import geventws


class Wrapped(pywsgi.WSGIServer):
    """gevent's server, with our middleware around each application."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if getattr(self, "application", None) is not None:
            self.application = geventws.WebSocketMiddleware(self.application)


def install(way: str) -> None:
    """Put our classes in the place of gevent's, whose tests look them up in the module."""
    if way == "handler":
        pywsgi.WSGIServer.handler_class = geventws.WebSocketHandler
    if way in {"handler", "server"}:
        pywsgi.WSGIHandler = geventws.WebSocketHandler
    if way == "server":
        pywsgi.WSGIServer = geventws.WebSocketServer
    if way == "middleware":
        pywsgi.WSGIServer = Wrapped


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
    """Run a module of ``gevent.tests``; returns how many tests there were, and what failed."""
    tests = unittest.defaultTestLoader.loadTestsFromModule(load(module))
    result = unittest.TextTestRunner(io.StringIO(), verbosity=0).run(tests)
    failed = [*result.failures, *result.errors]
    names = {test.id().removeprefix(f"gevent.tests.{module}."): why for test, why in failed}
    return result.testsRun, names


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    install(sys.argv[1])
    json.dump(run(sys.argv[2]), out)
