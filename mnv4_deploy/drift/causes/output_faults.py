"""Do the outputs mean the same? Classes in another order and outputs of another size are found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.records import Cause
from mnv4_deploy.sessions.open import open_runner
from mnv4_deploy.sessions.outputs import paired
from mnv4_deploy.sessions.records import ModelRef

_IMAGES = 32
# Fewer images than this do not tell classes from each other.
_FEWEST = 8
# What explains the error leaves at most this part of it.
_LEFT = 0.1
# Nearer to 1 a factor is what rounding does.
_FACTOR = 0.05
_NAMED = 3

_Columns = npt.NDArray[np.float64]


def find_output_fault(reference: ModelRef, candidate: ModelRef, pixels: Pixels) -> Cause | None:
    """Whether outputs ``[N, classes]`` agree once their columns are ordered, or divided, anew.

    ``pixels`` are RGB ``[N, H, W, 3]``, of which the first 32 are used.
    """
    pixels = pixels[:_IMAGES]
    if len(pixels) < _FEWEST:
        return None
    wanted = open_runner(reference).outputs(pixels)
    given = paired(wanted, open_runner(candidate).outputs(pixels))
    for name, values in wanted.items():
        if values.ndim == 2 and values.shape == given[name].shape and values.shape[1] > 1:
            ours, theirs = given[name].astype(np.float64), values.astype(np.float64)
            found = _other_order(theirs, ours, reference.labels) or _factor(theirs, ours)
            if found is not None:
                return found
    return None


def _other_order(wanted: _Columns, given: _Columns, labels: tuple[str, ...]) -> Cause | None:
    """``labels`` are the names of the reference's classes, empty where they are unknown."""
    # Squared distance of each of the candidate's columns to each of the reference's.
    distances = (
        np.square(given).sum(axis=0)[:, None]
        + np.square(wanted).sum(axis=0)[None]
        - 2 * given.T @ wanted
    )
    order = distances.argmin(axis=1)
    own = distances.diagonal()
    moved = np.flatnonzero(distances.min(axis=1) < _LEFT * own)
    if not len(moved) or sorted(order[moved]) != moved.tolist():
        return None
    rest = np.ones(len(order), bool)
    rest[moved] = False
    after = float(distances[moved, order[moved]].sum() + own[rest].sum())
    steps = {int(step) for step in (order[moved] - moved) % len(order)}
    if len(moved) == len(order) and len(steps) == 1:
        what = f"Class k of the candidate is class k + {steps.pop()} of the reference, for every k"
    else:
        pairs = (f"{_class(i, labels)} is {_class(order[i], labels)}" for i in moved[:_NAMED])
        what = f"{len(moved)} of {len(order)} classes have other places: {', '.join(pairs)}"
    return Cause(
        "class order",
        f"{what}. In the reference's order the outputs agree to "
        f"{decibels(float(np.square(wanted).sum()), after):.1f} dB instead of "
        f"{decibels(float(np.square(wanted).sum()), float(own.sum())):.1f} dB.",
        "Give both the same list of classes, in the same order.",
    )


def _class(number: int, labels: tuple[str, ...]) -> str:
    return f"{number} ({labels[number]})" if number < len(labels) else str(number)


def _factor(wanted: _Columns, given: _Columns) -> Cause | None:
    signal, noise = float(np.vdot(wanted, wanted)), float(np.square(given - wanted).sum())
    if signal <= 0:
        return None
    factor = float(np.vdot(wanted, given)) / signal
    rest = float(np.square(given - factor * wanted).sum())
    if factor <= 0 or abs(factor - 1) < _FACTOR or rest > _LEFT * noise:
        return None
    return Cause(
        "output scale",
        f"The candidate's outputs are {factor:.3g} times the reference's: without this factor "
        f"they agree to {decibels(signal, rest / factor**2):.1f} dB instead of "
        f"{decibels(signal, noise):.1f} dB.",
        f"Divide the scale of the candidate's output, or of its last layer, by {factor:.3g}.",
    )
