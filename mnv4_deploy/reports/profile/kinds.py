"""Families of operator kinds, each with one colour, and the main operator of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from mnv4_deploy.profiles.records.graph import Operator
from mnv4_deploy.profiles.records.profile import Layer, ModelProfile


@dataclass(frozen=True)
class Family:
    """Kinds drawn alike. ``marker`` is matplotlib's, ``symbol`` plotly's."""

    key: str
    title: str
    colour: str
    marker: str = "o"
    symbol: str = "circle"


# Okabe and Ito's palette, safe for colour-blind readers, and two of Paul Tol's muted ones. The
# families that have MACs differ in shape as well.
POINTWISE = Family("pointwise", "1x1 convolution", "#0072B2")
CONVOLUTION = Family("convolution", "Convolution", "#E69F00", "s", "square")
DEPTHWISE = Family("depthwise", "Depthwise, grouped conv.", "#009E73", "D", "diamond")
MATMUL = Family("matmul", "Matmul, fully connected", "#CC79A7", "^", "triangle-up")
NORM = Family("norm", "Softmax, normalisation", "#D55E00", "v", "triangle-down")
ELEMENTWISE = Family("elementwise", "Elementwise, activation", "#56B4E9", "h", "hexagon")
POOL = Family("pool", "Pooling, reduce, resize", "#882255", "p", "pentagon")
MOVE = Family("move", "Data movement", "#DDCC77", "P", "cross")
CONVERT = Family("convert", "Quantize, convert", "#999933", "X", "x")
RUNTIME = Family("runtime", "Runtime", "#BBBBBB", "*", "star")
OTHER = Family("other", "Other", "#777777", "d", "diamond-tall")
WHOLE = Family("whole", "The model as a whole", "#332288")
FAMILIES = (
    POINTWISE,
    CONVOLUTION,
    DEPTHWISE,
    MATMUL,
    NORM,
    ELEMENTWISE,
    POOL,
    MOVE,
    CONVERT,
    RUNTIME,
    OTHER,
    WHOLE,
)

# The first rule with a part of the kind decides; kinds are compared without case and "_".
_RULES: tuple[tuple[Family, tuple[str, ...]], ...] = (
    (OTHER, ("nonmaxsuppression",)),
    (CONVERT, ("quantize", "cast", "convert")),
    (DEPTHWISE, ("depthwise",)),
    (CONVOLUTION, ("conv",)),
    (MATMUL, ("matmul", "gemm", "fullyconnected", "einsum", "attention", "lstm", "gru", "rnn")),
    (NORM, ("softmax", "norm", "lrn")),
    (POOL, ("pool", "reduce", "mean", "resize", "upsample", "argm", "topk", "cumsum")),
    (
        MOVE,
        (
            *("reshape", "transpose", "concat", "slice", "split", "gather", "scatter", "pad"),
            *("pack", "squeeze", "expand", "tile", "flatten", "reorder", "shape", "copy"),
            *("spacetodepth", "depthtospace", "identity", "broadcast", "constant"),
        ),
    ),
    (
        ELEMENTWISE,
        (
            *("add", "sub", "mul", "div", "max", "min", "sum", "relu", "elu", "sigmoid", "tanh"),
            *("swish", "logistic", "clip", "erf", "pow", "sqrt", "exp", "log", "abs", "neg"),
            *("square", "sin", "cos", "floor", "ceil", "round", "greater", "less", "equal"),
            *("where", "select", "not", "and", "or", "mish", "softplus", "silu"),
        ),
    ),
)


def main_op(profile: ModelProfile, layer: Layer) -> Operator | None:
    """The file's operator that gave ``layer`` its type; None where no operator asked for it."""
    ops = [profile.measurement.graph.ops[i] for i in layer.op_indices]
    alike = [op for op in ops if op.kind == layer.op_type]
    named = [op for op in alike if op.name == layer.name]
    return next(iter(named or alike or ops), None)


def family_of(profile: ModelProfile, layer: Layer) -> Family:
    """The family of ``layer``; convolutions are told apart by their weights and groups."""
    if layer is profile.whole:
        return WHOLE
    if layer.backend == "runtime":
        return RUNTIME
    kind = layer.op_type.lower().replace("_", "")
    family = next((f for f, parts in _RULES if any(part in kind for part in parts)), OTHER)
    if family is not CONVOLUTION:
        return family
    op = main_op(profile, layer)
    if op is None:
        return family
    groups = op.attributes.get("group", 1)
    if isinstance(groups, int) and groups > 1:
        return DEPTHWISE
    return POINTWISE if _kernel_size(profile, op) == (1, 1) else family


def _kernel_size(profile: ModelProfile, op: Operator) -> tuple[int, ...]:
    """Height and width of the weights: OHWI in TFLite, OIHW in ONNX; () where unknown."""
    if len(op.inputs) < 2 or op.inputs[1] < 0:
        return ()
    shape = profile.measurement.graph.tensors[op.inputs[1]].shape
    if len(shape) != 4:
        return ()
    return shape[1:3] if profile.measurement.graph.format == "tflite" else shape[2:4]
