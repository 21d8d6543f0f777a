"""The way of every message: frames, assembly, and their way through gevent.

One selector for the twins: the compiled one where it was built, unless the environment variable
``GEVENTWS_PURE_PYTHON`` is set; else the plain Python modules, which are the reference.
"""
from __future__ import annotations

from .reader import FrameReader, apply_mask, encode_frame
from .transport import WOULD_BLOCK, Transport

__all__ = ["WOULD_BLOCK", "FrameReader", "Transport", "apply_mask", "encode_frame"]
