"""Float and int8 files of the planted network, one converted float file a format."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.ranges import RangeMethod
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite import io_types as tflite_io
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import open_folder, select
from mnv4_deploy.models.randomize import randomize
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import DATA
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.records import ModelRef
from tests.drift.planted.edit_onnx import OnnxEdit
from tests.drift.planted.edit_tflite import TfliteEdit
from tests.drift.planted.network import CLASSES, SIZE, PlantedNet
from tests.shared import Shared

SPEC = Preprocessing(SIZE, SIZE)
# Clips nothing that calibration sees, so that no layer but the planted one is clipped much.
_METHOD: RangeMethod = "minmax"
Edit = OnnxEdit | TfliteEdit
Pixels = npt.NDArray[np.uint8]
Inputs = npt.NDArray[np.float32]


@cache
def photographs(split: Literal["calibration", "evaluation"], count: int) -> Pixels:
    """``[count, 64, 64, 3]`` of the bundled photographs."""
    pixels = select(open_folder(DATA / "imagenet-cc-by" / split), count).pixels(SPEC)
    pixels.setflags(write=False)
    return pixels


@dataclass(frozen=True)
class Bench:
    """Where the files of one format are made. ``base`` is the float file without a defect,
    ``probabilities`` one that ends in a softmax of many classes.

    ``made`` keeps the float and the int8 file of each defect, for all tests that look at them.
    """

    format: Format
    folder: Path
    base: Path
    probabilities: Path
    calibration: Inputs
    made: dict[str, tuple[Path, Path]] = field(default_factory=dict)

    def edit(self, path: Path) -> Edit:
        return OnnxEdit(path) if self.format == "onnx" else TfliteEdit(path)

    def path(self, name: str, precision: str) -> Path:
        return self.folder / f"{name}-{precision}.{self.format}"

    def save(self, edited: Edit, name: str, precision: str) -> Path:
        path = self.path(name, precision)
        edited.write(path)
        return path

    def quantize(self, source: Path, name: str, inputs: Inputs | None = None) -> Path:
        """The int8 file of ``source``, calibrated on ``inputs``; it takes floats.

        ``inputs`` are what the network is fed, ``[N, H, W, 3]``; None: the usual photographs.
        """
        path = self.path(name, "int8")
        images = self.calibration if inputs is None else inputs
        if self.format == "onnx":
            batches = (image.transpose(2, 0, 1)[None] for image in images)
            quantize_onnx(source, path, batches, method=_METHOD)
            return path
        target = recipe("xnnpack")
        batches = (image[None] for image in images)
        quantize_tflite(source, path, batches, recipe=target, method=_METHOD)
        file = TfliteFile(path)
        tflite_io.set_input(file, "float", target.target)
        tflite_io.set_outputs(file, "float", target.target)
        file.write(path)
        return path

    def subject(self, path: Path) -> ModelRef:
        return ModelRef(
            kind=self.format,
            name=path.name,
            path=str(path),
            preprocessing=SPEC,
            preprocessing_from="options",
            labels=(),
            num_classes=CLASSES,
            sha256="",
            size_bytes=path.stat().st_size,
        )


def make_bench(format_: Format, folder: Path, shared: Shared) -> Bench:
    """Build the network with random weights and convert it; defects are planted in ``folder``."""
    names = f"base.{format_}", f"probabilities.{format_}"

    def convert(made: Path) -> None:
        for name, probabilities in zip(names, (False, True), strict=True):
            network = PlantedNet(probabilities=probabilities)
            randomize(network, 0, size=(SIZE, SIZE))
            export = export_onnx if format_ == "onnx" else export_tflite
            export(network, made / name, input_shape=(1, SIZE, SIZE))

    converted = shared.folder(f"planted-{format_}", convert)
    base, probabilities = (converted / name for name in names)
    inputs = normalize(photographs("calibration", 24), SPEC)
    return Bench(format_, folder, base, probabilities, inputs)
