"""Files reach their final names whole or not at all, and only our own are ever replaced.

Everything is written to a hidden folder inside the destination and renamed when all of it is
there. The manifest leaves first and arrives last: a folder without one is not finished. It says
which files are ours, by their SHA-256: a file that it does not list, or that was changed since,
is the user's.

    DIR/.mnv4-deploy-x/   owner.json    whose it is (see profiles/files/own.py)
                          new/          what is to be published
                          journal.json  there from the first rename to the last: what to undo
                          kept/         the earlier run's files, until the new ones are there

A run that is killed leaves that folder; the next one in DIR puts the earlier files back, unless
all of the new ones had arrived, and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import OutputError
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.profiles.files.lock import hold
from mnv4_deploy.profiles.files.own import is_abandoned, is_own, make_own, remove_own
from mnv4_deploy.profiles.files.whole import sync

MANIFEST = "manifest.json"
_STAGING = ".mnv4-deploy-"
_NEW, _KEPT, _JOURNAL = "new", "kept", "journal.json"
_MAX_MANIFEST_BYTES = 1 << 28
# What each manifest is of, for messages.
_CONTENT = {
    MANIFEST: "an export",
    "profile.json": "a profile",
    "sweep.json": "a sweep",
    "drift.json": "a drift report",
    "comparison.json": "a comparison",
    "parity.json": "a parity check",
}


@contextlib.contextmanager
def staged(out: Path, *, overwrite: bool, manifest: str = MANIFEST) -> Iterator[Path]:
    """Yield a folder to write to; on success its files move into ``out``, on failure they go.

    They must end with :func:`write_manifest`. With ``overwrite`` the files that an earlier
    manifest lists, and nobody changed since, are replaced or removed; all others in ``out`` are
    never touched. ``manifest`` is the name of the file whose ``files`` list what belongs
    together, so that one folder can hold the outputs of several commands.
    Raises OutputError if ``out`` holds such files and ``overwrite`` is not given, holds others of
    the same names, is not a folder, cannot be written to, is in use by another run, or the disk
    is full.
    """
    check_free(out, overwrite=overwrite, manifest=manifest)
    created: list[Path] = []
    try:
        created += [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            staging = make_own(out, _STAGING)
            (staging / _NEW).mkdir()
            try:
                yield staging / _NEW
                _publish(staging, out, overwrite=overwrite, manifest=manifest)
            finally:
                # What could not be put back stays there for the next run to try.
                if not (staging / _JOURNAL).exists():
                    remove_own(staging)
    except OSError as error:
        raise _explained(error, out) from error
    finally:
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only succeeds while nothing was published


def write_manifest(
    folder: Path, content: Mapping[str, Any], *, name: str = MANIFEST, indent: int | None = None
) -> None:
    """Write the JSON file ``name`` that makes all files of the staging ``folder`` known as ours.

    ``content`` without ``files`` gets a list of them.
    """
    document = {"schema": schema_of(name), **content}
    if "files" not in document:
        others = sorted(path for path in folder.iterdir() if path.is_file())
        document["files"] = [
            {"file": name},
            *({"file": path.name, "sha256": file_sha256(path)} for path in others),
        ]
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    (folder / name).write_text(text + "\n", encoding="utf-8")


def check_free(
    out: Path, *, overwrite: bool, names: Iterable[str] = (), manifest: str = MANIFEST
) -> None:
    """Raise OutputError where ``out`` could not receive files with these names.

    What a killed run left in ``out`` is put right first.
    """
    try:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file: give a folder as --out.")
        if _leftovers(out):
            with _locked(out):
                pass
        _check_names(out, (manifest, *names), _own_names(out, manifest), overwrite=overwrite)
    except OSError as error:
        raise _explained(error, out) from error


def _check_names(out: Path, names: Iterable[str], ours: set[str], *, overwrite: bool) -> None:
    """The first of ``names`` is the manifest's."""
    for place, name in enumerate(names):
        path = out / name
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path} is a folder: move it away, or give another --out.")
        if name in ours and not overwrite and place == 0:
            held = _CONTENT.get(name, "such files")
            raise OutputError(
                f"{out} already holds {held}: give another --out, or --overwrite to replace it."
            )
        if os.path.lexists(path) and name not in ours:
            raise OutputError(
                f"{path} exists and is not from mnv4-deploy, or was changed since: move it away, "
                "or give another --out."
            )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of ``out``, and put right what killed ones left there.

    Where the system has no file locks, only what certainly nobody uses any more is put right.
    """
    try:
        descriptor = hold(out)
    except BlockingIOError:
        raise OutputError(
            f"Another run is writing to {out}: wait for it, or give another --out."
        ) from None
    try:
        for staging in _leftovers(out):
            # The lock of a process goes with it, so whoever left these is dead.
            if descriptor is not None or is_abandoned(staging):
                _restore(staging, out)
                remove_own(staging)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _leftovers(out: Path) -> list[Path]:
    return [folder for folder in out.glob(f"{_STAGING}*") if is_own(folder)]


def _publish(staging: Path, out: Path, *, overwrite: bool, manifest: str) -> None:
    files = sorted((staging / _NEW).iterdir(), key=lambda path: path.name == manifest)
    names = [file.name for file in files]
    (staging / _KEPT).mkdir()
    for path in (*files, staging / _NEW):
        sync(path)
    journal = {file.name: file_sha256(file) for file in files}
    ours = _own_names(out, manifest)
    _check_names(out, reversed(names), ours, overwrite=overwrite)
    try:
        (staging / _JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
        for path in (staging / _JOURNAL, staging):
            sync(path)
        for name in sorted(ours, key=lambda name: name != manifest):
            (out / name).replace(staging / _KEPT / name)
        for file in files:
            file.replace(out / file.name)
        sync(out)
    except BaseException:
        # Also for Ctrl-C: the earlier files come back whole.
        _restore(staging, out)
        raise
    (staging / _JOURNAL).unlink()


def _restore(staging: Path, out: Path) -> None:
    """Undo a publication that did not come to its end; does nothing where there was none.

    It can itself be killed at any point, and be done again. Raises OutputError where somebody
    else has taken the name of an earlier file since.
    """
    journal = _read_journal(staging)
    new = staging / _NEW
    arrived = [name for name in journal if not (new / name).exists()]
    if not journal or len(arrived) == len(journal):  # nothing began, or all is there
        (staging / _JOURNAL).unlink(missing_ok=True)
        return
    for name in reversed(arrived):  # the manifest first
        if _is_file(out / name) and file_sha256(out / name) == journal[name]:
            (out / name).replace(new / name)
    manifests = set(_CONTENT)
    for file in sorted((staging / _KEPT).iterdir(), key=lambda path: path.name in manifests):
        if os.path.lexists(out / file.name):
            raise OutputError(
                f"{out / file.name} has taken the place of a file of an earlier run, which is now "
                f"{file}: move one of them away, and give the same command again."
            )
        file.replace(out / file.name)
    sync(out)
    (staging / _JOURNAL).unlink()


def _read_journal(staging: Path) -> dict[str, str]:
    """SHA-256 of each new file by name, in the order of renaming; empty before the first."""
    try:
        journal = json.loads((staging / _JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # killed while it was written
        return {}
    return dict(journal)


def _own_names(out: Path, manifest: str) -> set[str]:
    """The manifest in ``out``, if it is ours, and the files that it lists and nobody changed."""
    document = _read_manifest(out / manifest)
    if document is None:
        return set()
    files = document.get("files")
    ours = {manifest}
    for entry in files if isinstance(files, list) else ():
        name, digest = (
            (entry.get("file"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        )
        # A manifest is data: it must not be able to name anything outside its folder.
        if not isinstance(name, str) or not name or "\0" in name or Path(name).name != name:
            continue
        if _is_file(out / name) and file_sha256(out / name) == digest:
            ours.add(name)
    return ours


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest that this tool wrote; None for any other file of that name."""
    if not _is_file(path) or path.stat().st_size > _MAX_MANIFEST_BYTES:
        return None
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    tools = document.get("tools")
    # Earlier versions gave an export no schema, but its files their SHA-256.
    old = path.name == MANIFEST and isinstance(tools, dict) and "mnv4-deploy" in tools
    return document if document.get("schema") == schema_of(path.name) or old else None


def schema_of(manifest: str) -> str:
    """What the document ``manifest`` says to be known as ours."""
    return f"mnv4-deploy/{manifest.removesuffix('.json')}"


def _is_file(path: Path) -> bool:
    """Whether it is an ordinary file and no link, which nobody here has made."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _explained(error: OSError, out: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk of {out} or that of temporary files is full: free some space, or give "
            "another --out."
        )
    return OutputError(f"{out} cannot be written to ({error.strerror}): give another --out.")
