"""Private folders that a session could not remove: the device lost power, or was killed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from pathlib import Path

from mnv4_deploy.profiles.agent.bootstrap import OWNER, PREFIX, boot_id

_TRIES, _BETWEEN_TRIES_S = 60, 0.05


def remove(folder: Path) -> None:
    """Remove ``folder`` even where something that is just ending still writes to it."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_BETWEEN_TRIES_S)


def remove_abandoned(parent: Path) -> None:
    """Remove this user's folders in ``parent`` whose agent runs no more. Touches nothing that
    has no owner's mark: other programs' folders may begin with the same letters."""
    for folder in parent.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            return False
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        pid, boot = int(owner["pid"]), str(owner["boot"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return boot != boot_id() or not runs(pid)


def runs(pid: int) -> bool:
    """Whether there is a process ``pid``, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's process took over the number
        return False
    return True
