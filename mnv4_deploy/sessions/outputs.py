"""Outputs by name: of modules, of files, and of two networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import InputError, UnsupportedError

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
# How a TFLite file has what others give as [B, C, H, W].
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def named(result: Any, names: Sequence[str]) -> dict[str, Any]:
    """The tensors that a module returned, by name: a dict's own, others in order.

    Raises UnsupportedError where there are not as many as ``names``.
    """
    if isinstance(result, Mapping):
        found = {name: result[name] for name in names if name in result}
    else:
        several = list(result) if isinstance(result, tuple | list) else [result]
        found = dict(zip(names, several, strict=False)) if len(several) == len(names) else {}
    if len(found) != len(names):
        raise UnsupportedError(
            f"The network does not return the outputs {', '.join(names)}: name as many as it has."
        )
    return found


def joined(parts: Sequence[Outputs]) -> dict[str, Array]:
    """Outputs of several batches as one; at least one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows(values: Array, batch: int, name: str) -> Array:
    """``values`` with one row an image of the batch.

    Raises UnsupportedError for an output of several images whose first axis is not theirs.
    """
    if values.ndim and len(values) == batch:
        return values
    if batch == 1:
        return values[None]
    raise UnsupportedError(
        f"Output {name!r} has the shape {list(values.shape)} for {batch} images, so it cannot be "
        "told which part is whose: give a file with a batch of 1."
    )


def paired(reference: Outputs, candidate: Outputs) -> dict[str, Array]:
    """The candidate's outputs under the reference's names, maps in the reference's order of axes.

    By name if the names are the same, else in their order. Raises InputError where the two do
    not have the same outputs, saying which.
    """
    if set(reference) == set(candidate):
        found = {name: candidate[name] for name in reference}
    else:
        found = dict(zip(reference, candidate.values(), strict=False))
    laid = {name: _like(values, reference[name].shape) for name, values in found.items()}
    fits = len(reference) == len(candidate) and all(
        values.shape == reference[name].shape for name, values in laid.items()
    )
    if not fits:
        mine, theirs = (
            ", ".join(f"{name} {list(values.shape)}" for name, values in outputs.items())
            for outputs in (reference, candidate)
        )
        raise InputError(
            f"The reference gives {mine} and the candidate {theirs}: give two models with the "
            "same outputs."
        )
    return laid


def _like(values: Array, shape: tuple[int, ...]) -> Array:
    """Maps that are stored channels last in one file and channels first in the other."""
    for axes in (CHANNELS_LAST, CHANNELS_FIRST):
        if values.ndim == len(axes) and values.shape != shape:
            turned = values.transpose(axes)
            if turned.shape == shape:
                return turned
    return values
