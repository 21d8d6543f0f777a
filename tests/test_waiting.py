"""The programs of docs/waiting.md."""

import re

import psutil
import pytest

from geventws import connect
from geventws.testing import connect as connect_in_test
from tests.support.servers import ROOT, serving, wait_until
from tests.test_docs import snippets_of

PROGRAMS = {
    re.match(r"# (\w+)\.py\n", snippet)[1]: snippet
    for snippet in snippets_of(ROOT / "docs" / "waiting.md")
}


def test_every_program_is_tested():
    assert set(PROGRAMS) == {"log", "jobs"}


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_program_ends_with_the_client_also_while_it_prints_nothing(tmp_path, is_silent):
    path = tmp_path / "log"
    path.write_text("" if is_silent else "first\nsecond\n")
    program = PROGRAMS["log"]
    for old, new in (("/var/log/syslog", str(path)), ('"-n", "0"', '"-n", "+1"')):
        assert old in program
        program = program.replace(old, new)
    (tmp_path / "log.py").write_text(program)
    arguments = ["-m", "geventws", "log:app", "--bind", "127.0.0.1:0"]
    # In the process of the tests, gevent would reap the children of other tests, too.
    with serving(arguments, tmp_path / "output", cwd=tmp_path) as server:
        process = psutil.Process(server.process.pid)
        with connect(f"ws://127.0.0.1:{server.address[1]}/log") as ws:
            wait_until(process.children, "the program")
            if not is_silent:
                assert [ws.receive(), ws.receive()] == ["first\n", "second\n"]
        wait_until(lambda: not process.children(), "its end")


def test_results_come_as_they_are_ready_and_the_view_ends_with_the_client():
    namespace = {"__name__": "jobs"}
    exec(PROGRAMS["jobs"], namespace)
    with connect_in_test(namespace["app"], "/jobs") as ws:
        ws.send("0.02")
        ws.send("0")
        assert [ws.receive_json(), ws.receive_json()] == [{"result": "0"}, {"result": "0.02"}]
        ws.send("3600")
