"""Whether a runtime that failed without a reason did so for lack of memory."""

from __future__ import annotations

import mmap


def memory_for(size_bytes: int) -> bool:
    """Whether this process could still reserve ``size_bytes``; nothing is touched or kept."""
    try:
        mmap.mmap(-1, max(1, size_bytes)).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True
