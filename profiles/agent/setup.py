"""A private virtual environment on the device, made only when asked for.

It is what is left on a device, and :func:`remove` takes it away.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnv4_deploy.errors import OutputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.agent.bootstrap import private_folder
from mnv4_deploy.profiles.files.own import remove_abandoned, scratch_folder
from mnv4_deploy.profiles.runtimes.litert.library import TRIED_VERSIONS

REQUIREMENTS = ("numpy", f"ai-edge-litert=={TRIED_VERSIONS[-1]}", "onnxruntime")
_MARK = "requirements.json"
# What pip says where an index has a package, but no build of it for this system.
_NO_WHEEL = ("No matching distribution found", "Could not find a version")

Note = Callable[[str], None]
Run = Callable[[Sequence[str]], tuple[int, list[str]]]


@dataclass(frozen=True)
class Place:
    """Where the environment belongs, and the user's own variables: pip's settings are found by
    them, while what measures gets a home that is removed."""

    folder: Path
    variables: Mapping[str, str]

    @classmethod
    def of_user(cls) -> Place:
        return cls(private_folder(), dict(os.environ))


def make(place: Place, note: Note, requirements: Sequence[str] = REQUIREMENTS) -> Path:
    """The environment's folder; made where it is not there with the same ``requirements``.

    It gets its name when it is whole. ``note`` is told every line that pip prints. Raises
    ToolchainError where the device has no venv module or pip fails, UnsupportedError where a
    runtime does not exist for this system, OutputError where the folder cannot be made.
    """
    folder = place.folder
    if _is_whole(folder, requirements):
        return folder
    if os.path.lexists(folder) and not is_ours(folder):
        raise OutputError(
            f"{folder} on the device is no environment that mnv4-deploy made: move it away."
        )
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with scratch_folder(folder.parent) as scratch:
            note(f"making a virtual environment in {folder}")
            run = partial(_run, variables=place.variables, note=note)
            unfinished = scratch / "new"
            unfinished.mkdir(mode=0o700)
            _make_venv(unfinished, run)
            _install(unfinished, requirements, run)
            (unfinished / _MARK).write_text(json.dumps(_mark(requirements)), encoding="utf-8")
            if folder.exists():
                folder.rename(scratch / "old")
            unfinished.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made on the device ({error.strerror}).") from error
    return folder


def remove(place: Place) -> bool:
    """Take the environment away; whether there was one that we made."""
    folder = place.folder
    there = is_ours(folder)
    if there:
        with contextlib.suppress(OSError), scratch_folder(folder.parent) as scratch:
            # What is only half removed would no longer pass for ours.
            folder.rename(scratch / "old")
    if folder.parent.is_dir():
        remove_abandoned(folder.parent)
        with contextlib.suppress(OSError):  # other things of this tool are in it
            folder.parent.rmdir()
    return there


def abort(place: Place) -> None:
    """Remove what an interrupted :func:`make` left; its processes must have ended."""
    if place.folder.parent.is_dir():
        remove_abandoned(place.folder.parent, by_this_process=True)


def _mark(requirements: Sequence[str]) -> dict[str, object]:
    """What makes one environment as good as another; packages are for one version of Python."""
    python = platform.python_version_tuple()[:2]
    return {"python": ".".join(python), "requirements": list(requirements)}


def _is_whole(folder: Path, requirements: Sequence[str]) -> bool:
    found = _read_mark(folder)
    return found == _mark(requirements) and os.access(folder / "bin" / "python", os.X_OK)


def is_ours(folder: Path) -> bool:
    """Whether ``folder`` is a virtual environment of ours, whatever is installed in it."""
    try:
        is_folder = stat.S_ISDIR(folder.lstat().st_mode)
    except OSError:
        return False
    return is_folder and (folder / "pyvenv.cfg").is_file() and _read_mark(folder) is not None


def _read_mark(folder: Path) -> dict[str, object] | None:
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(found) == set(_mark(())) else None


def _make_venv(folder: Path, run: Run) -> None:
    code, lines = run([sys.executable, "-m", "venv", "--clear", str(folder)])
    if code == 0:
        return
    if any("ensurepip" in line or "No module named venv" in line for line in lines):
        raise ToolchainError(
            "The device's Python has no venv module: run apt install python3-venv there, or name"
            " another Python with --device-python."
        )
    raise ToolchainError(f"python -m venv failed on the device: {_last(lines)}")


def _install(folder: Path, requirements: Sequence[str], run: Run) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    options = ["--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    options += ["--only-binary", ":all:", "--progress-bar", "off"]
    code, lines = run([*pip, "install", *options, *requirements])
    if code == 0:
        return
    if any(sign in line for sign in _NO_WHEEL for line in lines):
        raise UnsupportedError(
            f"pip has no build of {' or '.join(requirements)} for Python"
            f" {platform.python_version()} on {platform.machine()}: {_last(lines)}"
        )
    raise ToolchainError(f"pip install failed on the device: {_last(lines)}")


def _run(
    command: Sequence[str], *, variables: Mapping[str, str], note: Note
) -> tuple[int, list[str]]:
    """The exit code and the last lines of a program, each told to ``note`` as it comes."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**variables, "TMPDIR": tempfile.gettempdir()},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                note(line.strip())
                lines = [*lines[-20:], line.strip()]
    return process.returncode, lines


def _last(lines: Sequence[str]) -> str:
    errors = [line for line in lines if line.startswith("ERROR")]
    return [*lines[-1:], *errors[-1:]][-1] if lines else "it gave no reason."
