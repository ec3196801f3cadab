"""One shard: read, decode and run its images through both subjects, and keep what is needed.

Of every image the task keeps a few numbers; pixels and outputs go.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.errors import ImagesError, InputError
from mnv4_deploy.images.records import DatasetImage, Pixels, SkippedImage
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.sessions.open import LoadedModel, open_runner
from mnv4_deploy.sessions.outputs import paired
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.rows import ImageRows
from mnv4_deploy.tasks.task import Outputs, Task

_MAX_SKIPPED_SHARE, _MAX_SKIPPED = 0.05, 3
_NAMED = 4


@dataclass(frozen=True)
class _Decoded:
    """An image as the reference and the candidate take it: ``[height, width, 3]`` uint8."""

    index: int
    image: DatasetImage
    sha256: bytes
    reference: Pixels
    candidate: Pixels


class ShardRunner:
    """Both subjects of ``job``, loaded once for all shards that a process runs.

    ``load`` says where: several threads may ``run`` at once if what it gives can.
    """

    def __init__(
        self, job: ShardJob, load: Callable[[ModelRef], LoadedModel] = open_runner
    ) -> None:
        self._job = job
        self._reference = load(job.reference)
        self._candidate = load(job.candidate)
        # Images go in at the place in the batch that their index gives, whatever shard they
        # are in: so not even the order of summation depends on how the data set was cut.
        self._window = math.lcm(self._reference.batch, self._candidate.batch)

    def run(self, shard: Shard) -> ShardResult:
        """Results of the images that decode; the others are named with the reason.

        Raises ImagesError for an image that a subject was calibrated on, InputError where a
        subject gives outputs that are not finite.
        """
        skipped: list[SkippedImage] = []
        parts = []
        decoded = self._decoded(shard, skipped)
        for _, group in itertools.groupby(decoded, key=lambda item: item.index // self._window):
            parts.append(self._compared(list(group)))
        return ShardResult(shard.index, ImageRows.joined(parts), tuple(skipped))

    def _decoded(self, shard: Shard, skipped: list[SkippedImage]) -> Iterator[_Decoded]:
        from mnv4_deploy.images.sets import MAX_BYTES, defect_of

        for index, image in enumerate(shard.images, shard.start):
            try:
                data = read_regular(image.path, max_bytes=MAX_BYTES)
            except OSError as error:
                skipped.append(SkippedImage(index, image.name, defect_of(error)))
                continue
            digest = hashlib.sha256(data)
            self._check_unseen(image, digest.hexdigest())
            specs = (self._job.reference.preprocessing, self._job.candidate.preprocessing)
            try:
                pixels = _decode(data, specs, self._job.task)
            except (OSError, ValueError) as error:
                skipped.append(SkippedImage(index, image.name, defect_of(error)))
                continue
            yield _Decoded(index, image, digest.digest(), *pixels)

    def _check_unseen(self, image: DatasetImage, sha256: str) -> None:
        for subject in (self._job.reference, self._job.candidate):
            if sha256 in subject.calibration_sha256:
                raise ImagesError(
                    f"{image.name!r} is among the images {subject.name} was calibrated on: a "
                    "result on them means nothing, so give other images."
                )

    def _compared(self, group: list[_Decoded]) -> ImageRows:
        """Images of one window; places of the batch that none of them takes are filled up."""
        places = [item.index % self._window for item in group]
        reference = [item.reference for item in group]
        candidate = [item.candidate for item in group]
        r = _outputs(self._reference, reference, places, self._window)
        c = _outputs(self._candidate, candidate, places, self._window)
        subjects = self._job.reference, self._job.candidate
        for subject, outputs in zip(subjects, (r, c), strict=True):
            _check_finite(subject, outputs, group)
        digests = np.frombuffer(b"".join(item.sha256 for item in group), np.uint8)
        truth = [item.image.truth for item in group]
        return ImageRows(
            index=np.array([item.index for item in group], np.int64),
            sha256=digests.reshape(len(group), -1),
            columns=self._job.task.columns(r, paired(r, c), truth, subjects),
        )


def _decode(
    data: bytes, specs: tuple[Preprocessing, Preprocessing], task: Task
) -> tuple[Pixels, Pixels]:
    """One image's pixels for both, resized twice only where the two differ in that."""
    from mnv4_deploy.images.decode import opened_image
    from mnv4_deploy.images.sets import EMPTY

    if not data:
        raise ValueError(EMPTY)
    mine, theirs = specs
    with opened_image(io.BytesIO(data)) as image:
        pixels = task.prepare(image, mine)
    if _geometry(mine) == _geometry(theirs):
        return pixels, pixels
    with opened_image(io.BytesIO(data)) as image:
        return pixels, task.prepare(image, theirs)


def _geometry(spec: Preprocessing) -> tuple[object, ...]:
    return spec.height, spec.width, spec.crop_pct, spec.interpolation


def _outputs(runner: LoadedModel, images: list[Pixels], places: list[int], window: int) -> Outputs:
    filled = np.stack([images[0]] * window)
    filled[places] = images
    return {name: values[places] for name, values in runner.outputs(filled).items()}


def _check_finite(subject: ModelRef, outputs: Outputs, group: list[_Decoded]) -> None:
    for values in outputs.values():
        for item, row in zip(group, values, strict=True):
            if not np.isfinite(row).all():
                raise InputError(
                    f"{subject.name} gives outputs that are not finite for {item.image.name!r}: "
                    "check its weights, and --mean and --std."
                )


def too_many_skipped(skipped: Sequence[SkippedImage], total: int) -> None:
    """Raise ImagesError if more than 5 % (and more than 3) of ``total`` images were skipped."""
    if len(skipped) <= max(_MAX_SKIPPED, _MAX_SKIPPED_SHARE * total):
        return
    named = ", ".join(f"{image.name!r}: {image.reason}" for image in skipped[:_NAMED])
    more = f", and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    raise ImagesError(
        f"{len(skipped)} of {total} images cannot be used ({named}{more}): mend or remove them."
    )
