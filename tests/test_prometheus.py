"""``geventws.prometheus``: the figures of one process, and of gunicorn's several."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.client import TEXT, close_frame, frame, request
from tests.support.servers import serving, wait_until

APP = "tests.support.metrics_app:app"


def metrics_of(process):
    """What is at ``/metrics``, by name and labels."""
    with process.client() as client:
        client.send(request("/metrics", [("Connection", "close")], without="Upgrade"))
        status, body = client.read_response()
    assert status == "200"
    return {
        name: float(value)
        for name, value in re.findall(r"(?m)^geventws_(\S+) (\S+)$", body.decode())
    }


def wait_for(process, **expected):
    """The metrics, once some of them are as they should be: they are up to a second old."""
    found = {}

    def ask():
        found.update(metrics_of(process))
        return expected.items() <= found.items()

    try:
        wait_until(ask)
    except AssertionError:
        raise AssertionError(f"{expected} did not come: {found}") from None
    return found


def talk(client, times):
    client.send(frame(TEXT, "hello") * times)
    for _ in range(times):
        assert client.read_frame() == (TEXT, b"hello")


def test_one_process_tells_what_has_happened(tmp_path):
    arguments = ["-m", "geventws", APP, "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log") as process:
        with process.client() as client:
            client.send(request("/refuse"))
            assert client.read_head() == "401"
        with process.client().open() as client:
            talk(client, 3)
            found = wait_for(process, connections=1, messages_sent_total=3)
            assert found["bytes_received_total"] == 3 * 11
            client.finish()
        found = wait_for(process, connections=0)
        assert found['connections_closed_total{code="1000"}'] == 1
        assert found['connections_refused_total{status="401"}'] == 1


def test_peers_cannot_make_more_than_a_hundred_series(tmp_path):
    arguments = ["-m", "geventws", APP, "--bind", "127.0.0.1:0"]
    with serving(arguments, tmp_path / "log") as process:
        for code in (1000, *range(4000, 4120), 4000):
            with process.client().open() as client:
                client.finish(code)
        others = 'connections_closed_total{code="other"}'
        found = wait_for(process, connections=0, **{others: 20})
        assert sum("connections_closed_total" in name for name in found) == 102
        assert found['connections_closed_total{code="4000"}'] == 2
        assert found['connections_closed_total{code="1000"}'] == 1


@pytest.mark.parametrize("preload", [False, True])
def test_the_workers_of_gunicorn_are_summed_up_also_when_they_have_ended(tmp_path, preload):
    shared = tmp_path / "metrics"
    shared.mkdir()
    shared.joinpath("counter_1.db").touch()  # as a process leaves it that is just beginning
    arguments = [
        "-m",
        "gunicorn",
        "-c",
        "deploy/gunicorn.conf.py",
        "-b",
        "127.0.0.1:0",
        "-w",
        "2",
        "--graceful-timeout",
        "5",
        *(["--preload"] if preload else []),
        APP,
    ]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with serving(arguments, tmp_path / "log", **environment) as process:
        clients = [process.client().open() for _ in range(8)]
        for client in clients:
            talk(client, 2)
        wait_for(process, connections=8, messages_received_total=16, messages_sent_total=16)
        os.kill(process.process.pid, signal.SIGHUP)  # new workers; the old ones end
        for client in clients:
            assert client.read_close() == (1001, "")
            client.send(close_frame(1001))
            client.sock.close()
        gone = process.wait_for(r"exiting \(pid: (\d+)\)(?s:.*)exiting \(pid: (\d+)\)")
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone.groups()))
        found = wait_for(process, connections=0, **{'connections_closed_total{code="1001"}': 8})
        assert found["messages_received_total"] == 16


def test_the_open_connections_of_a_worker_that_was_killed_are_not_open(tmp_path):
    shared = tmp_path / "metrics"
    shared.mkdir()
    arguments = ["-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "-b", "127.0.0.1:0", APP]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with serving(arguments, tmp_path / "log", **environment) as process:
        worker = int(process.wait_for(r"Booting worker with pid: (\d+)")[1])
        with process.client().open() as client:
            talk(client, 1)
            wait_for(process, connections=1, messages_received_total=1)
            os.kill(worker, signal.SIGKILL)
            assert wait_for(process, connections=0)["messages_received_total"] == 1
