"""Inputs from an .npz file, as ``numpy.savez`` writes it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mnv4_deploy.errors import InputError
from mnv4_deploy.layers.layer import Array
from mnv4_deploy.profiles.files.arrays import reading_arrays
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.records.files import TensorFacts

_ENDING = ".npy"
# What all inferences asked for may take: they are in memory together.
_MAX_BYTES = 4 << 30
_NAMED = 4


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


@dataclass(frozen=True)
class _Header:
    """What a member says of its array, before any of it is read."""

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool


def open_arrays(path: Path, facts: Sequence[TensorFacts], most: int) -> Arrays:
    """The first ``most`` inferences of ``path`` by the names of the inputs ``facts``, or else in
    their order.

    An array with one dimension more than its input holds one inference after another, and so
    does one of N rows for an input of one row. One that is like its input goes into every
    inference. Nothing else of the file is read. Raises InputError for a file that is damaged,
    does not fit, or needs more memory than there should be.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give an .npz file with the inputs.")
    with _opened(path) as archive:
        headers = _headers(path, archive, facts)
        for fact, header in zip(facts, headers, strict=True):
            if header.dtype.name != fact.dtype:
                raise InputError(
                    f"{path} has {header.dtype.name} for {fact.name!r}, which takes {fact.dtype}:"
                    f" save it as {fact.dtype}."
                )
        several = tuple(_several(path, *pair) for pair in zip(facts, headers, strict=True))
        count = min(most, _count(path, headers, several))
        kept = [
            (count, *header.shape[1:]) if many else header.shape
            for header, many in zip(headers, several, strict=True)
        ]
        _check_size(path, headers, kept)
        arrays = tuple(
            _read(archive, header, shape) for header, shape in zip(headers, kept, strict=True)
        )
    return Arrays(arrays, tuple(len(fact.shape) for fact in facts), several, count)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong with it in the block is InputError."""
    refusal = f"{path} is no .npz file of plain arrays, or damaged: write it with numpy.savez."
    with reading_arrays(refusal), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _headers(
    path: Path, archive: zipfile.ZipFile, facts: Sequence[TensorFacts]
) -> tuple[_Header, ...]:
    held = [name for name in archive.namelist() if name.endswith(_ENDING)]
    names = [fact.name for fact in facts]
    own = [f"{name}{_ENDING}" for name in names]
    wanted = own if set(own) <= set(held) else held
    if len(wanted) != len(names):
        listed = ", ".join(repr(name.removesuffix(_ENDING)) for name in held[:_NAMED])
        raise InputError(
            f"{path} holds {listed or 'nothing'}, but the model takes"
            f" {', '.join(map(repr, names))}: save one array for each input, by its name or in"
            " this order."
        )
    found = []
    for name in wanted:
        with archive.open(name) as stream:
            found.append(_Header(name, *_header(stream)))
    return tuple(found)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    """Shape, type and whether the first axis varies fastest, of an array in NumPy's format."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError("no plain array")
    return shape, dtype, fortran


def _count(path: Path, headers: Sequence[_Header], several: Sequence[bool]) -> int:
    counts = {header.shape[0] for header, many in zip(headers, several, strict=True) if many}
    if len(counts) > 1:
        raise InputError(
            f"{path} holds {' and '.join(map(str, sorted(counts)))} inferences in its arrays: "
            "give as many of each input."
        )
    count = counts.pop() if counts else 1
    if not count:
        raise InputError(f"{path} holds an array without any inference: give at least one.")
    return count


def _check_size(path: Path, headers: Sequence[_Header], kept: Sequence[tuple[int, ...]]) -> None:
    total = sum(
        math.prod(header.shape if header.fortran else shape) * header.dtype.itemsize
        for header, shape in zip(headers, kept, strict=True)
    )
    if total > _MAX_BYTES:
        raise InputError(
            f"{path} would take {total / 1e9:.1f} GB of memory, of at most {_MAX_BYTES / 1e9:.1f}:"
            " give fewer --images, or smaller arrays."
        )


def _read(archive: zipfile.ZipFile, header: _Header, shape: tuple[int, ...]) -> Array:
    """The first rows of a member, ``shape`` altogether: in C order they come first."""
    stored = header.shape if header.fortran else shape
    size = math.prod(stored) * header.dtype.itemsize
    with archive.open(header.member) as stream:
        _header(stream)
        data = stream.read(size)
        # Behind the last byte the checksum is compared.
        if len(data) != size or (stored == header.shape and stream.read(1)):
            raise EOFError("not as many bytes as the shape needs")
    array: Array = np.frombuffer(data, header.dtype).astype(header.dtype.newbyteorder("="))
    if header.fortran:
        return array.reshape(stored[::-1]).transpose()[tuple(slice(side) for side in shape)]
    return array.reshape(shape)


def _several(path: Path, fact: TensorFacts, header: _Header) -> bool:
    """Whether the first axis of an array is that of inferences."""
    own, shape = fact.shape, header.shape
    if len(shape) == len(own) + 1 and _fits(own, shape[1:]):
        return True
    if len(shape) == len(own) and _fits(own, shape):
        return False
    if len(shape) == len(own) and own[:1] == (1,) and _fits(own[1:], shape[1:]):
        return True
    raise InputError(
        f"{path} has {list(shape)} for {fact.name!r}, which takes {list(own)}: give that, "
        "or one axis more in front for several inferences."
    )


def _fits(own: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(own) == len(shape) and all(
        not isinstance(side, int) or side < 0 or side == given
        for side, given in zip(own, shape, strict=True)
    )
