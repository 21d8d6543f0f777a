"""Fixtures that the library's tests and the examples' tests share."""
pytest_plugins = [
    "tests.support.browser", "tests.support.certificates", "tests.support.npm",
    "tests.support.old_packages", "tests.support.redis", "tests.support.servers",
]
