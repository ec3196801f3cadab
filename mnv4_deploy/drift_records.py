"""Frozen records of ``drift``: what is compared, what came of each image, of each layer, and why.

No torch and no runtime: these travel to worker processes and to other machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mnv4_deploy.device_records import DeviceFacts, DeviceOptions
from mnv4_deploy.layer_drift_records import LayersDrift
from mnv4_deploy.records import Preprocessing

SubjectKind = Literal["torch", "onnx", "tflite"]
TOP = 5


@dataclass(frozen=True)
class Subject:
    """Something that classifies images: a PyTorch model by name, or a model file.

    ``path`` is the file's, "" for PyTorch; ``model`` and ``weights`` are PyTorch's (``weights``
    as ``export --weights`` takes it), "" for a file. ``labels`` is empty where the class names
    are unknown. ``sha256`` is that of the file or of the checkpoint. ``calibration_sha256`` are
    the images a manifest beside the file says it was calibrated on. ``preprocessing_from`` says
    where ``preprocessing`` was found: "manifest", "file", "options" or "model".
    ``probabilities``: the file ends in a softmax. ``notes`` are sentences for the user, such as
    why a manifest beside the file was ignored.
    """

    kind: SubjectKind
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


@dataclass(frozen=True)
class DatasetImage:
    """An image that was found but not opened. ``name`` is relative to the data set's folder.

    ``label`` is the class index, None where it is unknown.
    """

    path: str
    name: str
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Images in the order they will be used; ``labelled`` if any has a label."""

    name: str
    root: str
    images: tuple[DatasetImage, ...]

    @property
    def labelled(self) -> bool:
        return any(image.label is not None for image in self.images)


@dataclass(frozen=True)
class ShardJob:
    """What a worker process needs to know once; the same for every shard of a run."""

    reference: Subject
    candidate: Subject


@dataclass(frozen=True)
class Shard:
    """A consecutive piece of the data set. ``start`` is the index of its first image."""

    index: int
    start: int
    images: tuple[DatasetImage, ...]


@dataclass(frozen=True)
class SkippedImage:
    """A file that could not be used, and why. ``index`` is its place in the data set."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class ImageResults:
    """What two subjects made of N images: arrays with one row an image, by rising ``index``.

    Of the outputs (logits) r of the reference and c of the candidate, float64 throughout:
    ``signal`` sum r^2, ``noise`` sum (r - c)^2, ``cosine`` of r and c, ``kl`` the divergence
    KL(softmax r || softmax c) in nats. ``top`` are the five (or all, if fewer) classes with the
    largest outputs, best first, ties to the lower class; ``label`` is -1 where unknown.
    ``sha256`` is of the image file's bytes, as 32 bytes.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    reference_top: npt.NDArray[np.int32]
    candidate_top: npt.NDArray[np.int32]
    signal: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    cosine: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    sha256: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, parts: Iterable[ImageResults]) -> ImageResults:
        """The rows of all ``parts`` in that order. Raises ValueError without a part."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True)
class ShardResult:
    """One shard done."""

    index: int
    results: ImageResults
    skipped: tuple[SkippedImage, ...]


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``total`` with its 95 % confidence interval (Wilson 1927), in percent."""

    count: int
    total: int
    percent: float
    low_percent: float
    high_percent: float


@dataclass(frozen=True)
class Accuracy:
    """Of one subject, on the images with labels. ``top5`` is None with five classes or fewer."""

    top1: Proportion
    top5: Proportion | None


@dataclass(frozen=True)
class Flips:
    """Right and wrong answers of the two, image by image.

    ``p_value`` is McNemar's exact test (two-sided binomial) of ``lost`` against ``gained``: how
    likely so uneven a split is if quantization neither helped nor hurt.
    """

    both_right: int
    lost: int
    gained: int
    both_wrong: int
    p_value: float


@dataclass(frozen=True)
class ClassChange:
    """One class: accuracy of both in percent, and where the candidate's new errors go."""

    label: int
    name: str
    images: int
    reference_top1: float
    candidate_top1: float
    lost: int
    gained: int
    mistaken_for: str


