"""The outputs of plain runs here and there, as an application gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.device.device import TensorSession
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.layers.layer import Array, Quantization
from mnv4_deploy.parity.inputs import Inputs
from mnv4_deploy.parity.layers import INTEGERS
from mnv4_deploy.parity.records import Difference
from mnv4_deploy.parity.tiers import Tally, worst_of
from mnv4_deploy.profiles.records.files import TensorFacts

_RANK_OF_CLASSES = 2


@dataclass(frozen=True)
class OutputsParity:
    """``digests_here`` and ``digests_there`` stand for the outputs of each inference."""

    difference: Difference
    top_class_differs: int | None
    digests_here: tuple[bytes, ...]
    digests_there: tuple[bytes, ...]


def compare_outputs(
    here: TensorSession, there: TensorSession, inputs: Inputs, facts: Sequence[TensorFacts]
) -> OutputsParity:
    """Run every inference on both sides; ``facts`` are those of the file's outputs.

    Raises UnsupportedError for outputs that are no numbers, and what the sessions raise.
    """
    for fact in facts:
        _check_type(fact)
    tallies = [Tally(_quantization(fact)) for fact in facts]
    digests: tuple[list[bytes], list[bytes]] = ([], [])
    differs: int | None = 0
    for at in range(inputs.count):
        arrays = inputs.make(at)
        results = tuple(run(session, arrays, len(facts)) for session in (here, there))
        for tally, mine, theirs in zip(tallies, *results, strict=True):
            tally.add(mine, theirs)
        for kept, result in zip(digests, results, strict=True):
            kept.append(digest(result))
        other = _top_differs(*results)
        differs = None if differs is None or other is None else differs + other
    return OutputsParity(
        worst_of([tally.result() for tally in tallies]),
        differs,
        tuple(digests[0]),
        tuple(digests[1]),
    )


def run(session: TensorSession, inputs: Sequence[Array], expected: int) -> tuple[Array, ...]:
    """One inference; ToolchainError where the other side sends another number of tensors."""
    found = session.run(inputs)
    if len(found) != expected:
        raise ToolchainError(
            f"{session.runtime} gave {len(found)} tensors instead of {expected}: its versions "
            "here and on the device do not read the file alike."
        )
    return found


def _check_type(fact: TensorFacts) -> None:
    try:
        known = np.dtype(fact.dtype).kind in "biuf"
    except TypeError:
        known = False
    if not known:
        raise UnsupportedError(
            f"Output {fact.name!r} is {fact.dtype}, which cannot be compared: give a file with "
            "numeric outputs."
        )


def digest(outputs: Sequence[Array]) -> bytes:
    """The same for outputs that agree bit for bit: they themselves may be large."""
    found = hashlib.blake2b(digest_size=16)
    for output in outputs:
        found.update(f"{output.dtype.name}{output.shape}".encode())
        found.update(output.tobytes())
    return found.digest()


def _quantization(fact: TensorFacts) -> Quantization | None:
    if len(fact.scale) != 1 or fact.scale[0] <= 0 or fact.dtype not in INTEGERS:
        return None
    return Quantization(fact.scale[0], (*fact.zero_point, 0)[0], fact.dtype)


def _top_differs(here: Sequence[Array], there: Sequence[Array]) -> bool | None:
    """Whether a row of classes has another best one; None for outputs of another kind."""
    if len(here) != 1 or here[0].ndim != _RANK_OF_CLASSES or here[0].shape[1] < 2:
        return None
    if here[0].shape != there[0].shape:
        return None
    return bool(np.any(here[0].argmax(axis=1) != there[0].argmax(axis=1)))
