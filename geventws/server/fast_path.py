"""Select the fast parser for WebSocket requests: the compiled twin, or the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.reader import CORE
from .fast_path_py import PEEK_SIZE, Request, complete_environ, parse_request

__all__ = ["PEEK_SIZE", "Request", "complete_environ", "parse_request"]

if not TYPE_CHECKING and CORE == "compiled":
    from ._fast_path import parse_request
