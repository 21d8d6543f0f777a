"""The line that is printed when a server starts."""

from __future__ import annotations

import sys

from ..protocol.reader import CORE


def say_start(app: str, way: str) -> None:
    """Print what is served, the active core, and how to stop."""
    line = f"Serving {app} {way} ({CORE} core). Press Ctrl-C to stop."
    print(line, file=sys.stderr, flush=True)
