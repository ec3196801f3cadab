"""PyTorch module paths of operators, from the names that exporters leave in files.

Both formats give one layer the same path: what this project's exporters wrap around a layer is
taken off, and a convolution is named after its weights, not after the activation fused into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

_WEIGHTED = frozenset(
    {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"),
        *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"),
        *("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"),
    }
)
_SEQUENCES = frozenset({"blocks", "block", "layers", "layer", "stages"})
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
# Names that converters make up where the network has none.
_MADE_UP = re.compile(
    r"(tfl|arith|stablehlo|std|p2o|serving_default|onnx|node)(\.|_|::)|"
    r"(StatefulPartitionedCall|PartitionedCall|Identity|unknown)(_\d+)?(:\d+)?$|"
    r".*\.(tmp|w|b)_\d+$|(getitem|val|view)(_\d+)?$"
)
# "module;2" (litert-torch numbers repeated names), then what ai-edge-quantizer appends.
_REPEATED = re.compile(r"(;\d+|;u?int8)?(_(de)?quant(ized)?)?$")
_PARAMETER = re.compile(r"\.(weight|bias)(_quantized|_DequantizeLinear)?(_Output)?$")
_QDQ = re.compile(r"(_(Quantize|Dequantize)Linear)(_\d+)?(_Output)?$")
# "torch.nn.modules.conv.Conv2d_conv_stem": a class path, then the attribute it is stored in.
_CLASS_STEP = re.compile(r"(?:\w+\.)+(_?[A-Za-z0-9]+)(?:_(\w+))?")
_WEIGHTED_CLASS = re.compile(r"Conv|Linear")
# "qkv.layer", "key.layer.proj" and "key.proj.conv" are modules that export puts around a layer.
_WRAPPERS = (
    (re.compile(r"^wrapped\."), ""),
    (re.compile(r"\.layer(?=\.(?!\d)|$)"), ""),
    (re.compile(r"\.proj\.conv$"), ".proj"),
)
# Steps of a TensorFlow scope that are parts of one layer.
_TF_PARTS = re.compile(
    r"(batch_norm(alization)?|BatchNorm|bn|relu6?|Relu6?|activation|act|BiasAdd|Conv2D)(_\d+)?"
)


def module_of_ops(graph: ModelGraph) -> tuple[str, ...]:
    """The dotted module path of each operator of ``graph``; "" where the names do not tell.

    Files from TensorFlow give scopes with slashes instead ("MobilenetV2/expanded_conv_1").
    """
    return tuple(_tflite(graph) if graph.format == "tflite" else _onnx(graph))


def block_of(module: str, depth: int | None = None) -> str:
    """The block of the network that ``module`` belongs to, for totals.

    A path up to its first number, and on through nested sequences: "blocks.2.4.attn" is in
    "blocks.2.4", "layer1.0.conv1" in "layer1.0", "head.fc" in "head". Of a scope with slashes
    the first two levels. ``depth`` takes that many levels instead.
    """
    separator = "/" if "/" in module else "."
    steps = module.split(separator)
    if depth is not None:
        return separator.join(steps[: max(depth, 1)])
    if separator == "/":
        return "/".join(steps[:2])
    end = next((i for i, step in enumerate(steps) if step.isdigit()), None)
    if end is None:
        return steps[0]
    while end + 1 < len(steps):
        if steps[end + 1].isdigit():
            end += 1
        elif steps[end + 1] in _SEQUENCES and end + 2 < len(steps) and steps[end + 2].isdigit():
            end += 2
        else:
            break
    return ".".join(steps[: end + 1])


def canonical(module: str) -> str:
    """``module`` without the wrappers that export puts around layers."""
    for pattern, replacement in _WRAPPERS:
        module = pattern.sub(replacement, module)
    return module


def _tflite(graph: ModelGraph) -> Iterator[str]:
    producer = {t: op for op in graph.ops for t in op.outputs}
    own = {_REPEATED.sub("", graph.tensors[i].name) for i in (*graph.inputs, *graph.outputs)}
    # A single word is a module's name only in files that name every tensor after its module.
    numbered = any(re.search(r";\d+$", t.name) for t in graph.tensors)
    for op in graph.ops:
        names = [*_weight_names(graph, op, producer), *(t.name for t in graph.targets(op))]
        yield next(filter(None, (_tensor_module(n, op, own, numbered) for n in names)), "")


def _weight_names(graph: ModelGraph, op: Operator, producer: dict[int, Operator]) -> list[str]:
    """The name of the operator's weights, where they are constants, unpacked or not."""
    if op.kind not in _WEIGHTED or len(op.inputs) < 2 or op.inputs[1] < 0:
        return []
    weights = graph.tensors[op.inputs[1]]
    source = producer.get(op.inputs[1])
    if source is not None and source.inputs and source.kind.upper().startswith("DEQ"):
        packed = graph.tensors[source.inputs[0]]
        return [weights.name, packed.name] if packed.constant else []
    return [weights.name] if weights.constant else []


