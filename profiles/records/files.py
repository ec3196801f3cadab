"""Frozen records that pass between the stages. No heavy imports: a device can load this."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a model file."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()

    @property
    def described(self) -> str:
        """ "'logits' float32 [1, 1000]", for messages."""
        return f"{self.name!r} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class OperatorFacts:
    """One operator of a model file and where it runs.

    ``delegated`` is None where the question does not arise (onnxruntime) or the runtime could
    not be asked. ``compute`` is the arithmetic the operator really runs in ("int8", "float32",
    ...), as far as it is known; a conversion reads "float32->int8", an operator that the runtime
    folded away reads "none". ``runs_as`` is the kind of the operator that does its work in the
    optimised graph, where that is another one (onnxruntime: "QLinearConv" for "Conv").
    ``refusal`` says why XNNPACK did not take it, ``float_reason`` why onnxruntime computes it in
    float although the file is quantized; None for all others.
    """

    index: int
    kind: str
    name: str
    compute: str
    delegated: bool | None = None
    partition: int | None = None
    refusal: str | None = None
    runs_as: str | None = None
    float_reason: str | None = None


@dataclass(frozen=True)
class SignatureFacts:
    """A way into a .tflite file. The names of ``inputs`` and ``outputs`` are the signature's."""

    name: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


@dataclass(frozen=True)
class GraphFacts:
    """A graph that operators of another run: the body of a loop, a branch.

    ``run_by`` are the kinds of those operators; ``partitions`` are its own, None where the runtime
    could not be asked.
    """

    index: int
    run_by: tuple[str, ...]
    operators: tuple[OperatorFacts, ...]
    partitions: int | None = None


@dataclass(frozen=True)
class FileFacts:
    """What ``inspect`` finds in a .tflite or .onnx file.

    ``executed_histogram`` counts the operators of the graph that onnxruntime really runs after
    its own optimisation: Q/DQ nodes still in it are real conversions. None for TFLite.
    ``operators`` and ``partitions`` are those of the graph behind ``signature`` ("" for the first
    graph), one of ``signatures``; ``bodies`` are the graphs that its operators run.
    ``notes`` are sentences about facts that could not be had.
    """

    path: str
    format: Literal["tflite", "onnx"]
    size_bytes: int
    sha256: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: tuple[OperatorFacts, ...]
    weight_bytes_by_dtype: dict[str, int]
    metadata: dict[str, str] = field(default_factory=dict)
    partitions: int | None = None
    delegated_share: float | None = None
    notes: tuple[str, ...] = ()
    executed_histogram: dict[str, int] | None = None
    signature: str = ""
    signatures: tuple[SignatureFacts, ...] = ()
    bodies: tuple[GraphFacts, ...] = ()

    @property
    def histogram(self) -> dict[str, int]:
        """How many operators of each kind the file has, most frequent first."""
        return dict(Counter(op.kind for op in self.operators).most_common())

    @property
    def compute_histogram(self) -> dict[str, int]:
        """How many operators run in each arithmetic, most frequent first."""
        return dict(Counter(op.compute for op in self.operators).most_common())

    @property
    def not_delegated(self) -> tuple[OperatorFacts, ...]:
        return tuple(op for op in self.operators if op.delegated is False)

    @property
    def in_float(self) -> tuple[OperatorFacts, ...]:
        """Operators that onnxruntime computes in float although the file is quantized."""
        return tuple(op for op in self.operators if op.float_reason is not None)
