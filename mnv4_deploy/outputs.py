"""Files reach their final names whole or not at all.

Everything is written to a hidden folder beside the destination and renamed when all of it is
there. The manifest leaves first and arrives last: a folder without one is not a finished export.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mnv4_deploy.errors import OutputError

MANIFEST = "manifest.json"


@contextlib.contextmanager
def staged(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write to; on success its files move into ``out``, on failure they go.

    With ``overwrite`` the files that an earlier manifest lists are replaced or removed; other
    files in ``out`` are never touched. Raises OutputError if ``out`` holds an export and
    ``overwrite`` is not given, is not a folder, cannot be written to, or the disk is full.
    """
    check_free(out, overwrite=overwrite)
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".mnv4-deploy-", dir=out))
    except OSError as error:
        raise _explained(error, out) from error
    try:
        yield staging
        _publish(staging, out, overwrite=overwrite)
    except OSError as error:
        raise _explained(error, out) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                out.rmdir()  # only succeeds while nothing was published


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where ``out`` could not receive an export."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give a folder as --out.")
    if (out / MANIFEST).exists() and not overwrite:
        raise OutputError(
            f"{out} already holds an export: give another --out, or --overwrite to replace it."
        )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(staging: Path, out: Path, *, overwrite: bool) -> None:
    check_free(out, overwrite=overwrite)
    files = sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST)
    old = _listed(out)
    clashes = [f.name for f in files if (out / f.name).exists() and f.name not in old]
    if clashes and not overwrite:
        raise OutputError(
            f"{out / clashes[0]} exists and is not from an earlier export: move it away, or give "
            "--overwrite."
        )
    with contextlib.suppress(FileNotFoundError):
        (out / MANIFEST).unlink()
    for name in old - {file.name for file in files}:
        with contextlib.suppress(FileNotFoundError):
            (out / name).unlink()
    for file in files:
        os.replace(file, out / file.name)


def _listed(out: Path) -> set[str]:
    """Names of the files that an earlier export in ``out`` wrote."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        names = {str(entry["file"]) for entry in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {MANIFEST}
    # A manifest is data: it must not be able to name anything outside its folder.
    return {name for name in names if Path(name).name == name} | {MANIFEST}


def _explained(error: OSError, out: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"The disk of {out} is full: free some space or give another --out.")
    return OutputError(f"{out} cannot be written to ({error.strerror}): give another --out.")
