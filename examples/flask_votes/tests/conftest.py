"""Makes the example's modules importable, as they are where it runs, and starts the program."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE)]

from votes_support import Show  # noqa: E402 - only now it can be found


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Show]:
    """The program, running; whatever happens, it may not complain on stderr."""
    show = Show(tmp_path)
    try:
        show.start()
        yield show
    finally:
        show.stop()
    assert show.errors() == ""
