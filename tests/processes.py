"""Processes of this machine, as /proc shows them."""

from pathlib import Path


def alive(pid: int) -> bool:
    """Whether it runs: one that ended and that nobody waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # as it is read
        return False
    return state != "Z"
