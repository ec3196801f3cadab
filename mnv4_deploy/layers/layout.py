"""How a tensor of one network lies in the other's layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from mnv4_deploy.layers.layer import Array, Format

_MAX_AXES = 4


@dataclass(frozen=True)
class Layout:
    """Transposes by ``axes``, then reshapes to ``shape``."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, values: Array) -> Array:
        return values.transpose(self.axes).reshape(self.shape)

    def back(self, values: Array, shape: tuple[int, ...]) -> Array:
        """The array of ``shape`` that lies like ``values`` in this layout."""
        return values.reshape([shape[i] for i in self.axes]).transpose(np.argsort(self.axes))


def channel_axis(format_: Format, ndim: int) -> int:
    """NHWC in TFLite, NCHW elsewhere; in matrices the channels come last."""
    return 1 if ndim == 4 and format_ != "tflite" else ndim - 1


def find_layout(
    reference: Array, reference_format: Format, candidate: Array, candidate_format: Format
) -> Layout | None:
    """The layout in which ``reference`` has the shape of ``candidate``; None if there is none.

    Maps go by the formats' own order (NCHW, NHWC). Elsewhere the order that agrees best is
    taken, of those that keep or merge neighbouring axes.
    """
    if reference.size != candidate.size:
        return None
    usual = _usual(reference.shape, reference_format, candidate.shape, candidate_format)
    if usual is not None:
        return usual
    fitting = list(dict.fromkeys(_fitting(reference.shape, candidate.shape)))
    if not fitting:
        return None
    wanted = candidate.astype(np.float64)
    # min keeps the first of equals, and the order of axes that the file has comes first.
    return min(fitting, key=lambda layout: float(np.abs(layout(reference) - wanted).sum()))


def _usual(
    reference: tuple[int, ...],
    reference_format: Format,
    candidate: tuple[int, ...],
    candidate_format: Format,
) -> Layout | None:
    axes = tuple(range(len(reference)))
    last = reference_format == "tflite", candidate_format == "tflite"
    if len(reference) == len(candidate) == 4 and last[0] != last[1]:
        axes = (0, 3, 1, 2) if last[0] else (0, 2, 3, 1)
    if tuple(reference[i] for i in axes) == candidate:
        return Layout(axes, candidate)
    return None


def _fitting(reference: tuple[int, ...], candidate: tuple[int, ...]) -> Iterator[Layout]:
    whole = tuple(range(len(reference)))
    long = [i for i in whole if reference[i] > 1]
    short = [i for i in whole if reference[i] == 1]
    wanted = [n for n in candidate if n > 1]
    orders = permutations(long) if len(long) <= _MAX_AXES else iter([tuple(long)])
    for order in orders:
        if _merges([reference[i] for i in order], wanted):
            yield Layout((*short, *order), candidate)


def _merges(first: list[int], second: list[int]) -> bool:
    """Whether the axes of one become those of the other by merging neighbours."""
    return _borders(first) <= _borders(second) or _borders(second) <= _borders(first)


def _borders(sizes: list[int]) -> set[int]:
    return {math.prod(sizes[:i]) for i in range(1, len(sizes))}
