"""Select the frame reader: the compiled twin where it was built, else the Python twin.

The environment variable ``GEVENTWS_PURE_PYTHON=1`` selects the Python twin, which is the reference.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .reader_py import FrameReader, apply_mask, encode_frame

__all__ = ["CORE", "FrameReader", "apply_mask", "encode_frame"]

#: The twins that run: "compiled" or "python".
CORE = "python"

if not TYPE_CHECKING and not os.environ.get("GEVENTWS_PURE_PYTHON"):
    try:
        from ._reader import FrameReader, apply_mask, encode_frame
    except ImportError:
        pass  # the extension was not built here
    else:
        CORE = "compiled"
