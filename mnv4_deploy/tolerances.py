"""Named tolerances: how far apart two computations of the same tensor may be, and why.

An error is the largest difference over the largest magnitude of the tensor, since the error of a
sum is that of one of its terms, not of what is left of them. float32 has 24 bits of mantissa
(6e-8), float16 has 11 (5e-4).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """``value`` is the largest relative error; ``reason`` is what such an error comes from."""

    name: str
    value: float
    reason: str


# By name, from the strictest on.
TOLERANCES: dict[str, Tolerance] = {
    tolerance.name: tolerance
    for tolerance in (
        Tolerance("exact", 0.0, "the same arithmetic in the same order: every bit is equal"),
        Tolerance("float64", 1e-9, "the same computation in float64, written in another way"),
        Tolerance(
            "reordered",
            1e-5,
            "the same arithmetic in float32, summed in another order or with fused multiply-adds",
        ),
        Tolerance("float32", 1e-4, "a whole network in float32, summed in another order"),
        Tolerance(
            "approximated",
            1e-3,
            "another algorithm (Winograd, an approximated exp), or float16 in places",
        ),
        Tolerance("float16", 1e-2, "float16 or bfloat16 throughout, or in all weights"),
    )
}
