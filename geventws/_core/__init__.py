"""The way of every message: frames, assembly, and their way through gevent.

One selector for the twins: the compiled one where it was built, unless the environment variable
``GEVENTWS_PURE_PYTHON`` is set; else the plain Python modules, which are the reference.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .reader import FrameReader, apply_mask, encode_frame
from .transport import MAX_RECORD, SLICE, WOULD_BLOCK, Counters, Transport, fan_out

__all__ = [
    "CORE", "MAX_RECORD", "SLICE", "WOULD_BLOCK", "Counters", "FrameReader", "Transport",
    "apply_mask", "encode_frame", "fan_out",
]

#: Which one runs: "compiled" or "python".
CORE = "python"

if not TYPE_CHECKING and not os.environ.get("GEVENTWS_PURE_PYTHON"):
    try:
        from ._speedups import (
            Counters,
            FrameReader,
            Transport,
            apply_mask,
            encode_frame,
            fan_out,
        )
    except ImportError:
        pass  # it was not built here
    else:
        CORE = "compiled"
