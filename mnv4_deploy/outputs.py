"""Files reach their final names whole or not at all.

Everything is written to a hidden folder inside the destination and renamed when all of it is
there. The manifest leaves first and arrives last: a folder without one is not finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnv4_deploy.errors import OutputError

MANIFEST = "manifest.json"
_STAGING = ".mnv4-deploy-"
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

    With ``overwrite`` the files that an earlier manifest lists are replaced or removed, and a
    file that has the name of a new one is replaced; other files in ``out`` are never touched.
    ``manifest`` is the name of the file whose ``files`` list what belongs together, so that one
    folder can hold the outputs of several commands.
    Raises OutputError if ``out`` holds such files and ``overwrite`` is not given, is not a
    folder, cannot be written to, is in use by another run, or the disk is full.
    """
    check_free(out, overwrite=overwrite, manifest=manifest)
    created: list[Path] = []
    try:
        created += [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
            try:
                yield staging
                _publish(staging, out, overwrite=overwrite, manifest=manifest)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise _explained(error, out) from error
    finally:
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only succeeds while nothing was published


def check_free(
    out: Path, *, overwrite: bool, names: Iterable[str] = (), manifest: str = MANIFEST
) -> None:
    """Raise OutputError where ``out`` could not receive files with these names."""
    try:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file: give a folder as --out.")
        if (out / manifest).exists() and not overwrite:
            held = _CONTENT.get(manifest, "such files")
            raise OutputError(
                f"{out} already holds {held}: give another --out, or --overwrite to replace it."
            )
        for path in (out / name for name in (*names, manifest)):
            if path.is_dir():
                raise OutputError(f"{path} is a folder: move it away, or give another --out.")
            if path.exists() and not overwrite:
                raise OutputError(
                    f"{path} exists and is not from a finished run: move it away, or give "
                    "--overwrite to replace it."
                )
    except OSError as error:
        raise _explained(error, out) from error


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other runs out of ``out``, and remove what killed ones left there.

    Where the system has no file locks nothing is locked and nothing removed.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another run is writing to {out}: wait for it, or give another --out."
            ) from None
        except OSError:
            yield
            return
        # The lock of a process goes with it, so whoever left these is dead.
        for stale in out.glob(f"{_STAGING}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        os.close(folder)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(staging: Path, out: Path, *, overwrite: bool, manifest: str) -> None:
    files = sorted(staging.iterdir(), key=lambda path: path.name == manifest)
    names = [file.name for file in files]
    check_free(out, overwrite=overwrite, names=names, manifest=manifest)
    kept = Path(tempfile.mkdtemp(dir=staging))
    replaced = sorted(_listed(out / manifest).union(names), key=lambda name: name != manifest)
    try:
        for name in replaced:
            if (out / name).is_file():
                (out / name).replace(kept / name)
        for file in files:
            file.replace(out / file.name)
    except BaseException:
        # Also for Ctrl-C: the earlier export comes back whole.
        for file in files:
            if not file.exists():
                (out / file.name).unlink(missing_ok=True)
        for file in sorted(kept.iterdir(), key=lambda path: path.name == manifest):
            file.replace(out / file.name)
        raise


def _listed(manifest: Path) -> set[str]:
    """Names of the files that an earlier run beside ``manifest`` wrote."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        names = {str(entry["file"]) for entry in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {manifest.name}
    # A manifest is data: it must not be able to name anything outside its folder.
    return {name for name in names if Path(name).name == name} | {manifest.name}


def _explained(error: OSError, out: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk of {out} or that of temporary files is full: free some space, or give "
            "another --out."
        )
    return OutputError(f"{out} cannot be written to ({error.strerror}): give another --out.")
