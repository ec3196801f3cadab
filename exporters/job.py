"""What the makers of files know about an export: the same record for every format."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.images.sets import SelectedImages
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.profiles.machine.cpu import may_saturate, read_cpu
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.feed import batches
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.sessions.outputs import CHANNELS_FIRST

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

    @property
    def whole_range(self) -> frozenset[str]:
        """The outputs whose ranges int8 must not clip."""
        return frozenset(output.name for output in self.reference.outputs if output.whole_range)

    def run(self, path: Path, images: Pixels) -> dict[str, npt.NDArray[Any]]:
        """Outputs of a file for 0..255 RGB ``[N, H, W, 3]``, in PyTorch's order of axes.

        .onnx files for processors that add int8 products exactly are not fused into the int8
        kernels of one that does not: they give here what they give there.
        """
        fused = path.suffix != ".onnx" or not self._saturates_here
        found = open_image_runner(path, self.spec, fused=fused).outputs(images)
        if path.suffix == ".tflite":
            for output in self.reference.outputs:
                if output.is_map:
                    found[output.name] = found[output.name].transpose(CHANNELS_FIRST)
        return found

    @cached_property
    def _saturates_here(self) -> bool:
        full = self.request.targets.weights("onnx") == "full"
        return full and may_saturate(platform.machine(), read_cpu().isa)

    def calibration_sample(self, count: int) -> Pixels:
        """The first ``count`` calibration images (all, if fewer): 0..255 RGB ``[N, H, W, 3]``."""
        assert self.calibration is not None
        first = dataclasses.replace(self.calibration, refs=self.calibration.refs[:count])
        return first.pixels(self.spec, self.request.task.prepare)

    def calibration_pixels(self) -> Iterator[Pixels]:
        """Full batches ``[B, H, W, 3]`` of 0..255 RGB."""
        assert self.calibration is not None
        images = self.calibration.pixels(self.spec, self.request.task.prepare)
        for chunk, _ in batches(images, self.request.batch):
            yield chunk

    def calibration_inputs(self) -> Iterator[npt.NDArray[np.float32]]:
        """The same, normalised."""
        for chunk in self.calibration_pixels():
            yield normalize(chunk, self.spec)

    def description(self, precision: str) -> dict[str, Any]:
        """What a file says about itself in its metadata."""
        return {
            "model": self.request.source.name,
            "precision": precision,
            "preprocessing": dataclasses.asdict(self.spec),
            "input": "uint8 RGB pixels" if self.request.bake_preprocess else "normalised RGB",
            "labels": list(self.reference.labels),
            "weights": dataclasses.asdict(self.reference.source),
            "tools": self.tools,
        }
