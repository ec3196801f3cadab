"""From what two subjects made of each image to what quantization cost.

Every sum is exact (``math.fsum``, integers), so the figures depend on the images alone and
neither on how they were split over workers nor on the machine.

Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference,
J. Am. Stat. Assoc. 22. Newcombe, R. G. (1998), Improved confidence intervals for the difference
between binomial proportions based on paired data, Stat. Med. 17, 2635-2650 (method 10).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.tasks.classification.label_doubt import label_doubt
from mnv4_deploy.tasks.classification.records import (
    TOP,
    Accuracy,
    AnswerColumns,
    ClassChange,
    Flips,
    ImageChange,
    OutputDrift,
    Proportion,
)
from mnv4_deploy.tasks.rows import ImageRows, output_figures

_Z = NormalDist().inv_cdf(0.975)
_Mask = npt.NDArray[np.bool_]


def summarise(
    rows: ImageRows, images: Sequence[DatasetImage], labels: tuple[str, ...], *, worst: int = 24
) -> OutputDrift:
    """What the candidate's outputs lost against the reference's, over all of ``rows``, not none.

    ``images`` give them their names, ``labels`` the classes theirs (may be empty). Up to
    ``worst`` images whose outputs changed are named.
    """
    count = len(rows)
    results = AnswerColumns(**rows.columns)
    known = results.label >= 0
    agree = results.reference_top[:, 0] == results.candidate_top[:, 0]
    reference = candidate = None
    drop = low = high = top5_drop = None
    flips = None
    if known.any():
        reference = _accuracy(results, results.reference_top, known, labels)
        candidate = _accuracy(results, results.candidate_top, known, labels)
        flips = _flips(results, known)
        drop, low, high = paired_difference(
            flips.both_right, flips.lost, flips.gained, flips.both_wrong
        )
        if reference.top5 and candidate.top5:
            top5_drop = 100 * (reference.top5.count - candidate.top5.count) / reference.top5.total
    outputs = output_figures(rows.columns)
    return OutputDrift(
        images=count,
        labelled=int(known.sum()),
        reference=reference,
        candidate=candidate,
        top1_drop=drop,
        top1_drop_low=low,
        top1_drop_high=high,
        top5_drop=top5_drop,
        agreement=proportion(int(agree.sum()), count),
        flips=flips,
        sqnr_db=outputs.sqnr_db,
        median_sqnr_db=outputs.median_sqnr_db,
        cosine=outputs.cosine,
        kl=math.fsum(results.kl) / count,
        worst=_worst(rows.index, results, images, worst),
        classes=_classes(results, known, labels),
        label_doubt=label_doubt(results.label[known], results.reference_top[known, 0]),
    )


def proportion(count: int, total: int) -> Proportion:
    """``count`` of ``total`` > 0 in percent with Wilson's 95 % score interval."""
    low, high = _wilson(count, total)
    return Proportion(count, total, 100 * count / total, 100 * low, 100 * high)


def paired_difference(
    both: int, first_only: int, second_only: int, neither: int
) -> tuple[float, float, float]:
    """First minus second proportion of pairs, in points, with its 95 % interval (low, high).

    Newcombe's method 10: the two Wilson intervals squared and added, less what the
    correlation phi of the pairs explains, phi being corrected for continuity.
    """
    total = both + first_only + second_only + neither
    first, second = both + first_only, both + second_only
    p1, p2 = first / total, second / total
    (low1, high1), (low2, high2) = _wilson(first, total), _wilson(second, total)
    margins = first * (total - first) * second * (total - second)
    product = float(both * neither - first_only * second_only)
    if product > 0:
        product = max(product - total / 2, 0.0)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(one * one - 2 * phi * one * other + other * other, 0.0))

    # From the integers, so that the point in the middle is as exact as a float can be.
    difference = 100 * (first_only - second_only) / total
    return (
        difference,
        max(difference - 100 * distance(p1 - low1, high2 - p2), -100.0),
        min(difference + 100 * distance(high1 - p1, p2 - low2), 100.0),
    )


