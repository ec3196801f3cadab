"""Frozen records that pass between the stages. No heavy imports: a device can load this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """A model's own evaluation preprocessing, from an image file to its float input.

    Decode to RGB, resize so that the model sees the centre ``crop_pct`` of the shorter side
    (timm's ``crop_pct``), crop to ``height`` x ``width``, divide by 255, subtract ``mean``,
    divide by ``std``.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True)
class WeightsSource:
    """Where a model's weights came from, for the manifest."""

    kind: Literal["bundled", "timm", "file", "random"]
    name: str
    sha256: str | None = None
    revision: str | None = None
    note: str = ""


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a model file."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()


@dataclass(frozen=True)
class OperatorFacts:
    """One operator of a model file and where it runs.

    ``delegated`` is None where the question does not arise (onnxruntime). ``compute`` is the
    arithmetic the operator really runs in ("int8", "float32", ...), as far as it is known.
    """

    index: int
    kind: str
    name: str
    compute: str
    delegated: bool | None = None
    partition: int | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class FileFacts:
    """What ``inspect`` finds in a .tflite or .onnx file."""

    path: str
    format: Literal["tflite", "onnx"]
    size_bytes: int
    sha256: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: tuple[OperatorFacts, ...]
    weight_bytes_by_dtype: dict[str, int]
    metadata: dict[str, str] = field(default_factory=dict)
    partitions: int | None = None
    delegated_share: float | None = None
    notes: tuple[str, ...] = ()
