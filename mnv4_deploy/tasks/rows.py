"""One row of figures an image, and what every task can tell of outputs: how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels

# One row an image; numbers only, so that they can be kept on disk and nothing is unpickled.
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ImageRows:
    """What two networks made of N images: arrays with one row an image, by rising ``index``.

    ``sha256`` is of the image file's bytes, as 32 bytes. ``columns`` are the task's.
    """

    index: npt.NDArray[np.int64]
    sha256: npt.NDArray[np.uint8]
    columns: Columns

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def joined(cls, parts: Iterable[ImageRows]) -> ImageRows:
        """The rows of all ``parts`` in that order; those without a row need no columns."""
        some = [part for part in parts if len(part)]
        if not some:
            return cls(np.zeros(0, np.int64), np.zeros((0, 32), np.uint8), {})
        return cls(
            np.concatenate([part.index for part in some]),
            np.concatenate([part.sha256 for part in some]),
            {
                name: np.concatenate([part.columns[name] for part in some])
                for name in some[0].columns
            },
        )


@dataclass(frozen=True)
class OutputFigures:
    """How well the candidate's outputs agree with the reference's: the worst output's figures.

    ``sqnr_db`` is over all values together, ``median_sqnr_db`` the median over images (one with
    large values rules the first, not the second), ``cosine`` the mean over images.
    """

    sqnr_db: float
    median_sqnr_db: float
    cosine: float


def output_columns(
    reference: Mapping[str, npt.NDArray[Any]], candidate: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """``signal``, ``noise`` and ``cosine`` of each image, ``[N, outputs]`` in float64.

    Of the values r of the reference and c of the candidate: sum r^2, sum (r - c)^2, cos(r, c).
    """
    parts = [_compared(reference[name], candidate[name]) for name in reference]
    return {
        name: np.stack([part[at] for part in parts], axis=1)
        for at, name in enumerate(("signal", "noise", "cosine"))
    }


def _compared(
    reference: npt.NDArray[Any], candidate: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    r, c = (
        values.reshape(len(values), -1).astype(np.float64) for values in (reference, candidate)
    )
    signal, own = (r * r).sum(axis=1), (c * c).sum(axis=1)
    lengths = np.maximum(np.sqrt(signal * own), np.finfo(np.float64).tiny)
    return signal, ((r - c) ** 2).sum(axis=1), (r * c).sum(axis=1) / lengths


def output_figures(columns: Columns) -> OutputFigures:
    """Of the columns that :func:`output_columns` made, for at least one image.

    Sums are exact (``math.fsum``), so the figures do not depend on how images were shared out.
    """
    signals, noises, cosines = (columns[name].T for name in ("signal", "noise", "cosine"))
    return OutputFigures(
        sqnr_db=min(
            decibels(math.fsum(signal), math.fsum(noise))
            for signal, noise in zip(signals, noises, strict=True)
        ),
        median_sqnr_db=min(
            median(map(decibels, signal.tolist(), noise.tolist()))
            for signal, noise in zip(signals, noises, strict=True)
        ),
        cosine=min(math.fsum(cosine) / len(cosine) for cosine in cosines),
    )


def noise_share(columns: Columns) -> float:
    """Noise power over signal power, the median over images, of the output that is worst."""
    signal = np.maximum(columns["signal"], np.finfo(np.float64).tiny)
    return float(np.median(columns["noise"] / signal, axis=0).max())
