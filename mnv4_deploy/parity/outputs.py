"""The outputs of plain runs here and there, as an application gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.device.device import TensorSession
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.layers.layer import Array
from mnv4_deploy.layers.quantizations import quantization_of
from mnv4_deploy.parity.differences import Tally, worst_of
from mnv4_deploy.parity.inputs import Inputs
from mnv4_deploy.parity.records import Difference
from mnv4_deploy.profiles.records.files import TensorFacts


@dataclass(frozen=True)
class OutputsParity:
    """``digests_here`` and ``digests_there`` stand for the outputs of each inference."""

    difference: Difference
    top_class_differs: int | None
    digests_here: tuple[bytes, ...]
    digests_there: tuple[bytes, ...]


def compare_outputs(
    here: TensorSession,
    there: TensorSession,
    inputs: Inputs,
    facts: Sequence[TensorFacts],
    *,
    classes: bool,
) -> OutputsParity:
    """Run every inference on both sides; ``facts`` are those of the file's outputs.

    ``classes``: its only output is a row of classes, whose best one counts.

    Raises UnsupportedError for outputs that are no numbers, and what the sessions raise.
    """
    for fact in facts:
        _check_type(fact)
    tallies = [Tally(quantization_of(fact)) for fact in facts]
    digests: tuple[list[bytes], list[bytes]] = ([], [])
    differs = 0 if classes else None
    for at in range(inputs.count):
        arrays = inputs.make(at)
        results = tuple(run(session, arrays, len(facts)) for session in (here, there))
        for tally, mine, theirs in zip(tallies, *results, strict=True):
            tally.add(mine, theirs)
        for kept, result in zip(digests, results, strict=True):
            kept.append(digest(result))
        if differs is not None:
            differs += _top_differs(*results)
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


def _top_differs(here: Sequence[Array], there: Sequence[Array]) -> bool:
    """Whether a row of classes has another best one."""
    return here[0].shape != there[0].shape or bool(
        np.any(here[0].argmax(axis=1) != there[0].argmax(axis=1))
    )
