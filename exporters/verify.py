"""Do the files compute what the PyTorch model computes, and what did quantization cost?

Tolerance tiers (largest difference of any output, relative to the largest output of the image):

    exact     1e-9   float64 against float64: a rewrite must not change what is computed
    close     1e-4   float32 against float32 in another order of summation
    half      1e-2   float16 weights

A network that amplifies rounding so much that PyTorch's own float32 misses ``close`` is judged
against float64 instead (``compare_to_float64``, which ``expected_outputs`` asks).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnv4_deploy.decibels import decibels
from mnv4_deploy.errors import VerificationError
from mnv4_deploy.exporters.records import Deviation, Drift
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.image_runner import Pixels

# How much further from float64 a float32 file may be than PyTorch's own float32 is.
_OWN_ERROR_FACTOR = 4.0
TIERS = {"exact": 1e-9, "close": 1e-4, "half": 1e-2}


def run_module(
    module: nn.Module, images: Pixels, spec: Preprocessing, *, double: bool = False
) -> npt.NDArray[np.float64]:
    """Outputs of an NCHW module for 0..255 RGB images ``[N, H, W, 3]``."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(images), 16):
            x = torch.from_numpy(normalize(images[start : start + 16], spec)).permute(0, 3, 1, 2)
            rows.append(module(x.double() if double else x).double().numpy())
    return np.concatenate(rows)


def compare(
    subject: str,
    against: str,
    actual: npt.NDArray[np.floating],
    expected: npt.NDArray[np.floating],
    tier: str,
) -> Deviation:
    """Largest relative error over all images; NaN or another shape counts as infinite."""
    worst = float(_relative_error(actual, expected).max())
    return Deviation(subject, against, len(expected), worst, tier, TIERS[tier])


def compare_to_float64(
    subject: str,
    actual: npt.NDArray[np.floating],
    double: npt.NDArray[np.float64],
    singles: Sequence[npt.NDArray[np.floating]],
    tier: str,
) -> Deviation:
    """The image on which ``actual`` is worst, where float32 itself is far from float64.

    ``double`` are PyTorch's outputs in float64, ``singles`` those in float32, in one or more
    orders of summation. Some networks (random weights, deep attention) amplify rounding, and no
    float32 file can then agree with another to the tier. Allowed is the tier or, where it is
    larger, a few times the largest error that PyTorch's own float32 has on the same image.
    """
    own = np.max([_relative_error(single, double) for single in singles], axis=0)
    allowed = np.maximum(TIERS[tier], _OWN_ERROR_FACTOR * own)
    error = _relative_error(actual, double)
    worst = int((error / allowed).argmax())
    return Deviation(
        subject,
        "PyTorch in float64",
        len(double),
        float(error[worst]),
        tier,
        float(allowed[worst]),
    )


def _relative_error(
    actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Largest difference of each image's outputs over its largest expected output."""
    if actual.shape != expected.shape:
        return np.full(len(expected), np.inf)
    with np.errstate(all="ignore"):
        difference = np.abs(actual.astype(np.float64) - expected).max(axis=1)
        largest = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float64).tiny)
        relative = difference / largest
    finite: npt.NDArray[np.float64] = np.nan_to_num(relative, nan=np.inf, posinf=np.inf)
    return finite


def raise_if_failed(deviations: list[Deviation]) -> None:
    """Raise VerificationError naming the worst deviation that is outside its tier."""
    failed = [deviation for deviation in deviations if not deviation.ok]
    if failed:
        worst = max(failed, key=lambda d: d.max_relative_error / d.tolerance)
        raise VerificationError(
            f"{worst.subject} differs from {worst.against} by {worst.max_relative_error:.2g} "
            f"(tolerance '{worst.tier}' is {worst.tolerance:g}), so nothing was written: report "
            "this with the command you ran."
        )


def measure_drift(
    subject: str,
    actual: npt.NDArray[np.floating],
    fp32: npt.NDArray[np.floating],
    labels: tuple[int | None, ...],
) -> Drift:
    """``actual`` against ``fp32``, both ``[N, classes]``; see ``records.Drift``."""
    signal = (fp32.astype(np.float64) ** 2).sum(axis=1)
    noise = ((fp32.astype(np.float64) - actual) ** 2).sum(axis=1)
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(fp32, axis=1)
    cosine = (actual * fp32).sum(axis=1) / np.maximum(lengths, 1e-30)
    known = np.array([label is not None for label in labels])
    truth = np.array([-1 if label is None else label for label in labels])

    def top1(outputs: npt.NDArray[np.floating]) -> float | None:
        if not known.any():
            return None
        return 100 * float((outputs.argmax(axis=1) == truth)[known].mean())

    return Drift(
        subject=subject,
        images=len(fp32),
        top1=top1(actual),
        top1_fp32=top1(fp32),
        agreement=100 * float((actual.argmax(axis=1) == fp32.argmax(axis=1)).mean()),
        sqnr_db=decibels(float(signal.sum()), float(noise.sum())),
        median_sqnr_db=float(
            np.median([decibels(s, n) for s, n in zip(signal, noise, strict=True)])
        ),
        cosine=float(cosine.mean()),
    )
