"""What the user of the command line got wrong."""

from __future__ import annotations


class UsageError(Exception):
    """One sentence that says what is wrong; it is printed, and the exit status is 2."""
