"""Inputs from an .npz file, as ``numpy.savez`` writes it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv4_deploy.errors import InputError
from mnv4_deploy.layers.layer import Array
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.records.files import TensorFacts

_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Arrays:
    """One array for each input of a file; ``several``: its first axis is that of inferences."""

    arrays: tuple[Array, ...]
    ranks: tuple[int, ...]
    several: tuple[bool, ...]
    count: int

    def row(self, at: int) -> tuple[Array, ...]:
        """The arrays of one inference."""
        return tuple(
            np.ascontiguousarray(_row(array, at, rank) if many else array)
            for array, rank, many in zip(self.arrays, self.ranks, self.several, strict=True)
        )


def _row(array: Array, at: int, rank: int) -> Array:
    row: Array = array[at] if array.ndim > rank else array[at : at + 1]
    return row


def open_arrays(path: Path, facts: Sequence[TensorFacts]) -> Arrays:
    """The arrays of ``path`` by the names of the inputs ``facts``, or else in their order.

    An array with one dimension more than its input holds one inference after another, and so
    does one of N rows for an input of one row. One that is like its input goes into every
    inference. Raises InputError for a file that is damaged or does not fit.
    """
    arrays = _load(path, facts)
    for fact, array in zip(facts, arrays, strict=True):
        if array.dtype.name != fact.dtype:
            raise InputError(
                f"{path} has {array.dtype.name} for {fact.name!r}, which takes {fact.dtype}: "
                f"save it as {fact.dtype}."
            )
    several = tuple(_several(path, *pair) for pair in zip(facts, arrays, strict=True))
    counts = {len(array) for array, many in zip(arrays, several, strict=True) if many}
    if len(counts) > 1:
        raise InputError(
            f"{path} holds {' and '.join(map(str, sorted(counts)))} inferences in its arrays: "
            "give as many of each input."
        )
    count = counts.pop() if counts else 1
    if not count:
        raise InputError(f"{path} holds an array without any inference: give at least one.")
    return Arrays(arrays, tuple(len(fact.shape) for fact in facts), several, count)


def _load(path: Path, facts: Sequence[TensorFacts]) -> tuple[Array, ...]:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give an .npz file with the inputs.")
    names = [fact.name for fact in facts]
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("one array alone")
            wanted = names if set(names) <= set(stored.files) else list(stored.files)
            if len(wanted) == len(names):
                return tuple(stored[name] for name in wanted)
            held = ", ".join(map(repr, stored.files[:4])) or "nothing"
    except _DAMAGED as error:
        raise InputError(
            f"{path} is no .npz file of plain arrays, or damaged: write it with numpy.savez."
        ) from error
    raise InputError(
        f"{path} holds {held}, but the model takes {', '.join(map(repr, names))}: save one array "
        "for each input, by its name or in this order."
    )


def _several(path: Path, fact: TensorFacts, array: Array) -> bool:
    """Whether the first axis of ``array`` is that of inferences."""
    own = fact.shape
    if array.ndim == len(own) + 1 and _fits(own, array.shape[1:]):
        return True
    if array.ndim == len(own) and _fits(own, array.shape):
        return False
    if array.ndim == len(own) and own[:1] == (1,) and _fits(own[1:], array.shape[1:]):
        return True
    raise InputError(
        f"{path} has {list(array.shape)} for {fact.name!r}, which takes {list(own)}: give that, "
        "or one axis more in front for several inferences."
    )


def _fits(own: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(own) == len(shape) and all(
        not isinstance(side, int) or side < 0 or side == given
        for side, given in zip(own, shape, strict=True)
    )
