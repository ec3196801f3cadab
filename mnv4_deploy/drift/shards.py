"""A data set in pieces: how it is cut, what identifies a run, how results join again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mnv4_deploy.drift.environment import versions
from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.images.records import Dataset, SkippedImage
from mnv4_deploy.profiles.isolated import name_of
from mnv4_deploy.tasks.rows import ImageRows

SHARD_SIZE = 256
_SMALLEST = 8
_PIECES = 128


@dataclass(frozen=True)
class FileState:
    """Size and time of last change (ns) of an image file, -1 where there is none."""

    size_bytes: int
    changed_ns: int


def usual_shard_size(images: int) -> int:
    """Images a shard: 256, fewer where there would be too few shards to share out.

    It depends on nothing but the number of images, so that a run that is taken up again with
    another number of workers still finds its shards.
    """
    return min(SHARD_SIZE, max(_SMALLEST, images // _PIECES))


def cut(dataset: Dataset, size: int | None = None) -> tuple[Shard, ...]:
    """Consecutive shards of ``size`` images (None: the usual); the last may be smaller."""
    images = dataset.images
    size = size or usual_shard_size(len(images))
    return tuple(
        Shard(index, start, images[start : start + size])
        for index, start in enumerate(range(0, len(images), size))
    )


def file_states(dataset: Dataset) -> tuple[FileState, ...]:
    """Of every image, in order."""
    return tuple(_state(image.path) for image in dataset.images)


def identity(
    job: ShardJob,
    dataset: Dataset,
    states: Sequence[FileState],
    size: int,
    processors: Iterable[str],
) -> str:
    """SHA-256 over all that decides the results; where the files lie does not.

    The task, both subjects, the images' names, right answers, sizes and times of change, the size
    of a shard, the versions of this package and of the runtimes, the processors that do the work.
    """
    subjects = (job.reference, job.candidate)
    facts = [
        name_of(type(job.task)),
        [asdict(replace(subject, path="")) for subject in subjects],
        versions(subject.kind for subject in subjects),
        sorted(processors),
        size,
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for image, state in zip(dataset.images, states, strict=True):
        entry = [image.name, image.truth, state.size_bytes, state.changed_ns]
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def joined(
    results: Iterable[ShardResult],
) -> tuple[ImageRows, tuple[SkippedImage, ...]]:
    """All rows and all skipped images by rising index. Raises ValueError without a shard."""
    ordered = sorted(results, key=lambda result: result.index)
    if not ordered:
        raise ValueError("there are no shards to join")
    skipped = tuple(image for result in ordered for image in result.skipped)
    return ImageRows.joined(result.rows for result in ordered), skipped


def describe(shard: Shard) -> str:
    """ "images 512 to 767 (a/1.jpg … b/9.jpg)", for messages."""
    last = shard.start + len(shard.images) - 1
    if len(shard.images) == 1:
        return f"image {shard.start} ({shard.images[0].name!r})"
    return f"images {shard.start} to {last} ({shard.images[0].name!r} … {shard.images[-1].name!r})"


def _state(path: str) -> FileState:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return FileState(-1, -1)
    return FileState(status.st_size, status.st_mtime_ns)
