"""The command line: ``geventws module:app``, also as ``python -m geventws module:app``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from .. import __core__, __version__
from . import bench, connect, settings
from .errors import UsageError
from .serve import serve

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = {"connect": _connect, "bench": _bench}.get(arguments[0] if arguments else "")
    try:
        return command(arguments[1:]) if command else _serve(arguments)
    except UsageError as problem:
        print(f"geventws: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell says it


def _serve(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws",
        description="Serve a WSGI application with WebSockets. Ctrl-C closes them and stops.",
        epilog="geventws connect URL talks to a server by hand, geventws bench URL measures one.",
    )
    parser.add_argument(
        "--version", action="version", version=f"geventws {__version__} ({__core__} core)"
    )
    settings.add_arguments(parser)
    return serve(settings.settings_from(parser.parse_args(arguments)))


def _connect(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws connect",
        description="Talk to a WebSocket server by hand; /help helps.",
    )
    return _run(parser, arguments, connect.talk, connect.add_arguments)


def _bench(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws bench",
        description="Measure a WebSocket server that answers each message with one.",
    )
    return _run(parser, arguments, bench.bench, connect.add_arguments, bench.add_arguments)


def _run(
    parser: argparse.ArgumentParser,
    arguments: list[str],
    command: Callable[[argparse.Namespace], int],
    *adders: Callable[[argparse.ArgumentParser], None],
) -> int:
    for add in adders:
        add(parser)
    return command(parser.parse_args(arguments))
