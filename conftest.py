"""Fixtures that the library's tests and the examples' tests share."""

import signal

import pytest

# A background shell makes pytest ignore Ctrl-C. Processes that the tests start must not ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.support.browser",
    "tests.support.certificates",
    "tests.support.npm",
    "tests.support.old_packages",
    "tests.support.redis",
    "tests.support.room",
    "tests.support.postgresql",  # after the module that it imports
    "tests.support.servers",
    "tests.support.people",  # it imports the one before, whose assertions pytest rewrites
]
pytest.register_assert_rewrite("geventws.testing.broadcast")
