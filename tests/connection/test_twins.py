"""The cores, and the equality of the compiled twins and their Python twins."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geventws
from geventws.connection import transport_py
from geventws.options import Options
from geventws.protocol import reader_py
from geventws.protocol.endpoint import Endpoint
from tests.support.tools import missing

PACKAGE = Path(__file__).parents[2] / "geventws"  # an installed one has no .pyx files
TWINS = {
    "geventws.protocol._reader": (reader_py, ["FrameReader"]),
    "geventws.connection._transport": (
        transport_py,
        ["Transport", "HubBuffers", "Counters", "Workers"],
    ),
}
#: Steps that a twin splits in its own way.
STEPS = {
    "_begin_frame",
    "_check_header",
    "_continue_frame",
    "_continue_inflating",
    "_cork",
    "_deliver",
    "_end_dispatch",
    "_end_message",
    "_fill_from_tls",
    "_flush_cork",
    "_interrupt",
    "_long_size",
    "_message_at_hand",
    "_number_rest",
    "_report_end",
    "_take",
    "_take_inflated",
    "_wait_for_inflation",
}
#: The methods of the upper half that the compiled transport and the frame reader call.
HOOKS = {
    "_callback_failed",
    "_closed_error",
    "_end_of_iteration",
    "_finish",
    "_input_parsed",
    "_let_wait",
    "_note_idle",
    "_open",
    "_output_failed",
    "_parse_ahead",
    "_queue_output",
    "_receive_parsed",
    "_resume_later",
    "_transport_ended",
    "_wait_for_room",
}
READER_HOOKS = {"_abort", "_fail", "_receive_control"}


@pytest.fixture
def twins():
    """Pairs of classes: the Python twin and the compiled twin."""
    if importlib.util.find_spec("geventws.connection._transport") is None:
        missing("the compiled core is not built: install a C compiler, then make clean test")
    return {
        name: (getattr(plain, name), getattr(importlib.import_module(module), name))
        for module, (plain, names) in TWINS.items()
        for name in names
    }


def core_with(**environment):
    code = "import geventws; print(geventws.__core__)"
    names = {**os.environ, "GEVENTWS_PURE_PYTHON": "", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=names, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_the_compiled_core_runs_where_it_is_built(twins):
    assert core_with() == "compiled"


def test_an_environment_variable_selects_the_plain_core():
    assert core_with(GEVENTWS_PURE_PYTHON="1") == "python"


def test_this_run_has_the_core_that_was_asked_for(twins):
    asked_for = "python" if os.environ.get("GEVENTWS_PURE_PYTHON") else "compiled"
    assert geventws.__core__ == asked_for


def methods(kind):
    return {
        name
        for name, value in vars(kind).items()
        if inspect.isfunction(value) or isinstance(value, property)
    }


@pytest.mark.parametrize("name", ["FrameReader", "Transport", "HubBuffers", "Counters", "Workers"])
def test_the_twins_have_the_same_methods(twins, name):
    plain, compiled = twins[name]
    assert methods(plain) - set(dir(compiled)) <= STEPS | HOOKS | READER_HOOKS


PUBLIC = ["receive", "send", "__iter__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_twins_have_the_same_docstrings(twins, name):
    plain, compiled = twins["Transport"]
    text = inspect.getdoc(getattr(compiled, name))
    # Cython puts the signature in front.
    assert text.partition("\n\n")[2] == inspect.getdoc(getattr(plain, name))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_twins_have_the_same_parameters(twins, name):
    plain, compiled = twins["Transport"]
    signature = inspect.getdoc(getattr(compiled, name)).partition("\n\n")[0]
    names = re.findall(r"(\*|\w+)(?=[,=)]|\s*=)", signature.partition("(")[2].partition("->")[0])
    parameters = inspect.signature(getattr(plain, name)).parameters
    wanted = []
    for parameter in parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in wanted:
            wanted.append("*")
        wanted.append(parameter.name)
    assert [each for each in names if each not in {"None", "True", "False"}] == wanted


def test_the_twins_fan_out_alike(twins):
    compiled = importlib.import_module("geventws.connection._transport").fan_out
    text = inspect.getdoc(compiled)
    assert text.partition("\n\n")[2] == inspect.getdoc(transport_py.fan_out)


# ------------------------------------------------------------ calls to the upper half

SOURCES = {
    "connection/transport_py.py": HOOKS,
    "connection/_transport.pyx": HOOKS,
    "protocol/reader_py.py": READER_HOOKS,
    "protocol/_reader.pyx": READER_HOOKS,
}


@pytest.mark.parametrize("path", SOURCES)
def test_a_lower_half_calls_only_the_listed_methods_of_the_upper_half(path):
    source = (PACKAGE / path).read_text()
    called = set(re.findall(r"\b(?:self|former|transport|connection)\.(_?[a-z]\w*)\(", source))
    declared = path.replace("pyx", "pxd") if path.endswith("_reader.pyx") else path
    defined = re.findall(
        r"^    (?:def|cdef [\w* ]*?)\s*\*?(\w+)\(",
        source + (PACKAGE / declared).read_text(),
        flags=re.MULTILINE,
    )
    abstract = re.findall(
        r"^    def (\w+)\((?:(?!^    def ).)*?^        raise NotImplementedError$",
        source,
        flags=re.MULTILINE | re.DOTALL,
    )
    upwards = called - (set(defined) - set(abstract)) - {"_on_message", "_recv_into", "_send"}
    assert upwards == SOURCES[path]


# ------------------------------------------------------------------ before the start


def test_unopened_transports_of_both_cores_answer_alike(twins):
    answers = []
    for buffers, counters, kind in zip(
        twins["HubBuffers"], twins["Counters"], twins["Transport"], strict=True
    ):
        reader = twins["FrameReader"][twins["Transport"].index(kind)](False)
        transport = kind(reader, buffers(), counters())
        answers.append(
            [
                getattr(transport, name)
                for name in (
                    "_end_reported",
                    "_heard",
                    "_is_tls",
                    "_output",
                    "_raw",
                    "_received",
                    "_receives",
                    "_resuming",
                    "_sock",
                    "_waiter",
                    "_written",
                )
            ]
        )
    assert answers[0] == answers[1]


def test_an_unopened_connection_answers_without_an_opening_handshake():
    from geventws.connection.connection import Connection

    connection = Connection(Options(), client=False)
    assert isinstance(connection._endpoint, Endpoint)
    assert (connection.closed, connection.close_code, connection.close_reason) == (False, None, "")
    assert connection.latency is None
    assert connection._buffered == (0, 0, 0)
    with pytest.raises(NotImplementedError):
        connection.send("too early")
