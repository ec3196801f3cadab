"""Frozen records of a model file's graph and of what its operators cost.

No heavy imports: a device can load this. MACs are stored, never FLOPs (twice as many).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["tflite", "onnx"]
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...]

_BITS = {
    "bool": 8,
    "int2": 2,
    "uint2": 2,
    "float4e2m1": 4,
    "float8e4m3fn": 8,
    "float8e4m3fnuz": 8,
    "float8e5m2": 8,
    "float8e5m2fnuz": 8,
    "float8e8m0": 8,
    "complex64": 64,
    "complex128": 128,
    "int4": 4,
    "uint4": 4,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
    "float16": 16,
    "bfloat16": 16,
    "int32": 32,
    "uint32": 32,
    "float32": 32,
    "int64": 64,
    "uint64": 64,
    "float64": 64,
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model file with every dimension resolved.

    ``shape`` is the file's own layout (NHWC in TFLite, NCHW in ONNX). ``constant``: the file
    holds its data, which makes it a weight. ``declared`` is the shape in the file, with -1 for a
    dimension that it leaves open; () where it declares none.

    ``scale`` of a quantized tensor is one number for all of it or one for each index of ``axis``,
    () for one that is not quantized; ``zero_point`` likewise, and () can also stand for 0.
    ``variable``: it keeps its value from run to run (TFLite's recurrent operators).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    declared: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0
    variable: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Of an element; 0 for a type without a fixed size (string)."""
        return _BITS.get(self.dtype, 0)

    @property
    def size_bytes(self) -> int:
        """Bytes of its data; 0 for a type without a fixed size (string)."""
        return (self.elements * self.bits + 7) // 8


@dataclass(frozen=True)
class Operator:
    """An operator of a model file, in the file's order.

    ``inputs`` and ``outputs`` index ``ModelGraph.tensors``; -1 is an optional input left out.
    ``attributes`` are the operator's options under the format's own names ("stride_h",
    "adj_y"; "strides", "group"). ``custom``: the format itself does not define its kind.
    ``calls`` are the numbers of the file's other graphs that it runs (WHILE, IF, CALL_ONCE).

    ``holder`` is the operator in whose branch or body it is, -1 for those of the main graph.
    ``runs`` is how often it runs in one inference with the inputs that the graph was read with;
    ``varies``: not always with the shapes that its tensors have here, which are the smallest.
    """

    index: int
    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    custom: bool = False
    holder: int = -1
    runs: int = 1
    varies: bool = False
    calls: tuple[int, ...] = ()


@dataclass(frozen=True)
class Signature:
    """A way into a .tflite file: one of its graphs under a name of its own.

    ``inputs`` and ``outputs`` are names of the signature with tensors of the graph, by index.
    """

    name: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ModelGraph:
    """A graph of a .tflite or .onnx file, the same for both formats.

    Where it was read whole, the operators of branches and bodies follow those of the main graph;
    what a branch or body hands out is among the inputs of its holder. ``subgraph`` is its number
    in the file and ``subgraphs`` how many there are; an .onnx file has one, for its branches are
    inside operators. ``signatures`` are all that the file has. ``weight_bytes``: what constants
    take in the file, by element type; data that several tensors share counts once. ``metadata``:
    what the file says of itself, by key.
    """

    format: Format
    tensors: tuple[Tensor, ...]
    ops: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int = 1
    subgraph: int = 0
    signatures: tuple[Signature, ...] = ()
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def sources(self, op: Operator) -> tuple[Tensor, ...]:
        """The input tensors of ``op`` that are there."""
        return tuple(self.tensors[i] for i in op.inputs if i >= 0)

    def targets(self, op: Operator) -> tuple[Tensor, ...]:
        return tuple(self.tensors[i] for i in op.outputs if i >= 0)

    def constants(self, kinds: Collection[str] | None = None) -> frozenset[int]:
        """Stored tensors and what operators, of these ``kinds`` or all, make of those alone."""
        found = {index for index, tensor in enumerate(self.tensors) if tensor.constant}
        for op in self.ops:
            if kinds is not None and op.kind not in kinds:
                continue
            if all(t < 0 or t in found for t in op.inputs):
                found.update(op.outputs)
        return frozenset(found)


@dataclass(frozen=True)
class OpCost:
    """What one layer must compute and move, at the real types.

    ``other_ops`` are scalar operations that are no multiply-accumulates (additions,
    comparisons, exponentials, each counted once). Bytes are counted once per tensor: the least
    that has to move.
    """

    macs: int = 0
    other_ops: int = 0
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def activation_bytes(self) -> int:
        return self.read_bytes + self.written_bytes

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes

    @property
    def operational_intensity(self) -> float:
        """MACs per byte (MobileNetV4 paper, section 3); 0 for a layer that moves nothing."""
        return self.macs / self.bytes if self.bytes else 0.0

    def __add__(self, other: OpCost) -> OpCost:
        return OpCost(
            self.macs + other.macs,
            self.other_ops + other.other_ops,
            self.weight_bytes + other.weight_bytes,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )
