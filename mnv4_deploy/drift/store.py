"""Finished shards on disk, so that a run that was killed resumes where it was.

A folder a run, named after the hash of all that decides its results: what an earlier version,
or the same command on changed files, left behind is never taken for this run's. A file a shard,
that reaches its name whole; one that is damaged all the same, was written by another run, or is of
images that have other bytes now (whatever their size and date) counts as not there.

What runs that were given up have left is removed after a while: folders with such a name and our
mark in them, and of these only the files that we wrote.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.drift.records import Shard, ShardResult
from mnv4_deploy.errors import OutputError
from mnv4_deploy.images.records import SkippedImage
from mnv4_deploy.images.sets import MAX_BYTES
from mnv4_deploy.profiles.files.lock import hold
from mnv4_deploy.profiles.files.regular import open_regular, pieces
from mnv4_deploy.profiles.files.whole import replace_whole
from mnv4_deploy.profiles.machine.cache import cache_folder
from mnv4_deploy.tasks.rows import ImageRows

_IN_OUT = ".mnv4-deploy-drift"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_MARK = "drift-shards.json"
_MARK_TEXT = '{"tool": "mnv4-deploy", "content": "finished images of drift"}'
_SHARD = re.compile(r"[0-9]{6,}\.npz")
# What a run left that was killed while it wrote a shard.
_UNFINISHED = re.compile(r"\.[0-9]{6,}\.npz\..*")
_FACTS, _SEAL = "facts", "seal"
_KEPT_SECONDS = 30 * 24 * 3600
# Before the names of a task's columns, so that none of them is taken for ours.
_COLUMN = "column "


def store_folder(out: Path | None) -> Path:
    """Where runs keep their shards: hidden in ``out``, without it in the user's cache folder."""
    return out / _IN_OUT if out else cache_folder() / "drift"


@dataclass(frozen=True)
class ShardStore:
    """The finished shards of the run ``identity``, in ``folder``."""

    folder: Path
    identity: str

    def load(self, shard: Shard) -> ShardResult | None:
        """What an earlier run made of ``shard``; None if it did not, or the file is damaged."""
        try:
            # Zip members carry checksums, and nothing is unpickled.
            with np.load(self._path(shard.index), allow_pickle=False) as file:
                # By the names that were written: damage may change the name of a member.
                names, skipped, images = json.loads(file[_FACTS].tobytes())
                columns = {name: file[f"{_COLUMN}{name}"] for name in names}
                rows = ImageRows(file["index"], file["sha256"], columns)
                sealed = file[_SEAL].tobytes()
            result = ShardResult(
                shard.index,
                rows,
                tuple(SkippedImage(**entry) for entry in skipped),
            )
            if sealed != self._seal(_arrays(result, images)) or not _covers(result, shard):
                return None
            return result if images == _sums(shard) else None
        except Exception:  # damage takes any form, and the answer to each is to run it again
            return None

    def save(self, shard: Shard, result: ShardResult) -> None:
        """Raises OutputError if the disk is full or the folder cannot be written."""
        arrays = _arrays(result, _sums(shard, result))
        arrays[_SEAL] = np.frombuffer(self._seal(arrays), np.uint8)
        content = io.BytesIO()
        try:
            np.savez(content, allow_pickle=False, **arrays)
            replace_whole(self._path(result.index), content.getvalue())
        except OSError as error:
            raise _explained(error, self.folder) from error

    def _seal(self, arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
        """A hash over all of a shard, and whose it is."""
        digest = hashlib.sha256(self.identity.encode())
        for name, values in sorted(arrays.items()):
            digest.update(f"\0{name}\0{values.dtype.str}{values.shape}\0".encode())
            digest.update(values.tobytes())
        return digest.digest()

    def kept(self, shards: Iterable[Shard]) -> int:
        """How many images of ``shards`` are in finished ones."""
        return sum(len(s.images) for s in shards if self._path(s.index).exists())

    def remove(self) -> None:
        """Away with all of it, and with the folder around it if that is empty then."""
        _remove_run(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}.npz"


@contextlib.contextmanager
def opened(base: Path, identity: str) -> Iterator[ShardStore]:
    """The store of the run ``identity`` in ``base``, held by this process alone.

    A store in which nothing is kept in the end goes, and the folders that were made for it.
    Raises OutputError if another run holds it, or if the folder cannot be written.
    """
    folder = base / identity[:32]
    created = [parent for parent in (base, *base.parents) if not parent.exists()]
    try:
        descriptor = _hold(folder)
    except OSError as error:
        raise _explained(error, base) from error
    store = ShardStore(folder, identity)
    try:
        try:
            (folder / _MARK).write_text(_MARK_TEXT, encoding="ascii")
        except OSError as error:
            raise _explained(error, base) from error
        _remove_files(folder, _UNFINISHED)
        forget(base, after_s=_KEPT_SECONDS, but=folder)
        yield store
    finally:
        if not any(_SHARD.fullmatch(path.name) for path in _listed(folder)):
            store.remove()
            for parent in created:
                with contextlib.suppress(OSError):
                    parent.rmdir()  # only succeeds while it is empty
        if descriptor is not None:
            os.close(descriptor)


def _hold(folder: Path) -> int | None:
    """Make and lock ``folder``; None where the system has no file locks."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = hold(folder)
        except FileNotFoundError:  # a run that ended removed it
            continue
        except BlockingIOError:
            raise OutputError(
                "Another run of the same comparison is at work on the same images: wait for it, "
                "or give this one another --out."
            ) from None
        if descriptor is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # what we locked has been removed in between


def kept_runs(base: Path) -> Iterator[Path]:
    """The folders of runs in ``base`` that we made."""
    for folder in _listed(base):
        with contextlib.suppress(OSError):
            if _is_ours(folder):
                yield folder


def forget(base: Path, *, after_s: float = 0, but: Path | None = None) -> None:
    """Remove what runs have left in ``base`` for ``after_s``, and nothing else there.

    What a run is at work in stays, as does ``but``.
    """
    for folder in kept_runs(base):
        with contextlib.suppress(OSError):
            if folder != but and time.time() - folder.stat().st_mtime >= after_s:
                descriptor = hold(folder)
                _remove_run(folder)
                if descriptor is not None:
                    os.close(descriptor)


def _is_ours(folder: Path) -> bool:
    mark = folder / _MARK
    return (
        _FOLDER.fullmatch(folder.name) is not None
        and not folder.is_symlink()
        and mark.is_file()
        and mark.read_bytes() == _MARK_TEXT.encode()
    )


def _remove_run(folder: Path) -> None:
    """Remove what is ours in ``folder``, and itself if nothing else is in it."""
    for name in (_UNFINISHED, _SHARD, re.compile(re.escape(_MARK))):
        _remove_files(folder, name)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_files(folder: Path, name: re.Pattern[str]) -> None:
    for path in _listed(folder):
        if name.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _arrays(result: ShardResult, images: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """What is kept of a shard, by name; ``images`` are the sums of its images' bytes."""
    facts = [list(result.rows.columns), [asdict(image) for image in result.skipped], [*images]]
    return {
        "index": result.rows.index,
        "sha256": result.rows.sha256,
        **{f"{_COLUMN}{name}": values for name, values in result.rows.columns.items()},
        _FACTS: np.frombuffer(json.dumps(facts).encode(), np.uint8),
    }


def _sums(shard: Shard, result: ShardResult | None = None) -> list[str]:
    """SHA-256 of every image of ``shard`` as it is now, "" where it cannot be read.

    ``result`` knows those of the images that were decoded.
    """
    known: dict[int, str] = {}
    if result is not None:
        pairs = zip(result.rows.index.tolist(), result.rows.sha256, strict=True)
        known = {index: digest.tobytes().hex() for index, digest in pairs}
    return [known.get(i) or _sum(image.path) for i, image in enumerate(shard.images, shard.start)]


def _sum(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(path, max_bytes=MAX_BYTES) as file:
            for piece in pieces(file):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()


def _covers(result: ShardResult, shard: Shard) -> bool:
    """Whether every image has its row or its reason, and every array its rows."""
    rows = result.rows
    whole = all(len(values) == len(rows) for values in (rows.sha256, *rows.columns.values()))
    seen = [*rows.index.tolist(), *(image.index for image in result.skipped)]
    wanted = range(shard.start, shard.start + len(shard.images))
    return whole and sorted(seen) == list(wanted)


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