@dataclass(frozen=True)
class ImageChange:
    """One of the images that changed most; classes are indices, ``label`` None if unknown."""

    index: int
    name: str
    path: str
    label: int | None
    reference_class: int
    candidate_class: int
    sqnr_db: float
    kl: float


@dataclass(frozen=True)
class OutputDrift:
    """What quantization cost at the output, over all images.

    Accuracies, flips and classes are None or empty without labels. ``top1_drop`` is in points
    with a 95 % interval (Newcombe's for paired proportions). ``sqnr_db`` is over all outputs
    together, ``median_sqnr_db`` the median over images; ``cosine`` and ``kl`` are means over
    images, ``worst`` the images with the largest KL, worst first.
    """

    images: int
    labelled: int
    reference: Accuracy | None
    candidate: Accuracy | None
    top1_drop: float | None
    top1_drop_low: float | None
    top1_drop_high: float | None
    top5_drop: float | None
    agreement: Proportion
    flips: Flips | None
    sqnr_db: float
    median_sqnr_db: float
    cosine: float
    kl: float
    worst: tuple[ImageChange, ...]
    classes: tuple[ClassChange, ...]


@dataclass(frozen=True)
class DriftRequest:
    """What ``drift`` is asked for. ``reference`` and ``candidate`` are files or model names.

    ``preprocessing`` overrides what files say: see ``drift.options``. With
    ``allow_preprocessing`` the two may differ in it. ``images`` None: all. ``layer_images`` 0: no
    layers. ``workers`` None: one a CPU. ``cluster`` is a Dask scheduler's address, "" for this
    machine. ``fail_if`` are conditions as ``drift.limits`` parses them. ``device`` is the address
    of a device that runs the files, "" for none.
    """

    reference: str
    candidate: str
    data: str = "bundled"
    labels_file: str | None = None
    weights: str = "bundled"
    images: int | None = None
    layer_images: int = 32
    workers: int | None = None
    cluster: str = ""
    fail_if: tuple[str, ...] = ()
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    allow_preprocessing: bool = False
    out: Path | None = None
    overwrite: bool = False
    device: str = ""
    device_options: DeviceOptions = field(default_factory=DeviceOptions)


@dataclass(frozen=True)
class DeviceAgreement:
    """A file on the device against the same file here, on the images of the layer comparison.

    ``differing`` of ``elements`` output values are not equal bit for bit: by ``max_error`` at
    most, which is ``max_codes`` quantization steps (None for floats). ``first_layer`` is the
    first that gives something else than here on the same inputs, "" where there is none or none
    can be named; ``explanation`` says why in plain words, as far as that is known.
    """

    role: Literal["reference", "candidate"]
    runtime: str
    images: int
    elements: int
    differing: int
    max_error: float
    max_codes: int | None
    sqnr_db: float
    first_layer: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class Limit:
    """A ``--fail-if`` condition and whether it holds: then the run fails with exit code 1."""

    text: str
    metric: str
    value: float
    exceeded: bool


@dataclass(frozen=True)
class DriftResult:
    """Everything ``drift`` found. ``images_per_second`` counts those run now, not resumed ones.

    ``device`` is what ran the files, None for this machine or a cluster, with the runtimes
    ``device_runtimes``; ``parity`` is of each file there against here, and empty without layers.
    Layers are always compared on this machine.
    """

    reference: Subject
    candidate: Subject
    data: str
    output: OutputDrift
    layers: LayersDrift | None
    skipped: tuple[SkippedImage, ...]
    limits: tuple[Limit, ...]
    seconds: float
    images_per_second: float
    resumed_images: int
    workers: int
    notes: tuple[str, ...] = ()
    device: DeviceFacts | None = None
    device_runtimes: tuple[str, ...] = ()
    parity: tuple[DeviceAgreement, ...] = ()

    @property
    def rate(self) -> float | None:
        """Images per second; None on an emulated processor, whose speed means nothing."""
        emulated = self.device is not None and self.device.emulator
        return None if emulated else self.images_per_second

    @property
    def failed(self) -> bool:
        return any(limit.exceeded for limit in self.limits)
