"""Folders of this tool's own: made with its mark in them, and only with it removed.

Processes are killed and boards lose power, and what they leave is for later runs to remove. A
name proves nothing, so a folder is ours by its name *and* by the mark that we wrote into it,
which also says which process it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.agent.bootstrap import OWNER, PREFIX, TOOL, owner_mark

_TRIES, _BETWEEN_TRIES_S = 60, 0.05
_MAX_MARK_BYTES = 4096
_FACTS = {"tool": str, "host": str, "boot": str, "namespace": str, "pid": int}


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder in ``parent`` (None: the system's for temporary files) that is gone afterwards.

    What killed processes left in ``parent`` goes first. Raises OSError where it cannot be made.
    """
    base = parent or Path(tempfile.gettempdir())
    _sweep_once(base)
    folder = make_own(base)
    try:
        yield folder
    finally:
        remove(folder)


def make_own(parent: Path, prefix: str = PREFIX) -> Path:
    """A new folder in ``parent`` that only this user can enter, with our mark in it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        (folder / OWNER).write_text(json.dumps(owner_mark()), encoding="ascii")
    except BaseException:
        remove_own(folder)
        raise
    return folder


def is_own(folder: Path) -> bool:
    """Whether ``folder`` is this user's and has our mark in it."""
    return _mark_of(folder) is not None


def is_abandoned(folder: Path, *, by_this_process: bool = False) -> bool:
    """Whether ``folder`` is our own and its process has ended (or, if asked, is this one).

    A process number says nothing about another host, or another container's processes: such a
    folder passes for one in use.
    """
    mark = _mark_of(folder)
    if mark is None:
        return False
    here = owner_mark()
    if mark["host"] != here["host"]:
        return False
    if mark["boot"] != here["boot"]:
        return True
    if mark["namespace"] != here["namespace"]:
        return False
    return by_this_process if mark["pid"] == here["pid"] else not _runs(mark["pid"])


def remove_abandoned(parent: Path, *, prefix: str = PREFIX, by_this_process: bool = False) -> None:
    """Remove our own folders in ``parent`` whose process has ended, and touch nothing else."""
    for folder in parent.glob(f"{prefix}*"):
        if is_abandoned(folder, by_this_process=by_this_process):
            remove_own(folder)


def remove_own(folder: Path) -> None:
    """Remove a folder that is ours, the mark last: until then another process can take over."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != OWNER:
                with contextlib.suppress(OSError):
                    entry.unlink()
        if [entry.name for entry in folder.iterdir()] == [OWNER]:
            (folder / OWNER).unlink()
        folder.rmdir()


def remove(folder: Path) -> None:
    """Remove ``folder``, which this process made, even where something that is just ending still
    writes to it."""
    for _ in range(_TRIES):
        remove_own(folder)
        if not folder.exists():
            return
        time.sleep(_BETWEEN_TRIES_S)


@cache
def _sweep_once(parent: Path) -> None:
    with contextlib.suppress(OSError):
        remove_abandoned(parent)


def _mark_of(folder: Path) -> Mapping[str, Any] | None:
    try:
        if not _is_mine(folder.lstat(), stat.S_ISDIR):
            return None
        found = (folder / OWNER).lstat()
        if not _is_mine(found, stat.S_ISREG) or found.st_size > _MAX_MARK_BYTES:
            return None
        mark = json.loads((folder / OWNER).read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(mark, dict) or mark.get("tool") != TOOL:
        return None
    whole = all(type(mark.get(name)) is kind for name, kind in _FACTS.items())
    return mark if whole else None


def _is_mine(facts: os.stat_result, is_kind: Any) -> bool:
    """Not through a link: what that leads to is somebody else's."""
    mine = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    return mine and bool(is_kind(facts.st_mode))


def _runs(pid: int) -> bool:
    """Whether this user has a process ``pid``."""
    if os.name == "nt":  # asking would end it there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process took over the number
        return False
    return True
