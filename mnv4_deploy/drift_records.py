"""Frozen records of ``drift``: what is compared, what came of each image, of each layer, and why.

No torch and no runtime: these travel to worker processes and to other machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

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
class Agreement:
    """How far a tensor of the candidate is from the reference's. SQNR is capped at 200 dB."""

    sqnr_db: float
    cosine: float

    @property
    def noise_share(self) -> float:
        """Noise power over signal power."""
        return float(10 ** (-self.sqnr_db / 10))


@dataclass(frozen=True)
class RangeUse:
    """An integer tensor's range and how the reference's values fit it.

    ``low`` and ``high`` are the smallest and the largest number it can hold, ``seen_*`` the
    reference's extremes. ``used_percent``: the part of the range that the reference's values
    span. ``clipped_percent`` of the reference's values lie outside, and ``clipping_share`` (0..1)
    is the part of the squared error of ideal quantization that they cause.
    """

    scale: float
    zero_point: int
    low: float
    high: float
    seen_low: float
    seen_high: float
    used_percent: float
    clipped_percent: float
    clipping_share: float


@dataclass(frozen=True)
class LayerEvidence:
    """What a cause can be told from; None and 0 where it does not apply.

    Channels are those of the layer's output. ``channel_peaks`` are max |reference| of each
    channel, ``weight_peaks`` max |weight| of each output channel of the *float* weights (the
    reference's where they are known, the candidate's dequantized ones otherwise),
    ``weight_scales`` the candidate's (one value: per-tensor). ``weight_sqnr_db`` is of the
    candidate's weights against the reference's. ``bias_codes_max`` is max |int32 bias|,
    ``bias_error_share`` the part of the isolated squared error that is a constant offset per
    channel. ``padding`` is the constant of a Pad, in real numbers.
    """

    channel_peaks: npt.NDArray[np.float64] | None = None
    weight_peaks: npt.NDArray[np.float64] | None = None
    weight_scales: tuple[float, ...] = ()
    weight_sqnr_db: float | None = None
    bias_codes_max: int | None = None
    bias_error_share: float = 0.0
    padding: float | None = None
    depthwise: bool = False


CauseKind = Literal[
    "outlier channel",
    "depthwise weight spread",
    "clipped activation",
    "unused range",
    "tiny scale",
    "bias overflow",
    "padding constant",
    "softmax or sigmoid range",
    "coarse weights",
    "accumulated noise",
    "channel order",
    "normalisation",
    "calibration data",
]


@dataclass(frozen=True)
class Cause:
    """Why a layer (or the whole model) lost precision, in one sentence with its figures."""

    kind: CauseKind
    sentence: str
    advice: str


@dataclass(frozen=True)
class LayerDrift:
    """One layer of the candidate against the reference.

    ``module`` is its path in the PyTorch model ("" where the file does not tell), ``tensor`` and
    ``reference_tensor`` the compared outputs. ``accumulated``: both networks ran from the image.
    ``isolated``: this layer alone ran as the candidate has it, on the reference's inputs; None
    where those inputs have no counterpart. ``output`` is the range of the output tensor, None
    where it is float. ``compute`` as in ``OperatorFacts``. ``inputs`` are the ``index`` of
    the layers whose outputs this one reads (through conversions and operators that only move
    data): what a producer's range cut off shows in the isolated figure of its readers too, and
    causes need to know whom to blame.
    """

    index: int
    module: str
    kind: str
    compute: str
    tensor: str
    reference_tensor: str
    shape: tuple[int, ...]
    accumulated: Agreement
    isolated: Agreement | None
    output: RangeUse | None
    evidence: LayerEvidence
    cause: Cause | None = None
    inputs: tuple[int, ...] = ()

    @property
    def damage(self) -> float:
        """What layers are sorted by: the noise this layer alone adds, over its signal.

        Without an isolated figure that of the accumulated one, which counts the noise of the
        layers before too.
        """
        return (self.isolated or self.accumulated).noise_share


@dataclass(frozen=True)
class Diagnosis:
    """One entry of the ranking of what went wrong, worst first.

    ``layer`` indexes ``LayersDrift.layers``; None where the cause is not one layer's: then
    ``module`` is "input" (the two see different pixels) or "all layers".
    """

    module: str
    layer: int | None
    cause: Cause


@dataclass(frozen=True)
class LayersDrift:
    """All layers in the order they run. ``ranking`` has the worst first.

    ``unmatched`` are outputs of the candidate's operators that have no counterpart.
    """

    images: int
    layers: tuple[LayerDrift, ...]
    ranking: tuple[Diagnosis, ...]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def most_damaged(self, count: int) -> tuple[LayerDrift, ...]:
        """By :attr:`LayerDrift.damage`; layers that did not run alone come last."""
        ranked = sorted(self.layers, key=lambda layer: (layer.isolated is None, -layer.damage))
        return tuple(ranked[:count])


@dataclass(frozen=True)
class DriftRequest:
    """What ``drift`` is asked for. ``reference`` and ``candidate`` are files or model names.

    ``preprocessing`` overrides what files say: see ``drift.options``. With
    ``allow_preprocessing`` the two may differ in it. ``images`` None: all. ``layer_images`` 0: no
    layers. ``workers`` None: one a CPU. ``cluster`` is a Dask scheduler's address, "" for this
    machine. ``fail_if`` are conditions as ``drift.limits`` parses them.
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


@dataclass(frozen=True)
class Limit:
    """A ``--fail-if`` condition and whether it holds: then the run fails with exit code 1."""

    text: str
    metric: str
    value: float
    exceeded: bool


@dataclass(frozen=True)
class DriftResult:
    """Everything ``drift`` found. ``images_per_second`` counts those run now, not resumed ones."""

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

    @property
    def failed(self) -> bool:
        return any(limit.exceeded for limit in self.limits)
