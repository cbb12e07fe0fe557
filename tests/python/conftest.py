"""Lets the tests import their helpers, whatever the directory pytest starts in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
