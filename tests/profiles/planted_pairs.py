"""One operator of an .onnx file between Q/DQ pairs, or with one of them left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here
from mnv4_deploy.profiles.records.files import OperatorFacts

SCALE = 0.05
_RNG = np.random.default_rng(0)


def _weights(*shape: int) -> np.ndarray:
    return _RNG.integers(-50, 50, shape).astype(np.int8)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Planted:
    """How to build an operator: what it reads, in the order of its inputs.

    ``reads`` has "x" for a value of ``shape``, "mask" for one of booleans, int8 arrays for
    weights that are dequantized, other arrays for constants and None for an input left out.
    """

    reads: Sequence[Any] = ("x",)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (1, 8, 8, 8)
    outputs: int = 1


_ONE = Planted()
_TWO = Planted(("x", "x"))
_HALVES = np.array([1, 1, 2, 2], np.float32)
_REDUCED = Planted(("x", _ints(2, 3)))

PLANTED: Mapping[str, Planted] = {
    "Conv": Planted(("x", _weights(8, 8, 3, 3))),
    "Gemm": Planted(("x", _weights(8, 8)), shape=(4, 8)),
    "MatMul": Planted(("x", _weights(8, 8)), shape=(4, 8)),
    "Add": _TWO,
    "Mul": _TWO,
    "Where": Planted(("mask", "x", "x")),
    "Concat": Planted(("x", "x"), {"axis": 1}),
    "AveragePool": Planted(attributes={"kernel_shape": [2, 2]}),
    "GlobalAveragePool": _ONE,
    "LeakyRelu": _ONE,
    "Sigmoid": _ONE,
    "Softmax": _ONE,
    "ArgMax": Planted(attributes={"axis": 1}),
    "Relu": _ONE,
    "Clip": Planted(("x", np.float32(0), np.float32(255 * SCALE))),
    "MaxPool": Planted(attributes={"kernel_shape": [2, 2]}),
    "ReduceMax": _REDUCED,
    "ReduceMin": _REDUCED,
    "Resize": Planted(("x", None, _HALVES), {"mode": "nearest"}),
    "Reshape": Planted(("x", _ints(1, -1))),
    "Transpose": Planted(attributes={"perm": [0, 2, 3, 1]}),
    "Squeeze": Planted(("x", _ints(0))),
    "Unsqueeze": Planted(("x", _ints(0))),
    "Slice": Planted(("x", _ints(0), _ints(4), _ints(1))),
    "Flatten": _ONE,
    "Split": Planted(attributes={"num_outputs": 2, "axis": 1}, outputs=2),
    "Gather": Planted(("x", _ints(0, 0))),
    "GatherElements": Planted(("x", np.zeros((2, 2), np.int64)), shape=(8, 8)),
    "Expand": Planted(("x", _ints(2, 8, 8, 8))),
    "Tile": Planted(("x", _ints(2, 1, 1, 1))),
    "DepthToSpace": Planted(attributes={"blocksize": 2}),
    "Pad": Planted(("x", _ints(0, 0, 1, 1, 0, 0, 1, 1))),
}

# Some of what has no row in the table.
WITHOUT_ROW: Mapping[str, Planted] = {
    **dict.fromkeys(("Sub", "Div", "Max", "Min", "Pow", "PRelu"), _TWO),
    **dict.fromkeys(("Gelu", "HardSwish", "HardSigmoid", "Tanh", "Exp", "Sqrt", "Elu"), _ONE),
    **dict.fromkeys(("GlobalMaxPool", "Abs", "Neg", "Mish", "Softplus"), _ONE),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _REDUCED),
    "ConvTranspose": Planted(("x", _weights(8, 8, 3, 3))),
    "LayerNormalization": Planted(("x", np.ones(8, np.float32))),
    "SpaceToDepth": Planted(attributes={"blocksize": 2}),
}


class PairBuilder:
    """Collects the nodes of a graph. Values are float ``x``, and Q/DQ pairs of ``dtype``."""

    def __init__(self, dtype: type = np.uint8, zero_point: int | None = None) -> None:
        low = int(np.iinfo(dtype).min)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.zero = self.constant(np.array(low if zero_point is None else zero_point, dtype))
        self.scale = self.constant(np.float32(SCALE))

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, reads: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; its output's name, or a list of names where it has several."""
        index = len(self.nodes)
        names = [f"v{index}_{k}" for k in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, reads, names, name=f"n{index}_{kind}", **attributes)
        )
        return names if outputs > 1 else names[0]

    def value(self, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        """A new input of the graph, read by a float operator so that no pair touches it."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return str(self.node("Erf", [name])) if dtype == TensorProto.FLOAT else name

    def pair(self, name: str, scale: str = "", zero: str = "") -> str:
        scale, zero = scale or self.scale, zero or self.zero
        codes = self.node("QuantizeLinear", [name, scale, zero])
        return str(self.node("DequantizeLinear", [codes, scale, zero]))

    def weights(self, codes: np.ndarray) -> str:
        zero = self.constant(np.zeros((), codes.dtype))
        return str(self.node("DequantizeLinear", [self.constant(codes), self.scale, zero]))

    def end(self, name: str, dtype: int = TensorProto.FLOAT) -> None:
        """Make ``name`` an output, behind a float operator that no pair passes."""
        if dtype == TensorProto.FLOAT:
            name = self.node("Erf", [name])
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def write(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        model.ir_version = 10
        onnx.save(model, path)
        return path


def plant(
    kind: str,
    path: Path,
    dtype: type = np.uint8,
    *,
    before: bool = True,
    behind: bool = True,
    result_scale: float = SCALE,
    planted: Planted | None = None,
) -> OperatorFacts:
    """What ``inspect`` says of one operator with pairs ``before`` and ``behind`` it."""
    builder = PairBuilder(dtype)
    how = planted or {**PLANTED, **WITHOUT_ROW}[kind]
    reads = []
    for what in how.reads:
        if what is None:
            reads.append("")
        elif isinstance(what, str) and what == "mask":
            reads.append(builder.value(how.shape, TensorProto.BOOL))
        elif isinstance(what, str):
            value = builder.value(how.shape)
            reads.append(builder.pair(value) if before else value)
        elif np.asarray(what).dtype == np.int8:
            reads.append(builder.weights(what))
        else:
            reads.append(builder.constant(what))
    index = len(builder.nodes)
    results = builder.node(kind, reads, how.outputs, **how.attributes)
    scale = builder.constant(np.float32(result_scale))
    for name in [results] if how.outputs == 1 else results:
        if kind == "ArgMax":
            builder.end(name, TensorProto.INT64)
        else:
            builder.end(builder.pair(name, scale) if behind else name)
    return inspect_here(str(builder.write(path))).operators[index]
