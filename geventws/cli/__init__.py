"""The command line: ``geventws module:app``, also as ``python -m geventws module:app``."""
from __future__ import annotations

import argparse
import sys

from .. import __core__, __version__
from .errors import UsageError
from .serve import serve
from .settings import add_arguments, settings_from

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="geventws",
        description="Serve a WSGI application with WebSockets. Ctrl-C closes them and stops.",
    )
    parser.add_argument("--version", action="version",
                        version=f"geventws {__version__} ({__core__} core)")
    add_arguments(parser)
    try:
        return serve(settings_from(parser.parse_args(arguments)))
    except UsageError as problem:
        print(f"geventws: {problem}", file=sys.stderr)
        return 2
