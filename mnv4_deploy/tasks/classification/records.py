"""Results of classifiers on images, and what their differences amount to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOP = 5
TRUTH_ADVICE = "give a folder with one subfolder a class, or a labels file"


@dataclass(frozen=True)
class AnswerColumns:
    """What is kept of N images besides ``tasks.rows.output_columns``: arrays of one row an image.

    ``label`` is the true class, -1 where unknown. ``top`` are the five (or all, if fewer) classes
    with the largest outputs, best first, ties to the lower class. ``kl`` is the divergence
    KL(softmax r || softmax c) of the outputs r and c in nats.
    """

    label: npt.NDArray[np.int32]
    reference_top: npt.NDArray[np.int32]
    candidate_top: npt.NDArray[np.int32]
    signal: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    cosine: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]


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
    images, ``worst`` the images with the largest KL, worst first. ``label_doubt``: why accuracies
    say nothing, "" where they do.
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
    label_doubt: str = ""
