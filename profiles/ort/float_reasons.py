"""Why onnxruntime runs an operator of a quantized .onnx file in float.

Whether it does is the runtime's word alone (``inspection/inspect_onnx``), and it gives no reason.
:mod:`~mnv4_deploy.profiles.ort.rules` restates when it makes an int8 operator of one between
QuantizeLinear and DequantizeLinear (Q/DQ) nodes, so it only explains what was observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.ort.rules import (
    CONVERSIONS,
    FEW_CHANNELS,
    FIRST_CONVOLUTION,
    INTEGER_KERNELS,
    NO_KERNEL,
    RULES,
    Rule,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

UNKNOWN = "onnxruntime does not say"

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_CLIPS = ("Relu", "Clip")
# These read a shape, not values, or only hand on.
_NO_ARITHMETIC = ("Shape", "Size", "Identity", "Dropout", "Cast", *CONVERSIONS)


def float_reasons(graph: onnx.GraphProto, in_float: Iterable[int]) -> dict[int, str]:
    """Why the nodes at the indices ``in_float`` compute in float, one sentence each.

    Empty for a file in which nothing is quantized. A sentence is :data:`UNKNOWN` where no rule
    fits.
    """
    if not any(n.op_type.startswith((*CONVERSIONS, *INTEGER_KERNELS)) for n in graph.node):
        return {}
    wiring = _Wiring(graph)
    return {
        index: _explain(wiring, graph.node[index])
        for index in in_float
        if graph.node[index].op_type not in _NO_ARITHMETIC
    }


def image_inputs(graph: onnx.GraphProto) -> frozenset[str]:
    """Inputs ``[N, C, H, W]`` of few channels, as an image has them."""
    shapes = {v.name: v.type.tensor_type.shape.dim for v in graph.input}
    return frozenset(
        name
        for name, dims in shapes.items()
        if len(dims) == 4 and 0 < dims[1].dim_value <= FEW_CHANNELS
    )


class _Wiring(OnnxLinks):
    """Who writes and who reads each value of a graph, Q and DQ looked through."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self.images = image_inputs(graph)

    def origin(self, name: str) -> tuple[str, onnx.NodeProto | None]:
        """The value that ``name`` is, but for what a Q or DQ passes, and what wrote it."""
        maker = self.makers.get(name)
        while maker is not None and _passes(maker):
            name = maker.input[0]
            maker = self.makers.get(name)
        return name, None if name in self.constants else maker

    def quantizers(self, name: str) -> list[onnx.NodeProto]:
        """The QuantizeLinear nodes that read a value, also behind what they pass."""
        found, names = [], [name]
        for value in names:
            for reader in self.readers[value]:
                if reader.op_type == "QuantizeLinear":
                    found.append(reader)
                elif _passes(reader) and reader.input[0] == value:
                    names.append(reader.output[0])
        return found

    def number(self, node: onnx.NodeProto, position: int) -> npt.NDArray[Any] | None:
        """An input that is one constant number, None if it is something else."""
        from onnx import numpy_helper

        tensor = self.constants.get(node.input[position]) if len(node.input) > position else None
        if tensor is None or tensor.data_location == tensor.EXTERNAL:
            return None
        number = numpy_helper.to_array(tensor)
        return number if number.size == 1 else None

    def is_single_pair(self, codes: str) -> bool:
        """Whether a QuantizeLinear writes ``codes`` and one operator reads them dequantized."""
        readers = [
            r for dq in self.readers[codes] for name in dq.output for r in self.readers[name]
        ]
        return self.maker(codes, "QuantizeLinear") is not None and len(readers) == 1

    def codes(self, node: onnx.NodeProto) -> str:
        """The type of what a Q writes or a DQ reads, "" where no zero point tells."""
        zero_point = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero_point is None:
            return ""
        from onnx import TensorProto

        return str(TensorProto.DataType.Name(zero_point.data_type)).lower()


def _passes(node: onnx.NodeProto) -> bool:
    rule = RULES.get(node.op_type)
    return rule is not None and rule.passes and len(node.input) > 0


def _explain(wiring: _Wiring, node: onnx.NodeProto) -> str:
    rule = RULES.get(node.op_type)
    if rule is None or rule.way == "none":
        return NO_KERNEL
    reason = next(_reasons(wiring, node, rule), UNKNOWN)
    return f"{reason}; {rule.slower}" if rule.slower else reason


def _reasons(wiring: _Wiring, node: onnx.NodeProto, rule: Rule) -> Iterator[str]:
    """What keeps ``node`` from running in 8 bits, the plainest first."""
    positions = range(len(node.input)) if rule.operands is None else rule.operands
    operands = [i for i in positions if i < len(node.input) and node.input[i]]
    origins = {i: wiring.origin(node.input[i]) for i in operands}
    constants = [i for i, (name, _) in origins.items() if name in wiring.constants]
    pairs = []
    for position, (name, maker) in origins.items():
        if maker is not None and maker.op_type == "DequantizeLinear":
            pairs.append(maker)
        elif position not in constants:
            yield _float_operand(wiring, node, name, maker)
    for codes in map(wiring.codes, pairs):
        if codes not in ("", "int8", "uint8", "int32") and not rule.wide:
            yield f"onnxruntime runs it in int8 and uint8 only, and it reads {codes}"
    mode = next(
        (a.s.decode(errors="replace") for a in node.attribute if a.name == "mode"), rule.mode
    )
    if rule.mode and mode != rule.mode:
        yield f"onnxruntime runs it in 8 bits in mode {rule.mode} only, and this is {mode}"
    if not rule.writes_float or any(map(wiring.quantizers, node.output)):
        yield from _float_result(wiring, node)
    for position in constants:
        weighted = node.op_type in _WEIGHTED and position == 1
        yield f"{'its weights are' if weighted else 'a constant that it reads is'} not quantized"
    behind = [q for name in node.output for q in wiring.quantizers(name)]
    if rule.way == "clips":
        yield from _clipping(wiring, node, behind)
    else:
        yield from _other_types(wiring, node, pairs, behind)
    if rule.way == "moves":
        yield from _other_scale(wiring, pairs, behind)


