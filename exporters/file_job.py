"""What the makers of files know about an export: the same record for every format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.export_records import ExportRequest, Format
from mnv4_deploy.exporters import run_artifact
from mnv4_deploy.models.images import SelectedImages
from mnv4_deploy.models.preprocessing import normalize
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.records import Preprocessing


@dataclass(frozen=True)
class FileJob:
    """``folder`` receives the files; ``calibration`` is None where nothing is quantized."""

    request: ExportRequest
    reference: ReferenceModel
    calibration: SelectedImages | None
    folder: Path
    tools: dict[str, str]

    @property
    def spec(self) -> Preprocessing:
        return self.reference.preprocessing

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Batch, height, width."""
        return self.request.batch, self.spec.height, self.spec.width

    def path(self, format_: Format, precision: str) -> Path:
        return self.folder / self.request.file_name(format_, precision)

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
