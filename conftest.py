"""Fixtures that the library's tests and the examples' tests share."""

import signal

# A shell that runs us in the background has us ignore Ctrl-C; what the tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.support.browser",
    "tests.support.certificates",
    "tests.support.npm",
    "tests.support.old_packages",
    "tests.support.redis",
    "tests.support.servers",
]
