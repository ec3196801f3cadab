"""Frozen records of a parity check: the same tensors through a file here and on a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceOptions
from mnv4_deploy.profiles.records.inputs import GivenInput

# From the strictest on: names of ``tolerances.TOLERANCES``, and "different" for what is in none.
Verdict = Literal["exact", "reordered", "approximated", "float16", "different"]


@dataclass(frozen=True)
class ParityRequest:
    """``data`` is "bundled", "random", a folder of images or an .npz file of inputs; ``inputs``
    are values that inputs have in every inference."""

    path: str
    devices: tuple[str, ...]
    options: DeviceOptions = field(default_factory=DeviceOptions)
    data: str = "bundled"
    images: int = 16
    seed: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: dict[str, GivenInput] = field(default_factory=dict)
    tolerance: Verdict = "reordered"
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Difference:
    """Two tensors compared over all inputs.

    ``elements`` in all, ``differing`` of them not equal bit for bit. ``max_error`` and
    ``max_relative_error`` (of the largest magnitude here) are in real values, ``max_codes`` in
    quantization steps (None for floats). ``sqnr_db`` is infinite for equal tensors.
    """

    elements: int
    differing: int
    max_error: float
    max_relative_error: float
    max_codes: int | None
    sqnr_db: float
    verdict: Verdict


@dataclass(frozen=True)
class LayerParity:
    """One intermediate tensor.

    ``difference`` is over all inferences, ``on_equal_inputs`` over those alone in which all that
    the layer reads was the same bit for bit on both sides (None: there was none): such a
    difference is the layer's own. ``inputs_equal``: it has one, or never got unequal inputs.
    ``step`` is the quantization step of its output, None for floats.
    """

    index: int
    module: str
    kind: str
    compute: str
    tensor: str
    shape: tuple[int, ...]
    difference: Difference
    inputs_equal: bool
    step: float | None = None
    on_equal_inputs: Difference | None = None

    @property
    def own(self) -> Difference:
        """The layer's own difference: on equal inputs, where it ran on them."""
        return self.on_equal_inputs or self.difference


@dataclass(frozen=True)
class DeviceParity:
    """One device against this machine.

    ``outputs`` is of the plain runs, as an application makes them. ``layers`` are those of the
    runs that keep intermediate tensors, in order of execution, empty where the outputs are equal
    bit for bit and nobody asked, or where the runtime cannot keep them (``notes`` say so).
    ``first`` indexes the first of ``layers`` that differs on equal inputs. ``explanation`` says
    in plain words why, as far as the evidence goes; ``own`` counts the layers that differ on
    equal inputs. ``top_class_differs`` counts the inferences with another best class, None where
    the output is no row of classes. ``first_code`` indexes the first layer whose codes differ on
    equal inputs, and ``code_explanation`` is about it: floats before it that differ in their last
    bits may well mean nothing.
    """

    device: str
    facts: DeviceFacts
    runtime: str
    outputs: Difference
    layers: tuple[LayerParity, ...] = ()
    first: int | None = None
    explanation: str = ""
    notes: tuple[str, ...] = ()
    top_class_differs: int | None = None
    first_code: int | None = None
    code_explanation: str = ""

    @property
    def own(self) -> int:
        return sum(layer.inputs_equal and layer.difference.differing > 0 for layer in self.layers)


@dataclass(frozen=True)
class ParityResult:
    """``quantized``: the file computes in integers, so that outputs must agree bit for bit.
    ``failed``: a device's outputs are further off than the request allows."""

    path: str
    sha256: str
    runtime: str
    here: DeviceFacts
    inputs: str
    count: int
    quantized: bool
    devices: tuple[DeviceParity, ...]
    failed: bool
