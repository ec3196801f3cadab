"""Commands as a user runs them: with a home and a temporary folder, and what they do to those."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

STRACE = shutil.which("strace")
# What is kept on purpose: measured ceilings, and matplotlib's list of fonts.
_KEPT = re.compile(r"\.(cache|config)(/(mnv4-deploy|matplotlib)(/.*)?)?")
_LOG = "network"
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def environment(folder: Path) -> dict[str, str]:
    """A user's, with a home and a temporary folder of its own in ``folder``."""
    places = {"HOME": folder / "home", "TMPDIR": folder / "temporary"}
    for place in places.values():
        place.mkdir(exist_ok=True)
    dropped = {"XDG_CACHE_HOME", "MNV4_DEPLOY_CACHE", "TORCHINDUCTOR_CACHE_DIR", *TELEMETRY}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **{name: str(place) for name, place in places.items()}}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mnv4_deploy", *map(str, arguments)]


def run_traced(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run our command in ``folder``, under strace where that is there and may trace."""
    traced = command(*arguments)
    if STRACE is not None:
        log = str(folder / _LOG)
        strace = [STRACE, "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", log]
        if subprocess.run([*strace, "true"], capture_output=True, check=False).returncode == 0:
            traced = [*strace, *traced]
    return subprocess.run(
        traced,
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def left(folder: Path) -> list[str]:
    """What a command left in the home and the temporary folder of ``folder``."""
    found = []
    for name in ("home", "temporary"):
        base = folder / name
        found += [f"{name}/{path.relative_to(base)}" for path in base.rglob("*")]
    return sorted(path for path in found if not _KEPT.fullmatch(path.removeprefix("home/")))


def families(folder: Path) -> set[str]:
    """The address families that a traced command used; empty where it could not be traced."""
    log = folder / _LOG
    return set(re.findall(r"\bAF_\w+", log.read_text())) if log.exists() else set()
