"""What the makers of files know about an export: the same record for every format."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.records import ExportRequest, Format
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import SelectedImages
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.sessions import image_runner as run_artifact

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_parallel(task: Callable[[_T], _R], items: Sequence[_T]) -> tuple[_R, ...]:
    """Two at a time, one core each: native code holds no lock of Python's."""
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(task, items))


@dataclass(frozen=True)
class FileJob:
    """``folder`` receives the files, ``work`` what they are made of.

    ``calibration`` is None where nothing is quantized. ``float_modules`` are those of the
    rewritten network of each format that int8 files keep in float.
    """

    request: ExportRequest
    reference: ReferenceModel
    calibration: SelectedImages | None
    folder: Path
    work: Path
    tools: dict[str, str]
    float_modules: Mapping[Format, tuple[str, ...]] = field(default_factory=dict)

    @property
    def spec(self) -> Preprocessing:
        return self.reference.preprocessing

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Batch, height, width."""
        return self.request.batch, self.spec.height, self.spec.width

    def path(self, format_: Format, precision: str) -> Path:
        return self.folder / self.request.file_name(format_, precision)

    def source(self, format_: Format) -> Path:
        """What the files of one format are made of: the rewritten model as it was converted."""
        return self.work / f"source.{format_}"

    def run(self, path: Path, shown: run_artifact.Pixels) -> run_artifact.Outputs:
        """Outputs of one of the files for 0..255 RGB images ``[N, H, W, 3]``."""
        return run_artifact.RUNNERS[path.suffix[1:]](path, self.spec).run(shown)

    def calibration_sample(self, count: int) -> run_artifact.Pixels:
        """The first ``count`` calibration images (all, if fewer): 0..255 RGB ``[N, H, W, 3]``."""
        assert self.calibration is not None
        first = dataclasses.replace(self.calibration, refs=self.calibration.refs[:count])
        return run_artifact.pixels(first, self.spec)

    def calibration_pixels(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Full batches ``[B, H, W, 3]`` of 0..255 RGB."""
        assert self.calibration is not None
        shown = run_artifact.pixels(self.calibration, self.spec)
        for chunk, _ in run_artifact.chunks(shown, self.request.batch):
            yield chunk

    def calibration_inputs(self) -> Iterator[npt.NDArray[np.float32]]:
        """The same, normalised."""
        for chunk in self.calibration_pixels():
            yield normalize(chunk, self.spec)

    def description(self, precision: str) -> dict[str, Any]:
        """What a file says about itself in its metadata."""
        return {
            "model": self.request.model,
            "precision": precision,
            "preprocessing": dataclasses.asdict(self.spec),
            "input": "uint8 RGB pixels" if self.request.bake_preprocess else "normalised RGB",
            "labels": list(self.reference.labels),
            "weights": dataclasses.asdict(self.reference.source),
            "tools": self.tools,
        }
