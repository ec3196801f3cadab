"""What a user gave as the value of an input. No heavy imports: a device can load this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GivenInput:
    """Numbers as ``text`` ("16000", "1,2,3"), or an array.

    ``array``: the bytes of an .npy file in base64, "" for text; ``shape`` is its shape and
    ``source`` where it is from, for messages.
    """

    text: str = ""
    array: str = ""
    shape: tuple[int, ...] = ()
    source: str = ""


GivenInputs = Mapping[str, GivenInput]


@dataclass(frozen=True)
class RunSettings:
    """How a file runs: ``shapes`` of dynamic inputs by name ("" is the only input, as in
    ``graph.shapes.resolve_shape``), ``given`` values of inputs, and the ``signature`` of a .tflite
    file ("" is the first)."""

    threads: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    given: GivenInputs = field(default_factory=dict)
    signature: str = ""


ONE_THREAD = RunSettings()