def _float_operand(
    wiring: _Wiring, node: onnx.NodeProto, name: str, maker: onnx.NodeProto | None
) -> str:
    """Of an operand whose value is ``name``, written by ``maker`` and no DequantizeLinear."""
    if maker is not None:
        return f"it reads what {maker.op_type} wrote in float, with no Q/DQ pair between"
    if node.op_type == "Conv" and name in wiring.images:
        return FIRST_CONVOLUTION
    return "it reads float input of the file, with no Q/DQ pair between"


def _float_result(wiring: _Wiring, node: onnx.NodeProto) -> Iterator[str]:
    """Where the results are not read by one QuantizeLinear each."""
    for output in filter(None, node.output):
        name, of_what = output, "its result"
        readers = wiring.readers[name]
        if len(readers) == 1 and readers[0].op_type in _CLIPS and name not in wiring.outputs:
            clip = readers[0]
            name, of_what = clip.output[0], f"the result of the {clip.op_type} behind it"
            for reason in _clipping(wiring, clip, wiring.quantizers(name)):
                yield f"the {clip.op_type} behind it stays: {reason}"
        readers, quantizers = wiring.readers[name], wiring.quantizers(name)
        # onnxruntime makes one of equal ones.
        ways = len({tuple(quantizer.input) for quantizer in quantizers})
        if name in wiring.outputs:
            yield f"{of_what} is an output of the file, in float"
        elif not quantizers:
            yield f"{of_what} has no QuantizeLinear behind it"
        elif len(quantizers) < len(readers):
            other = next(r.op_type for r in readers if r.op_type != "QuantizeLinear")
            yield f"{of_what} is quantized, and {other} reads it in float too"
        elif ways > 1:
            yield f"{of_what} is quantized in {ways} ways"


def _clipping(
    wiring: _Wiring, clip: onnx.NodeProto, quantizers: Iterable[onnx.NodeProto]
) -> Iterator[str]:
    """Where a QuantizeLinear's range goes beyond what ``clip``, a Relu or Clip, lets through."""
    import numpy as np

    least, most = _limits(wiring, clip)
    for quantizer in quantizers:
        scale, zero_point = wiring.number(quantizer, 1), wiring.number(quantizer, 2)
        if scale is None or zero_point is None or zero_point.dtype.kind not in "iu":
            continue
        codes, step = np.iinfo(zero_point.dtype), float(scale.item())
        low = (codes.min - int(zero_point.item())) * step
        high = (codes.max - int(zero_point.item())) * step
        if low < least or high > most:
            yield (
                f"it clips to [{least:g}, {most:g}], and the QuantizeLinear behind it to"
                f" [{low:.3g}, {high:.3g}]"
            )


def _limits(wiring: _Wiring, clip: onnx.NodeProto) -> tuple[float, float]:
    """What a Relu or Clip lets through; a limit that is no constant counts as none."""
    if clip.op_type == "Relu":
        return 0.0, inf
    found = {a.name: a.f for a in clip.attribute}  # before opset 11
    for name, position in (("min", 1), ("max", 2)):
        number = wiring.number(clip, position)
        if number is not None:
            found[name] = float(number.item())
    return found.get("min", -inf), found.get("max", inf)


def _other_types(
    wiring: _Wiring,
    node: onnx.NodeProto,
    pairs: Sequence[onnx.NodeProto],
    behind: Sequence[onnx.NodeProto],
) -> Iterator[str]:
    """Where int8 meets uint8, in the file or once onnxruntime made some of it uint8."""
    weighted = node.op_type in _WEIGHTED
    activations = [*(pairs[:1] if weighted else pairs), *behind]
    types = set(map(wiring.codes, activations))
    if weighted and types == {"int8"}:
        types |= set(map(wiring.codes, pairs[1:2]))
    if {"int8", "uint8"} <= types:
        yield "it mixes int8 and uint8, which onnxruntime runs in 8 bits on x86 only"
    codes = (n.input[0] if n.op_type == "DequantizeLinear" else n.output[0] for n in activations)
    if "int8" in types and not all(map(wiring.is_single_pair, codes)):
        yield (
            "onnxruntime on x86 makes int8 values uint8 only where a QuantizeLinear writes them"
            " for a single operator: quantize activations to uint8"
        )


def _other_scale(
    wiring: _Wiring, pairs: Sequence[onnx.NodeProto], behind: Sequence[onnx.NodeProto]
) -> Iterator[str]:
    """Where codes that are only moved mean another value than before."""
    for before in pairs[:1]:
        for after in behind:
            for what, position in (("scale", 1), ("zero point", 2)):
                old, new = wiring.number(before, position), wiring.number(after, position)
                if old is not None and new is not None and old.item() != new.item():
                    yield f"it only moves codes, and its result has another {what} than its input"
