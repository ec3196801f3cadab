"""Worker processes import the fakes of these tests, and get their import path from this one."""

import sys
from pathlib import Path

# At the end: the installed package is what is tested, not the checkout.
sys.path.append(str(Path(__file__).parents[2]))
