"""The exception for wrong arguments of the command line."""

from __future__ import annotations


class UsageError(Exception):
    """An error of the user. Its text is printed as one sentence, and the exit status is 2."""
