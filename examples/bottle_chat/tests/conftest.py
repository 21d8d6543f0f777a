"""Makes the example's modules importable, as they are where it runs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE)]
