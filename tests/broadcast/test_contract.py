"""The built-in backends pass the tests of ``geventws.testing.broadcast``.

Subscriptions through a network need a patched process: the classes of those backends are collected
only there. ``test_a_backend_with_a_network_passes_in_a_patched_process`` starts it; by hand::

    python -m gevent.monkey --module pytest tests/broadcast/test_contract.py::TestRedis
"""

import contextlib
import os
import re
import subprocess
import sys

import pytest
from gevent.monkey import is_module_patched

from geventws.broadcast.postgresql_messages import group_of
from geventws.testing.broadcast import BackendTests
from tests.support.redis import Gateway
from tests.support.servers import ROOT

IS_PATCHED = is_module_patched("socket")
#: Options of pytest for a process whose output is the message of a failure.
OPTIONS = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:randomly"]


def outage_of(gateway, server, kind):
    """An outage of a server for those who reach it through a gateway."""

    @contextlib.contextmanager
    def interrupt():
        if kind == "cut":
            gateway.is_open = False
            gateway.cut()
        else:
            gateway.latency = 3600.0
        yield server.url
        gateway.cut()
        gateway.is_open, gateway.latency = True, 0.0

    return interrupt


class TestMemory(BackendTests):
    spans_processes = False

    @pytest.fixture
    def url(self):
        return "memory://"


class TestRedis(BackendTests):
    __test__ = IS_PATCHED

    @pytest.fixture
    def gateway(self, redis_server):
        with Gateway(redis_server) as gateway:
            yield gateway

    @pytest.fixture
    def url(self, gateway):
        return f"{gateway.url}?socket_timeout=0.5"

    @pytest.fixture(params=["cut", "hang"])
    def outage(self, request, gateway, redis_server):
        return outage_of(gateway, redis_server, request.param)

    @pytest.fixture
    def intrude(self, redis_server):
        with redis_server.client() as admin:

            def intrude(channel):
                for data in (b"", b"no message of ours", b"\x01 \xff no UTF-8", b"\x04 short"):
                    admin.publish(f"geventws:{channel}", data)
                admin.xadd(f"geventws:{channel}", {"m": b"\x01\xff no UTF-8"})
                admin.xadd(f"geventws:{channel}", {"other": "field"})

            yield intrude


class TestPostgreSQL(BackendTests):
    __test__ = IS_PATCHED

    @pytest.fixture
    def gateway(self, postgresql_server):
        with Gateway(postgresql_server) as gateway:
            yield gateway

    @pytest.fixture
    def url(self, gateway):
        return f"postgresql://postgres@127.0.0.1:{gateway.server_port}/postgres?timeout=0.5"

    @pytest.fixture(params=["cut", "hang"])
    def outage(self, request, gateway, postgresql_server):
        return outage_of(gateway, postgresql_server, request.param)

    @pytest.fixture
    def intrude(self, postgresql_server):
        def intrude(channel):
            payload = f"no message of {channel}".replace("'", "''")
            postgresql_server.execute(f"NOTIFY {group_of(channel)}, '{payload}'")

        return intrude


@pytest.mark.skipif(IS_PATCHED, reason="this is the patched process")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("backend", "selection"),
    [
        (backend, selection)
        for backend in ("TestRedis", "TestPostgreSQL")
        for selection in ("not hang", "hang")
    ],
)
def test_a_backend_with_a_network_passes_in_a_patched_process(backend, selection, tmp_path):
    patched = [sys.executable, "-W", "ignore:Monkey", "-m", "gevent.monkey", "--module", "pytest"]
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [
            *patched,
            *OPTIONS,
            f"--basetemp={tmp_path}/temp",
            "-k",
            selection,
            f"{__file__}::{backend}",
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    if not re.search(r"\d passed", done.stdout) and "skipped" in done.stdout:
        pytest.skip(done.stdout)  # Redis is not installed
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
