"""The images that int8 files are judged on, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.exporters.records import Drift
from mnv4_deploy.images.records import DatasetImage, Pixels
from mnv4_deploy.images.sets import ImageSource
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.sessions.outputs import Outputs, paired
from mnv4_deploy.tasks.rows import ImageRows
from mnv4_deploy.tasks.task import Task


@dataclass(frozen=True)
class Evaluation:
    """``pixels`` ``[N, H, W, 3]`` are those of ``images``, as the reference sees them."""

    task: Task
    reference: ReferenceModel
    source: ImageSource
    images: tuple[DatasetImage, ...]
    pixels: Pixels

    @property
    def labelled(self) -> bool:
        return any(image.truth is not None for image in self.images)

    def drift(self, subject: str, actual: Outputs, fp32: Outputs) -> Drift:
        """``actual`` against ``fp32``, the outputs of two files for all images."""
        task, count = self.task, len(self.images)
        truth = [image.truth for image in self.images]
        columns = task.columns(fp32, paired(fp32, actual), truth, (self.reference, self.reference))
        hashes = np.zeros((count, hashlib.sha256().digest_size), np.uint8)
        rows = ImageRows(np.arange(count), hashes, columns)
        summary = task.summarise(rows, self.images, self.reference.labels)
        return Drift(
            subject,
            count,
            summary.labelled,
            dict(task.figures(summary)),
            task.chance(summary),
            task.interval(summary),
        )
