"""The cores under test: each test here runs once with each."""
import importlib

import pytest

CORES = ["geventws._core.protocol"]


@pytest.fixture(params=CORES, ids=lambda name: name.rpartition(".")[2])
def core(request):
    """A module with Protocol, apply_mask and encode_frame."""
    return importlib.import_module(request.param)
