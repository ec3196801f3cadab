"""Products large enough, and so shaped, that a runtime's kernels run at their best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Compute = Literal["float32", "int8", "uint8", "int8 dynamic"]
ZERO_POINT = {"int8": 0, "uint8": 128}


@dataclass(frozen=True)
class Product:
    """A convolution of ``height`` x ``width`` pixels, stride 1, padded to keep its size.

    ``kernel`` 0 is a matrix product instead, of height * width rows.
    """

    height: int
    width: int
    channels: int
    filters: int
    kernel: int = 1

    @property
    def macs(self) -> int:
        return self.height * self.width * self.channels * self.filters * max(1, self.kernel) ** 2


# 210 rows divide into register tiles of 1, 2, 3, 5, 6, 7, 10, 14 and 15 rows, 840 also of 4, 8 and
# 12, and the filters into those of 8 to 64, so that hardly a kernel wastes a part of its tile. The
# operands of most fit a second-level cache; the larger products are for several threads.
PRODUCTS = (
    Product(14, 15, 256, 64),
    Product(14, 15, 512, 128),
    Product(14, 15, 1024, 64),
    Product(28, 30, 512, 128),
    Product(28, 30, 512, 256, kernel=0),
    Product(14, 15, 64, 64, kernel=3),
    Product(28, 30, 64, 64, kernel=3),
)


def random_weights(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Weights without zeros' regularity, that no kernel can skip."""
    if dtype == "float32":
        return rng.standard_normal(tuple(shape)).astype(np.float32)
    info = np.iinfo(dtype)
    low = info.min + 1 if dtype == "int8" else info.min
    return rng.integers(low, info.max, tuple(shape), dtype=dtype, endpoint=True)
