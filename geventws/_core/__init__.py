"""The hot path: frames, assembly, and their way through gevent.

One selector: everything above imports from here. The plain Python modules are the reference.
"""
from __future__ import annotations

from .connection import Connection
from .protocol import Protocol, apply_mask, encode_frame

__all__ = ["Connection", "Protocol", "apply_mask", "encode_frame"]