def _tensor_module(name: str, op: Operator, own: set[str], numbered: bool) -> str:
    bare = _REPEATED.sub("", name)
    if not bare or bare in own:
        return ""
    if "/" in bare:
        classes = _class_path(name, op.kind in _WEIGHTED)
        if classes is not None:
            return canonical(classes)
        # Constants that are equal are merged across layers: their names tell less.
        return "" if name not in op.name else _scope(bare.split(";")[0])
    if _MADE_UP.match(bare) or not _PATH.fullmatch(bare) or not ("." in bare or numbered):
        return ""
    return canonical(bare)


def _class_path(name: str, weighted: bool) -> str | None:
    """The path in a name made of class paths (litert-torch's own names); None for others."""
    found = []
    for part in name.split(";"):
        steps = [_CLASS_STEP.fullmatch(step) for step in part.split("/")]
        if part and len(steps) > 1 and all(steps):
            path = ".".join(s[2] for s in steps if s is not None and s[2])
            found.append((steps[-1], path))
    if not found:
        return None
    if weighted:
        found.sort(key=lambda f: not (f[0] and _WEIGHTED_CLASS.search(f[0][1])))
    return found[0][1]


def _scope(name: str) -> str:
    """The TensorFlow scope of the operator ``name``: without its own name and layer parts."""
    steps = [s for s in name.removeprefix("StatefulPartitionedCall/").split("/") if s]
    if len(steps) > 1 and steps[0] == steps[1]:
        steps = steps[1:]
    steps = steps[:-1]
    while len(steps) > 1 and _TF_PARTS.fullmatch(steps[-1]):
        steps.pop()
    return "/".join(steps)


def _onnx(graph: ModelGraph) -> Iterator[str]:
    producer = {t: op for op in graph.ops for t in op.outputs}
    own = {graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)}
    for op in graph.ops:
        yield _node_module(op.name, own) or next(
            filter(None, map(_parameter_module, _weight_names(graph, op, producer))), ""
        )


def _node_module(name: str, own: set[str]) -> str:
    bare = _QDQ.sub("", name)
    if bare in own or bare.startswith("onnx::"):
        return ""
    if bare != name or "/" not in bare:
        parameter = _parameter_module(bare)
        if parameter:
            return parameter
    if "/" not in bare:
        return ""
    steps = bare.split("/")[:-1]
    if steps and not steps[0]:
        return canonical(_torchscript_path([s for s in steps if s]))
    path = "/".join(steps)
    return canonical(path) if _PATH.fullmatch(path) else _scope(bare)


def _torchscript_path(steps: list[str]) -> str:
    """ "/layer1/layer1.0/conv1" is layer1.0.conv1: a step may repeat the one it is in."""
    path: list[str] = []
    for step in steps:
        if path and step.startswith(f"{path[-1]}."):
            path.pop()
        path.append(step)
    return ".".join(path)


def _parameter_module(name: str) -> str:
    """ "blocks.0.0.conv.weight" -> "blocks.0.0.conv"; "" for what is no parameter of a module."""
    path, count = _PARAMETER.subn("", _QDQ.sub("", name))
    if not count or _MADE_UP.match(path) or not _PATH.fullmatch(path):
        return ""
    return canonical(path)
