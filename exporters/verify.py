"""Do the files compute what the PyTorch model computes?

The tolerances (``tolerances.TOLERANCES``) are "float64" for rewrites, which must not change what
is computed, "float32" for files and "float16" for those with such weights. A network that
amplifies rounding so much that PyTorch's own float32 misses "float32" is judged against float64
instead (``compare_to_float64``, which ``expected_outputs`` asks).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnv4_deploy.errors import VerificationError
from mnv4_deploy.exporters.records import Deviation
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.models.records import LOGITS, OutputSpec, Preprocessing
from mnv4_deploy.sessions.outputs import Outputs, joined, named
from mnv4_deploy.tolerances import TOLERANCES

# How much further from float64 a float32 file may be than PyTorch's own float32 is.
_OWN_ERROR_FACTOR = 4.0


def run_module(
    module: nn.Module,
    images: Pixels,
    spec: Preprocessing,
    outputs: Sequence[OutputSpec] = (LOGITS,),
    *,
    double: bool = False,
) -> dict[str, npt.NDArray[np.float64]]:
    """``outputs`` of an NCHW module for 0..255 RGB images ``[N, H, W, 3]``, by name."""
    names = [output.name for output in outputs]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), 16):
            x = torch.from_numpy(normalize(images[start : start + 16], spec)).permute(0, 3, 1, 2)
            found = named(module(x.double() if double else x), names)
            parts.append({name: values.double().numpy() for name, values in found.items()})
    return joined(parts)


def compare(
    subject: str, against: str, actual: Outputs, expected: Outputs, tier: str
) -> Deviation:
    """Largest relative error of any output over all images; NaN, an output that is not there or
    has another shape counts as infinite."""
    error = _relative_error(actual, expected)
    return Deviation(
        subject, against, len(error), float(error.max()), tier, TOLERANCES[tier].value
    )


def compare_to_float64(
    subject: str, actual: Outputs, double: Outputs, singles: Sequence[Outputs], tier: str
) -> Deviation:
    """The image on which ``actual`` is worst, where float32 itself is far from float64.

    ``double`` are PyTorch's outputs in float64, ``singles`` those in float32, in one or more
    orders of summation. Some networks (random weights, deep attention) amplify rounding, and no
    float32 file can then agree with another to the tolerance. Allowed is that or, where it is
    larger, a few times the largest error that PyTorch's own float32 has on the same image.
    """
    own = np.max([_relative_error(single, double) for single in singles], axis=0)
    allowed = np.maximum(TOLERANCES[tier].value, _OWN_ERROR_FACTOR * own)
    error = _relative_error(actual, double)
    worst = int((error / allowed).argmax())
    return Deviation(
        subject,
        "PyTorch in float64",
        len(error),
        float(error[worst]),
        tier,
        float(allowed[worst]),
    )


def _relative_error(actual: Outputs, expected: Outputs) -> npt.NDArray[np.float64]:
    """Of each image, that of its worst output: largest difference over largest expected value."""
    errors = [_error_of(actual.get(name), values) for name, values in expected.items()]
    worst: npt.NDArray[np.float64] = np.max(errors, axis=0)
    return worst if actual.keys() == expected.keys() else np.full(len(worst), np.inf)


def _error_of(
    actual: npt.NDArray[np.floating] | None, expected: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    if actual is None or actual.shape != expected.shape:
        return np.full(len(expected), np.inf)
    mine, theirs = (values.reshape(len(values), -1) for values in (actual, expected))
    with np.errstate(all="ignore"):
        difference = np.abs(mine.astype(np.float64) - theirs).max(axis=1)
        largest = np.maximum(np.abs(theirs).max(axis=1), np.finfo(np.float64).tiny)
        relative = difference / largest
    finite: npt.NDArray[np.float64] = np.nan_to_num(relative, nan=np.inf, posinf=np.inf)
    return finite


def raise_if_failed(deviations: list[Deviation]) -> None:
    """Raise VerificationError naming the worst deviation that is outside its tolerance."""
    failed = [deviation for deviation in deviations if not deviation.ok]
    if failed:
        worst = max(failed, key=lambda d: d.max_relative_error / d.tolerance)
        raise VerificationError(
            f"{worst.subject} differs from {worst.against} by {worst.max_relative_error:.2g} "
            f"(tolerance '{worst.tier}' is {worst.tolerance:g}), so nothing was written: report "
            "this with the command you ran."
        )
