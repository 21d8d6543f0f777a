"""External programs that tests run: missing ones fail on CI and are skipped elsewhere."""

import os
import shutil

import pytest


def need(program: str, install: str) -> str:
    """The path of ``program``; without it the test is skipped, or fails on CI."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        missing(f"{program} is not installed: {install}")
    assert path is not None
    return path


def missing(reason: str) -> None:
    """Skip the test for want of a tool; on CI, where all tools must be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
