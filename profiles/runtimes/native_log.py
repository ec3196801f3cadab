"""What native libraries write to standard error, where no call sets their verbosity."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """What native code writes to standard error, as lines, filled in on leaving.

    TFLite announces its delegate there, and gives there alone the reason why a file is refused;
    no call sets its verbosity.
    """
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # a process started without standard error
            yield lines
            return
        os.dup2(file.fileno(), _STDERR)
        try:
            yield lines
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()
