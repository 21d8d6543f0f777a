"""``python -m geventws``: the command line; see :mod:`geventws.cli`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
