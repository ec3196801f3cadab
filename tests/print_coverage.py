"""Prints what share of the lines ran, and of which files least: python print_coverage.py JSON.

The JSON is SlipCover's. It counts the test processes alone, not those that they start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEAST = 5


def told(coverage: dict[str, Any]) -> str:
    """A sentence with the share of all lines, and of the files with the smallest shares."""
    files = {
        name.rpartition("site-packages/")[2]: file["summary"]
        for name, file in coverage["files"].items()
        if file["executed_lines"] or file["missing_lines"]
    }
    least = sorted(files, key=lambda name: (files[name]["percent_covered"], name))[:LEAST]
    named = ", ".join(f"{name} {files[name]['percent_covered']:.0f} %" for name in least)
    whole = coverage["summary"]
    lines = whole["covered_lines"] + whole["missing_lines"]
    return f"{whole['percent_covered']:.1f} % of {lines} lines ran in the tests; least in {named}."


if __name__ == "__main__":
    print(told(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
