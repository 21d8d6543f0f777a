"""The command line: ``geventws module:app``, also as ``python -m geventws module:app``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from .. import __core__, __version__
from . import bench, check, connect, environment, settings
from .errors import UsageError
from .serve import serve

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status.

    :param arguments: the arguments without the name of the program; by default ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"connect": _connect, "check": _check, "bench": _bench}
    command = commands.get(arguments[0] if arguments else "")
    try:
        return command(arguments[1:]) if command else _serve(arguments)
    except UsageError as problem:
        print(f"geventws: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # the exit status of shells after Ctrl-C


def _serve(arguments: list[str]) -> int:
    environment.load_from(arguments)  # first, because it has the defaults of other arguments
    parser = argparse.ArgumentParser(
        prog="geventws",
        usage="%(prog)s [options] MODULE:APP",
        description="Serve a WSGI application with WebSockets. Ctrl-C closes them and stops.",
        epilog="Other commands: 'geventws connect URL' opens an interactive WebSocket,"
        " 'geventws check URL' finds out why a WebSocket does not open, 'geventws bench URL'"
        " measures a server.",
    )
    parser.add_argument(
        "--version", action="version", version=f"geventws {__version__} ({__core__} core)"
    )
    settings.add_arguments(parser)
    return serve(settings.settings_from(parser.parse_args(arguments)))


def _connect(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws connect",
        usage="%(prog)s [options] URL",
        description="Open an interactive WebSocket. /help lists the commands.",
    )
    return _run(parser, arguments, connect.talk, connect.add_arguments)


def _check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws check",
        usage="%(prog)s [options] URL",
        description="Open a WebSocket as browsers do, and say in a sentence what is wrong. The exit"
        " status is 0 if it works, 1 if not, and 2 for wrong arguments.",
    )
    return _run(parser, arguments, check.check, connect.add_request_arguments, check.add_arguments)


def _bench(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="geventws bench",
        usage="%(prog)s [options] URL",
        description="Measure a WebSocket server that answers each message with one message.",
    )
    return _run(parser, arguments, bench.bench, bench.add_arguments)


def _run(
    parser: argparse.ArgumentParser,
    arguments: list[str],
    command: Callable[[argparse.Namespace], int],
    *adders: Callable[[argparse.ArgumentParser], None],
) -> int:
    for add in adders:
        add(parser)
    return command(parser.parse_args(arguments))