def mcnemar(lost: int, gained: int) -> float:
    """McNemar's exact two-sided p value: a fair coin splits as unevenly as this or more.

    Twice the smaller tail of the binomial distribution with p = 1/2, at most 1. The sum is of
    integers, so nothing underflows however many flips there are.
    """
    total = lost + gained
    term = tail = 1
    for k in range(min(lost, gained)):
        term = term * (total - k) // (k + 1)
        tail += term
    # Of integers, so exact to the last bit.
    return min(1.0, 2 * tail / (1 << total))


def _wilson(count: int, total: int) -> tuple[float, float]:
    """The score interval as fractions; its ends are exact where nothing or all was counted."""
    share, square = count / total, _Z * _Z
    centre = (count + square / 2) / (total + square)
    half = _Z / (total + square) * math.sqrt(count * (1 - share) + square / 4)
    return (
        0.0 if count == 0 else max(0.0, centre - half),
        1.0 if count == total else min(1.0, centre + half),
    )


def _accuracy(
    results: AnswerColumns, top: npt.NDArray[np.int32], known: _Mask, labels: tuple[str, ...]
) -> Accuracy:
    total = int(known.sum())
    hits = (top == results.label[:, None])[known]
    # Five answers out of five classes are always right.
    classes = len(labels) or 1 + int(max(results.reference_top.max(), results.candidate_top.max()))
    top5 = proportion(int(hits.any(axis=1).sum()), total) if classes > TOP else None
    return Accuracy(proportion(int(hits[:, 0].sum()), total), top5)


def _right(results: AnswerColumns) -> tuple[_Mask, _Mask]:
    """Which images the reference and the candidate have right."""
    return (
        results.reference_top[:, 0] == results.label,
        results.candidate_top[:, 0] == results.label,
    )


def _flips(results: AnswerColumns, known: _Mask) -> Flips:
    before, after = (right[known] for right in _right(results))
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    return Flips(
        both_right=int((before & after).sum()),
        lost=lost,
        gained=gained,
        both_wrong=int((~before & ~after).sum()),
        p_value=mcnemar(lost, gained),
    )


def _worst(
    index: npt.NDArray[np.int64],
    results: AnswerColumns,
    images: Sequence[DatasetImage],
    count: int,
) -> tuple[ImageChange, ...]:
    # Outputs that are not numbers have no KL: nothing is worse.
    kl = np.where(np.isnan(results.kl), np.inf, results.kl)
    order = sorted(range(len(index)), key=lambda row: (-kl[row], index[row]))
    changes = []
    for row in order[: max(count, 0)]:
        if not results.noise[row].any():
            continue
        image = images[int(index[row])]
        changes.append(
            ImageChange(
                index=int(index[row]),
                name=image.name,
                path=image.path,
                label=int(results.label[row]) if results.label[row] >= 0 else None,
                reference_class=int(results.reference_top[row, 0]),
                candidate_class=int(results.candidate_top[row, 0]),
                sqnr_db=decibels(
                    float(results.signal[row].sum()), float(results.noise[row].sum())
                ),
                kl=float(results.kl[row]),
            )
        )
    return tuple(changes)


def _classes(
    results: AnswerColumns, known: _Mask, labels: tuple[str, ...]
) -> tuple[ClassChange, ...]:
    """Every class that has images, the one that lost most first, ties to the lower class."""
    before, after = _right(results)
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(known).tolist():
        rows[int(results.label[row])].append(row)
    changes = []
    for label, members in rows.items():
        lost = [row for row in members if before[row] and not after[row]]
        gained = sum(bool(after[row] and not before[row]) for row in members)
        answers = Counter(int(results.candidate_top[row, 0]) for row in lost)
        # max keeps the first of equals, here the lower class.
        mistaken = max(sorted(answers), key=answers.__getitem__, default=None)
        changes.append(
            ClassChange(
                label=label,
                name=class_name(label, labels),
                images=len(members),
                reference_top1=100 * int(before[members].sum()) / len(members),
                candidate_top1=100 * int(after[members].sum()) / len(members),
                lost=len(lost),
                gained=gained,
                mistaken_for="" if mistaken is None else class_name(mistaken, labels),
            )
        )
    return tuple(sorted(changes, key=lambda c: (c.gained - c.lost, -c.lost, c.label)))


def class_name(label: int, labels: tuple[str, ...]) -> str:
    return labels[label] if 0 <= label < len(labels) else f"class {label}"
