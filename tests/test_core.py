"""Which core runs, and that the twins are twins."""
import importlib.util
import inspect
import os
import subprocess
import sys

import pytest

import geventws
from geventws._core import reader, transport
from tests.support.tools import missing


@pytest.fixture
def speedups():
    """The compiled core, if it was built."""
    if importlib.util.find_spec("geventws._core._speedups") is None:
        missing("the compiled core is not built: install a C compiler, then make clean test")
    return importlib.import_module("geventws._core._speedups")


def core_with(**environment):
    code = "import geventws; print(geventws.__core__)"
    names = {**os.environ, "GEVENTWS_PURE_PYTHON": "", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=names, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_the_compiled_core_runs_where_it_is_built(speedups):
    assert core_with() == "compiled"


def test_an_environment_variable_selects_the_plain_core():
    assert core_with(GEVENTWS_PURE_PYTHON="1") == "python"


def test_this_run_has_the_core_that_was_asked_for(speedups):
    asked_for = "python" if os.environ.get("GEVENTWS_PURE_PYTHON") else "compiled"
    assert geventws.__core__ == asked_for


@pytest.mark.parametrize(("module", "name"), [(reader, "FrameReader"), (transport, "Transport")])
def test_the_twins_have_the_same_methods(speedups, module, name):
    plain = {
        method for method, value in vars(getattr(module, name)).items()
        if inspect.isfunction(value) or isinstance(value, property)
    }
    compiled = set(dir(getattr(speedups, name)))
    provided_by_subclasses = {"_control", "_fail", "connection_lost"}
    steps_in_between = {
        "_begin_frame", "_check_header", "_continue_frame", "_continue_inflating",
        "_end_message", "_fill_from_tls", "_flush_cork", "_interrupt", "_long_size",
        "_number_rest", "_read", "_take_inflated", "_wait", "_wait_for_inflation", "_write",
    }
    assert plain - compiled <= provided_by_subclasses | steps_in_between


PUBLIC = ["receive", "send", "__iter__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_twins_explain_what_is_public_alike(speedups, name):
    plain = inspect.getdoc(getattr(transport.Transport, name))
    compiled = inspect.getdoc(getattr(speedups.Transport, name))
    assert compiled.partition("\n\n")[2] == plain  # Cython puts the signature in front
