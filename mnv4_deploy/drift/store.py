"""Finished shards on disk, so that a run that was killed resumes where it was.

A folder a run, named after the hash of all that decides its results: what an earlier version,
or the same command on changed files, left behind is never taken for this run's. A file a shard,
that reaches its name whole; one that is damaged all the same counts as not there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mnv4_deploy.drift_records import ImageResults, Shard, ShardResult, SkippedImage
from mnv4_deploy.errors import OutputError
from mnv4_deploy.profiles.machine.cache import cache_folder

_IN_OUT = ".drift-shards"
_UNFINISHED = ".unfinished-"
_SKIPPED = "skipped"
_KEPT_SECONDS = 30 * 24 * 3600
_FIELDS = tuple(field.name for field in fields(ImageResults))


def store_folder(out: Path | None) -> Path:
    """Where runs keep their shards: hidden in ``out``, without it in the user's cache folder."""
    return out / _IN_OUT if out else cache_folder() / "drift"


@dataclass(frozen=True)
class ShardStore:
    """The finished shards of one run, in ``folder``."""

    folder: Path

    def load(self, shard: Shard) -> ShardResult | None:
        """What an earlier run made of ``shard``; None if it did not, or the file is damaged."""
        try:
            # Zip members carry checksums, and nothing is unpickled.
            with np.load(self._path(shard.index), allow_pickle=False) as file:
                arrays = {name: file[name] for name in _FIELDS}
                skipped = json.loads(file[_SKIPPED].tobytes())
            result = ShardResult(
                shard.index,
                ImageResults(**arrays),
                tuple(SkippedImage(**entry) for entry in skipped),
            )
            return result if _covers(result, shard) else None
        except Exception:  # damage takes any form, and the answer to each is to run it again
            return None

    def save(self, result: ShardResult) -> None:
        """Raises OutputError if the disk is full or the folder cannot be written."""
        arrays = {name: getattr(result.results, name) for name in _FIELDS}
        skipped = json.dumps([asdict(image) for image in result.skipped]).encode()
        arrays[_SKIPPED] = np.frombuffer(skipped, np.uint8)
        unfinished: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=self.folder, prefix=_UNFINISHED, delete=False
            ) as file:
                unfinished = Path(file.name)
                np.savez(file, allow_pickle=False, **arrays)
            unfinished.replace(self._path(result.index))
        except OSError as error:
            raise _explained(error, self.folder) from error
        finally:
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)

    def remove(self) -> None:
        """Away with all of it, and with the folder around it if that is empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}.npz"


@contextlib.contextmanager
def opened(base: Path, identity: str) -> Iterator[ShardStore]:
    """The store of the run ``identity`` in ``base``, held by this process alone.

    Raises OutputError if another run holds it, or if the folder cannot be written.
    """
    folder = base / identity[:32]
    try:
        descriptor = _hold(folder)
    except OSError as error:
        raise _explained(error, base) from error
    try:
        for left in folder.glob(f"{_UNFINISHED}*"):
            left.unlink(missing_ok=True)
        _forget_old(base)
        yield ShardStore(folder)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _hold(folder: Path) -> int | None:
    """Make and lock ``folder``; None where the system has no file locks."""
    try:
        import fcntl
    except ImportError:
        folder.mkdir(parents=True, exist_ok=True)
        return None
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # a run that ended removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(
                "Another run of the same comparison is at work on the same images: wait for it, "
                "or give this one another --out."
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # what we locked has been removed in between


def _forget_old(base: Path) -> None:
    """Remove what runs that were given up have left."""
    for folder in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _covers(result: ShardResult, shard: Shard) -> bool:
    """Whether every image has its row or its reason, and every array its rows."""
    rows = {len(getattr(result.results, name)) for name in _FIELDS}
    seen = [*result.results.index.tolist(), *(image.index for image in result.skipped)]
    wanted = range(shard.start, shard.start + len(shard.images))
    return len(rows) == 1 and sorted(seen) == list(wanted)


def _explained(error: OSError, folder: Path) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk of {folder} is full: free some space and give the same command again, "
            "which goes on from here."
        )
    return OutputError(
        f"Finished images cannot be kept in {folder} ({error.strerror}): give an --out folder "
        "that can be written, or set MNV4_DEPLOY_CACHE to one."
    )
