"""What is compared: a network of the zoo or a model file, with what is known of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.models.records import Preprocessing

ModelKind = Literal["torch", "onnx", "tflite"]


@dataclass(frozen=True)
class ModelRef:
    """Something that classifies images: a PyTorch model by name, or a model file.

    ``path`` is the file's, "" for PyTorch; ``model`` and ``weights`` are PyTorch's (``weights``
    as ``export --weights`` takes it), "" for a file. ``labels`` is empty where the class names
    are unknown. ``sha256`` is that of the file or of the checkpoint. ``calibration_sha256`` are
    the images a manifest beside the file says it was calibrated on. ``preprocessing_from`` says
    where ``preprocessing`` was found: "manifest", "file", "options" or "model".
    ``probabilities``: the file ends in a softmax. ``notes`` are sentences for the user, such as
    why a manifest beside the file was ignored.
    """

    kind: ModelKind
    name: str
    path: str
    model: str
    weights: str
    preprocessing: Preprocessing
    preprocessing_from: str
    labels: tuple[str, ...]
    num_classes: int
    sha256: str
    size_bytes: int
    calibration_sha256: tuple[str, ...] = ()
    probabilities: bool = False
    notes: tuple[str, ...] = ()
