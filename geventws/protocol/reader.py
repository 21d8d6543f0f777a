"""Select the frame reader: the compiled twin where it was built, else the Python twin.

The environment variable ``GEVENTWS_PURE_PYTHON=1`` selects the Python twin, which is the reference.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .reader_py import FrameReader, apply_mask, encode_frame

__all__ = ["CORE", "NOT_COMPILED", "FrameReader", "apply_mask", "encode_frame"]

#: The twins that run: "compiled" or "python".
CORE = "python"
#: A sentence for the log if the extension is missing, else empty.
NOT_COMPILED = ""

if not TYPE_CHECKING and not os.environ.get("GEVENTWS_PURE_PYTHON"):
    try:
        from ._reader import FrameReader, apply_mask, encode_frame
    except ImportError:
        NOT_COMPILED = (
            "The Python core of geventws is running, which is slower: the compiled core was not"
            " built. Install a C compiler, then: pip install --force-reinstall --no-cache-dir"
            " geventws. GEVENTWS_PURE_PYTHON=1 keeps the Python core without this warning"
        )
    else:
        CORE = "compiled"
