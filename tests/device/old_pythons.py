"""Interpreters of other versions that this machine happens to have."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.time_limit import PATIENCE_S

OLDEST = (3, 10)


@cache
def pythons(*versions: tuple[int, int]) -> tuple[str, ...]:
    """Those of the ``versions`` that are installed: in PATH, or by pyenv."""
    found = []
    for major, minor in versions:
        candidates = [shutil.which(f"python{major}.{minor}") or ""]
        candidates += sorted(
            map(str, Path("~/.pyenv/versions").expanduser().glob(f"{major}.{minor}.*/bin/python"))
        )
        found += [c for c in candidates if c and _is(c, major, minor)][:1]
    return tuple(found)


def _is(program: str, major: int, minor: int) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except OSError:
        return False
    return re.match(rf"Python {major}\.{minor}\.", done.stdout) is not None
