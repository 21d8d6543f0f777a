"""``--env-file``: environment variables from a file."""

from __future__ import annotations

import argparse
import os

from .errors import UsageError


def load_from(arguments: list[str]) -> None:
    """Set the variables of the file in these arguments, if there is one.

    Variables that are set already keep their values.

    :raises UsageError: if the file cannot be used, or python-dotenv is not installed.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--env-file")
    try:
        file = parser.parse_known_args(arguments)[0].env_file
    except argparse.ArgumentError:
        return  # the complete parser explains it
    if file is None:
        return
    try:
        from dotenv import load_dotenv  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise UsageError("--env-file needs python-dotenv: pip install 'geventws[cli]'") from None
    if not os.path.isfile(file):
        raise UsageError(f"--env-file: there is no file {file}")
    try:
        load_dotenv(file)
    except (OSError, ValueError) as problem:  # ValueError: no UTF-8, or a NUL
        raise UsageError(f"--env-file {file}: {problem}") from problem
