"""Values of inputs that nobody gave: random numbers, or what the input's name asks for.

A sample rate of 0 takes the wrong branch, a mask of zeros hides everything, a length of 0 leaves
nothing to do: the times would be those of another work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnv4_deploy.profiles.graph.given_inputs import fitted
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.runtimes.timing import example_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLE_RATE_HZ = 16_000
_THRESHOLD = 0.5
_MAX_BOXES = 100
_SHOWN_NUMBERS = 4
# "inputLengths" and "input_lengths" are the words input and lengths.
_WORD = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*|\d+")
_RATES, _RATE = ("sr", "fs", "rate"), re.compile("sampl(e|ing)rate")
_LENGTHS, _LENGTH = frozenset({"length", "lengths", "len", "lens"}), re.compile("(seq|x)lens?$")
_COUNTS = frozenset({"trip", "iterations", "loops", "steps", "repeats", "k"})
_IMAGE_RANK = 4


@dataclass(frozen=True)
class InputSpec:
    """An input as it is fed: its name, its shape and NumPy's name of its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def input_values(
    specs: Sequence[InputSpec], given: GivenInputs, seed: int = 0
) -> tuple[NDArray[Any], ...]:
    """One array for each of ``specs``: the one given, one that its name asks for, or random.

    The n-th random one is of ``seed`` + n - 1. Raises UnsupportedError for a given value that does
    not fit.
    """
    arrays = []
    for place, spec in enumerate(specs):
        if spec.name in given:
            array = fitted(spec.name, given[spec.name], spec.shape, spec.dtype)
        else:
            told = _told(spec, specs)
            array = example_input(spec.shape, spec.dtype, seed + place) if told is None else told
        arrays.append(array)
    return tuple(arrays)


def made_up_note(specs: Sequence[InputSpec], given: GivenInputs) -> tuple[str, ...]:
    """A sentence on the values that ``specs`` got for their names, none where there are none."""
    told = [(spec.name, _told(spec, specs)) for spec in specs if spec.name not in given]
    texts = [f"{name} = {_text(array)}" for name, array in told if array is not None]
    if not texts:
        return ()
    return (f"Made up by the names of the inputs: {', '.join(texts)}. --input gives others.",)


def _text(array: NDArray[Any]) -> str:
    values = array.ravel()
    if values.size > 1 and (values == values[0]).all():
        return f"{values[0]:g} everywhere"
    shown = ", ".join(f"{value:g}" for value in values[:_SHOWN_NUMBERS])
    return f"{shown}, …" if values.size > _SHOWN_NUMBERS else shown


def _told(spec: InputSpec, specs: Sequence[InputSpec]) -> NDArray[Any] | None:
    """What the name of an input asks for, None where it asks for nothing."""
    import numpy as np

    kind = np.dtype(spec.dtype)
    if kind.kind in "iu" and kind.itemsize == 1:
        return None  # codes of an image, or whatever else was quantized
    words = [word.lower() for word in _WORD.findall(spec.name)]
    number = _number(words, "".join(words), spec, specs, is_float=kind.kind == "f")
    if number is not None:
        return np.full(spec.shape, number, kind)
    if kind.kind in "iu" and {"position", "positions", "pos"}.intersection(words) and spec.shape:
        line = np.arange(spec.shape[-1], dtype=kind)
        return np.broadcast_to(line, spec.shape).copy()
    if _is_image_size(words, spec):
        sides = _image_sides(specs)
        return None if sides is None else np.full(spec.shape, sides, kind)
    return None


def _number(
    words: Sequence[str],
    joined: str,
    spec: InputSpec,
    specs: Sequence[InputSpec],
    *,
    is_float: bool,
) -> float | None:
    """The number that every element of an input should be."""
    single = all(side == 1 for side in spec.shape)
    found: float | None = None
    if "mask" in joined or joined.startswith("scalefactor"):
        found = 1
    elif single and (joined in _RATES or _RATE.search(joined)):
        found = _SAMPLE_RATE_HZ
    elif is_float:
        found = _THRESHOLD if single and "thresh" in joined else None
    elif spec.dtype == "bool" or len(spec.shape) > 1:
        pass
    elif single and "max" in words and "boxes" in joined:
        found = _MAX_BOXES
    elif _LENGTHS.intersection(words) or _LENGTH.search(joined):
        found = _length(spec, specs)
    elif single and _COUNTS.intersection(words):
        found = 1
    return found


def _length(spec: InputSpec, specs: Sequence[InputSpec]) -> int:
    """The longest side, but for the batch, of the first other input that has one."""
    others = (other.shape for other in specs if other is not spec and len(other.shape) > 1)
    return max((max(shape[1:]) for shape in others), default=1)


def _is_image_size(words: Sequence[str], spec: InputSpec) -> bool:
    about = {"im", "image", "img", "orig", "original", "target"}.intersection(words)
    sizes = {"shape", "size", "sizes", "shapes"}.intersection(words)
    return bool(about and sizes) and spec.shape[-1:] == (2,)


def _image_sides(specs: Sequence[InputSpec]) -> tuple[int, int] | None:
    """Height and width of the first input that is an image."""
    for spec in specs:
        if len(spec.shape) == _IMAGE_RANK:
            _, first, second, last = spec.shape
            return (first, second) if last < first else (second, last)
    return None
