"""The programs of docs/waiting.md."""

import re

import psutil
import pytest

from geventws.testing import connect
from tests.support.servers import ROOT
from tests.test_docs import snippets_of

PROGRAMS = {
    re.match(r"# (\w+)\.py\n", snippet)[1]: snippet
    for snippet in snippets_of(ROOT / "docs" / "waiting.md")
}


def app_of(name, **replacements):
    program = PROGRAMS[name]
    for old, new in replacements.items():
        assert old in program
        program = program.replace(old, new)
    namespace = {"__name__": name}
    exec(program, namespace)
    return namespace["app"]


def test_every_program_is_tested():
    assert set(PROGRAMS) == {"log", "jobs"}


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_program_ends_with_the_client_also_while_it_prints_nothing(tmp_path, is_silent):
    path = tmp_path / "log"
    path.touch()
    app = app_of("log", **{"/var/log/syslog": str(path), '"-n", "0"': '"-n", "+1"'})
    children = set(psutil.Process().children())
    if not is_silent:
        path.write_text("first\nsecond\n")
    with connect(app, "/log") as ws:
        if not is_silent:
            assert [ws.receive(), ws.receive()] == ["first\n", "second\n"]
    assert set(psutil.Process().children()) == children


def test_results_come_as_they_are_ready_and_the_view_ends_with_the_client():
    with connect(app_of("jobs"), "/jobs") as ws:
        ws.send("0.02")
        ws.send("0")
        assert [ws.receive_json(), ws.receive_json()] == [{"result": "0"}, {"result": "0.02"}]
        ws.send("3600")
