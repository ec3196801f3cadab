"""What is compared: a PyTorch network or a model file, with what is known of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.source import ModelSource
from mnv4_deploy.profiles.records.files import TensorFacts

ModelKind = Literal["torch", "onnx", "tflite"]


@dataclass(frozen=True)
class ModelRef:
    """Something that takes images: a PyTorch network, or a model file.

    ``path`` is the file's, "" for PyTorch; ``source`` is PyTorch's, None for a file. ``inputs``
    and ``outputs`` are the file's, with their scales. ``labels`` is empty where the class names
    are unknown, ``num_classes`` 0 where there are no classes. ``sha256`` is that of the file or
    of the checkpoint. ``calibration_sha256`` are the images a manifest beside the file says it
    was calibrated on. ``preprocessing_from`` says where ``preprocessing`` was found: "manifest",
    "file", "options" or "model". ``probabilities``: the file ends in a softmax. ``notes`` are
    sentences for the user, such as why a manifest beside the file was ignored.
    """

    kind: ModelKind
    name: str
    path: str
    preprocessing: Preprocessing
    preprocessing_from: str
    sha256: str
    size_bytes: int
    source: ModelSource | None = None
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    labels: tuple[str, ...] = ()
    num_classes: int = 0
    calibration_sha256: tuple[str, ...] = ()
    probabilities: bool = False
    notes: tuple[str, ...] = ()
