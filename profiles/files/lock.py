"""Folders held by one process at a time; the system lets go of them when it ends in any way."""

from __future__ import annotations

import os
from pathlib import Path


def hold(folder: Path) -> int | None:
    """A descriptor that holds ``folder`` until it is closed; None where there are no file locks.

    Raises BlockingIOError where another process holds it, OSError where it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # not on this file system
        os.close(descriptor)
        return None
    return descriptor
