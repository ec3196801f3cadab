"""Weight scales with which int8 kernels of x86 add without saturation.

Without VNNI they multiply with vpmaddubsw, which adds two products of a uint8 activation and an
int8 weight in int16, and saturates. The two are neighbours in the order of the product, K = (kh,
kw, c_in) of one output channel: weights 2i and 2i + 1. Nothing saturates where the codes of every
such pair add up to at most 128: 255 * 128 < 2^15. So a channel's scale is

    max(max |w|, max |w[2i] + w[2i+1]|) / 127

(two roundings add at most 1 to 127). Halving all codes (onnxruntime's ``reduce_range``) serves the
same end, but gives up a bit of every channel; few pairs of large weights have the same sign.

Depthwise convolutions need none of it: their kernels (MLAS's ConvDepthwise and ConvSymDepthwise)
widen every product to int32 before they add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# "pairs": as above. "full": the largest weight has the largest code.
WeightGrid = Literal["pairs", "full"]
LARGEST_CODE = 127  # -128 is left out, so that the negative of every code is one
# A channel without a larger weight is dead; scales next to float32's smallest would not divide.
_DEAD = 1e-30
_MATRIX_RANK = 2


def k_order(shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """``[K]``: where the weights of a channel lie in memory, in the order of the product.

    ``shape`` is ``[C_out, C_in / groups, *kernel]`` or ``[C_out, C_in]``.
    """
    places = np.arange(int(np.prod(shape[1:]))).reshape(tuple(shape[1:]))
    return np.moveaxis(places, 0, -1).ravel()


def partners(shape: Sequence[int]) -> npt.NDArray[np.intp]:
    """``[K]``: of each weight, in the order of memory, the place of the one it is added to.

    K itself where there is none: the last weight of an odd number.
    """
    order = k_order(shape)
    count = len(order)
    others = np.arange(count) ^ 1
    found = np.full(count, count)
    paired = others < count
    found[order[paired]] = order[others[paired]]
    return found


def layer_grid(grid: WeightGrid, shape: Sequence[int], groups: int) -> WeightGrid:
    """The grid of one layer of a file on ``grid``: "full" where no kernel adds pairs.

    ``shape`` is that of the weight, as for ``k_order``; ``groups`` those of a convolution, else 1.
    """
    depthwise = len(shape) > _MATRIX_RANK and shape[1] == 1 and shape[0] == groups
    return "full" if depthwise else grid


def channel_scales(weight: npt.NDArray[Any], grid: WeightGrid) -> npt.NDArray[np.float32]:
    """``[C_out]``: the scale of each output channel, 0 where all its weights are (next to) 0.

    ``weight`` is ``[C_out, C_in / groups, *kernel]`` or ``[C_out, C_in]``.
    """
    rows = weight.astype(np.float32, copy=False).reshape(len(weight), -1)
    peaks = np.abs(rows).max(axis=1)
    if grid == "pairs":
        padded = np.pad(rows[:, k_order(weight.shape)], ((0, 0), (0, rows.shape[1] % 2)))
        sums = np.abs(padded[:, ::2] + padded[:, 1::2]).max(axis=1)
        peaks = np.maximum(peaks, sums)
    scales: npt.NDArray[np.float32] = np.where(peaks < _DEAD, 0, peaks / np.float32(LARGEST_CODE))
    return scales.astype(np.float32)
