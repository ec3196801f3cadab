"""int8 form of a float32 ONNX file: QDQ, built on onnxruntime.quantization.

What is ours: the ranges (``ranges``), the codes of weights and biases (``weights``), which
operators stay in float, and the removal of every QuantizeLinear/DequantizeLinear pair that serves
no int8 kernel.

Activations are uint8: with int8 ones onnxruntime (x86) left 46 of Hybrid-M's 120 convolutions and
every addition in float, and the run took 1.37 times as long. Weights are symmetric, per channel,
with scales so wide that x86 without VNNI, which adds pairs of products in saturating int16, adds
them exactly ("pairs", ``pair_scales``). Top-1 and median SQNR on such a processor (AVX2), of
files whose depthwise layers had such scales too:

    model, images, ranges                  float32  8 bits        7 bits        pairs
    Hybrid-M@96, 1000 bundled, average     78.8 %   78.3 %, 24.2  79.2 %, 28.4  78.8 %, 29.1 dB
    Hybrid-M@96, 1000 bundled, minmax      78.8 %   76.4 %, 16.7  78.0 %, 18.1  78.0 %, 18.6 dB
    MobileNetV2, 800 photographs, average  89.9 %                 86.5 %, 15.8  88.1 %, 19.4 dB
    EfficientNet-Lite0, the same           91.8 %                 91.1 %, 13.6  92.5 %, 18.6 dB

(8 bits without saturation, simulated, Hybrid-M, minmax: 77.6 %. All with an int8 first
convolution, which files of float input have had in float since: ``float_operators``.)

Depthwise layers have full scales since, and all layers for CPUs that add exactly ("full"). Top-1,
agreement with float32 and median SQNR, ranges "average", where sums are exact (unfused):

    model, images                 pairs everywhere     pairs                full
    Hybrid-M@96, 1000 bundled     78.9 %, 98.7, 29.9   78.8 %, 98.7, 30.4   79.1 %, 98.9, 30.8 dB
    Lite0, 800 photographs        92.1 %, 97.4, 19.0   92.0 %, 98.1, 19.4   92.0 %, 98.5, 19.8 dB
    MobileNetV2, the same         88.4 %, 96.9, 19.8   88.4 %, 96.4, 19.6   88.8 %, 95.9, 19.9 dB

and on AVX2, where "full" saturates (one sum of two in 7,000 of Hybrid-M's):

    Hybrid-M@96                                        78.8 %, 98.7, 30.3   78.6 %, 99.0, 29.8 dB
    Lite0                                              92.1 %, 97.9, 19.4   89.9 %, 94.5, 12.3 dB
    MobileNetV2                                        88.8 %, 97.0, 19.6   87.6 %, 94.1, 16.7 dB

Scales only as wide as the codes seen in calibration demand, channel by channel, would lie between
"pairs" and "full"; they gave no more than chance (Lite0 19.1 dB, MobileNetV2 19.6, Hybrid-M 30.5,
with a margin of 1.2), and what is exact on all images would have been so only on those seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.exporters.pair_scales import WeightGrid
from mnv4_deploy.exporters.ranges import Range, RangeCollector, RangeMethod
from mnv4_deploy.exporters.records import Io
from mnv4_deploy.exporters.recovery.chosen_operators import chosen_operators, operators_inside
from mnv4_deploy.exporters.to_onnx.float_operators import first_convolutions, softmax_products
from mnv4_deploy.exporters.to_onnx.io_types import round_edges, set_io
from mnv4_deploy.exporters.to_onnx.weights import set_weights
from mnv4_deploy.models.records import LOGITS
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.ort.rules import FIRST_CONVOLUTION, INT8_OPS, NO_KERNEL, RULES
from mnv4_deploy.profiles.runtimes.ort.session import LOG_ERRORS, open_session
from mnv4_deploy.profiles.runtimes.quiet import quiet

if TYPE_CHECKING:
    import onnx

_CHOSEN_REASON = "it was chosen to stay in float"
_FLOAT_INPUT_REASON = "its input is a float operator's result, and converting it costs more"
_UNTIMED_REASON = "its int8 kernel was not timed here, so that it may be slower"
_SHIELD_REASON = "it keeps onnxruntime from running what reads it in int8"
_SHIELDED = ";shielded"
_SAME_RANGE = frozenset({"Reshape", "Transpose", "Split", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class OnnxQuantization:
    """How many operators of each kind are int8; ``(node, kind, reason)`` of those in float."""

    int8_ops: dict[str, int]
    float_ops: tuple[tuple[str, str, str], ...]


def quantize_onnx(
    fp32_path: Path,
    int8_path: Path,
    batches: Iterable[npt.NDArray[Any]],
    *,
    method: RangeMethod = "average",
    weights: WeightGrid = "pairs",
    io: Io = "float",
    float_modules: Collection[str] = (),
    float_layers: Collection[str] = (),
    whole_range: Collection[str] = (LOGITS.name,),
    ranges: Mapping[str, Range] | None = None,
) -> OnnxQuantization:
    """Write the int8 form of ``fp32_path`` to ``int8_path``.

    ``batches`` are inputs as the file takes them (``[B, 3, H, W]`` float32, or uint8
    ``[B, H, W, 3]`` where the preprocessing is baked in). ``io`` is the type of inputs and
    outputs; for int8 and uint8 their scale and zero point are in ``metadata_props``.
    ``weights="full"`` is for CPUs that are known to have VNNI, or ARM; "pairs" is for all
    (``pair_scales``). ``float_modules`` are those of a rewritten network that stay in float with
    all modules inside them, ``float_layers`` paths of modules whose own operators do; what they
    read from int8 operators and hand on to them is still rounded to 8 bits. ``whole_range`` are
    outputs of which nothing is clipped (``OutputSpec``). ``ranges`` are what ``observe_onnx``
    found in the same file, for one that is quantized again and again; then there are no
    ``batches``.

    Raises UnsupportedError for a file with no operator to quantize, an unknown ``method`` or a
    layer that the file does not have, InputError for non-finite activations, ToolchainError where
    onnxruntime fails.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(fp32_path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph.node):
        raise UnsupportedError(f"{fp32_path.name} has no operator that can be int8.")
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise UnsupportedError(f"{fp32_path.name} is quantized already: give the float32 file.")
    reasons = _kept_in_float(fp32_path, model, io, float_modules, float_layers)
    kept = frozenset(reasons)
    found = _observe(model, batches, method, whole_range) if ranges is None else dict(ranges)
    try:
        with quiet():
            shaped = onnx.shape_inference.infer_shapes(model)
            quantized = _quantized(shaped, found, kept)
            links = OnnxLinks(quantized.graph)
            set_weights(links, OnnxLinks(model.graph), weights)
            _remove_idle_pairs(links, kept, float_outputs=io == "float")
            if io != "float":
                round_edges(links, found)
            facts = set_io(links, io)
            _shield(links, kept)
            ONNXModel(quantized).clean_initializers()
            ONNXModel(quantized).topological_sort()
            del quantized.metadata_props[:]
            for key, value in {**metadata, **facts}.items():
                quantized.metadata_props.add(key=key, value=value)
            onnx.checker.check_model(quantized, full_check=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ToolchainError(f"onnxruntime could not quantize the model ({error}).") from error
    onnx.save(quantized, int8_path)
    return _arithmetic(quantized, reasons)


def observe_onnx(
    fp32_path: Path,
    batches: Iterable[npt.NDArray[Any]],
    *,
    method: RangeMethod = "average",
    whole_range: Collection[str] = (LOGITS.name,),
) -> dict[str, Range]:
    """The ``ranges`` of :func:`quantize_onnx`, whose arguments these are."""
    import onnx

    return _observe(onnx.load(fp32_path), batches, method, whole_range)


def float_reasons(
    fp32_path: Path,
    int8_path: Path,
    *,
    io: Io,
    float_modules: Collection[str],
    float_layers: Collection[str],
) -> dict[str, str]:
    """Why nodes of ``int8_path`` are float, by their names.

    It is what ``quantize_onnx`` made of ``fp32_path`` with these options.
    """
    import onnx

    kept = _kept_in_float(fp32_path, onnx.load(fp32_path), io, float_modules, float_layers)
    found = _arithmetic(onnx.load(int8_path), kept)
    return {name: reason for name, _, reason in found.float_ops}


def _kept_in_float(
    fp32_path: Path,
    model: onnx.ModelProto,
    io: Io,
    float_modules: Collection[str],
    float_layers: Collection[str],
) -> dict[str, str]:
    """Names of the nodes that the file keeps in float whatever they read, with the reasons."""
    chosen = chosen_operators(fp32_path, float_layers).values()
    inside = operators_inside(fp32_path, float_modules)
    kept = dict.fromkeys(first_convolutions(model), FIRST_CONVOLUTION) if io == "float" else {}
    return kept | {o.name: _CHOSEN_REASON for operators in (*chosen, inside) for o in operators}


def _observe(
    model: onnx.ModelProto,
    batches: Iterable[npt.NDArray[Any]],
    method: RangeMethod,
    whole_range: Collection[str],
) -> dict[str, Range]:
    """Ranges of the values that will be quantized."""
    import onnx

    collector = RangeCollector(method)
    whole = RangeCollector("minmax")
    unclipped = _passed_on(model, whole_range)
    watched = list(_watched(model))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in watched
    )
    # One thread: the TFLite file is calibrated on the other core.
    session = open_session(probe.SerializeToString(), threads=1, log_severity=LOG_ERRORS)
    source = session.get_inputs()[0]
    for batch in batches:
        for image in batch if source.shape[0] == 1 else [batch]:
            feed = image[None] if source.shape[0] == 1 else image
            if feed.dtype == np.float32:
                collector.update(source.name, feed)
            for name, values in zip(
                watched, session.run(watched, {source.name: feed}), strict=True
            ):
                (whole if name in unclipped else collector).update(name, values)
    ranges = {**collector.ranges(), **whole.ranges()}
    if not ranges:
        raise UnsupportedError("int8 needs calibration images: there were none.")
    return _spread(model, ranges)


def _passed_on(model: onnx.ModelProto, outputs: Collection[str]) -> set[str]:
    """``outputs`` and the values that are only moved and joined on their way to them."""
    found = set(outputs)
    for node in reversed(model.graph.node):
        if node.op_type in (*_SAME_RANGE, "Concat") and not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def _watched(model: onnx.ModelProto) -> Iterator[str]:
    """Values with a range of their own: not those a Relu replaces or that are only moved."""
    links = OnnxLinks(model.graph)
    for node in model.graph.node:
        if node.op_type in (*_SAME_RANGE, "Cast"):
            continue
        for name in node.output:
            following = links.reader_kinds(name)
            if name in links.outputs or following not in (["Relu"], ["Clip"], ["Softmax"]):
                yield name


def _spread(model: onnx.ModelProto, ranges: dict[str, Range]) -> dict[str, Range]:
    """Give moved values the range of what was moved, and Relu's to its input."""
    spread = dict(ranges)
    for node in model.graph.node:
        if node.op_type in _SAME_RANGE and node.input[0] in spread:
            spread.update(dict.fromkeys(node.output, spread[node.input[0]]))
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip") and node.output[0] in spread:
            spread.setdefault(node.input[0], spread[node.output[0]])
        if node.op_type == "Softmax":
            spread.setdefault(node.input[0], (-1.0, 1.0))  # its pair is removed again
    return spread


def _quantized(
    model: onnx.ModelProto, ranges: Mapping[str, Range], kept: frozenset[str]
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    # What says that shapes are known: it would infer them again, through files in the temporary
    # folder whose names onnx makes of this machine's network address.
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,  # ``set_weights`` sees to the saturation
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=data,
        nodes_to_quantize=[node.name for node in model.graph.node],
        nodes_to_exclude=[*softmax_products(model), *sorted(kept)],
        op_types_to_quantize=sorted(INT8_OPS & {node.op_type for node in model.graph.node}),
        extra_options={},
    )
    quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _remove_idle_pairs(links: OnnxLinks, kept: frozenset[str], *, float_outputs: bool) -> None:
    """Remove the pairs between what can write float, and float readers.

    That are products and the operators that were ``kept`` in float.
    """
    for dequantize in [n for n in links.graph.node if n.op_type == "DequantizeLinear"]:
        codes, value = dequantize.input[0], dequantize.output[0]
        quantize = links.maker(codes, "QuantizeLinear")
        if quantize is None or len(links.readers[codes]) > 1:
            continue
        source = quantize.input[0]
        maker = links.makers.get(source)
        idle = all(n.op_type not in INT8_OPS or n.name in kept for n in links.readers[value])
        if maker is None or not idle or (value in links.outputs and not float_outputs):
            continue
        if maker.op_type in INT8_OPS - {"MatMul", "Gemm"} and maker.name not in kept:
            continue  # onnxruntime's int8 kernel must write 8 bits
        links.remove(quantize)
        links.remove(dequantize)
        if value in links.outputs:
            links.rename(source, value)
        else:
            links.replace_reads(value, source)


def _shield(links: OnnxLinks, kept: frozenset[str]) -> None:
    """Keep onnxruntime from making the ``kept`` operators int8 by itself.

    Its optimizer takes a float operator between a DequantizeLinear and a QuantizeLinear for one
    that was meant to be int8, and rounds the weights of a Conv or Gemm per tensor. Dequantizing
    to twice the value and halving it, which is exact, is not that pattern.
    """
    from onnx import numpy_helper

    half = "shield;half"
    read = (name for node in links.graph.node if node.name in kept for name in node.input)
    for source in list(dict.fromkeys(read)):
        dequantize = links.maker(source, "DequantizeLinear")
        if dequantize is None or dequantize.input[0] in links.constants:
            continue
        codes, scale, zero_point = dequantize.input
        twice, result = f"{source};twice", f"{source}{_SHIELDED}"
        steps = numpy_helper.to_array(links.constants[scale]) * np.float32(2)
        links.add_constant(f"{twice};scale", steps)
        links.add("DequantizeLinear", [codes, f"{twice};scale", zero_point], twice, name=twice)
        links.add("Mul", [twice, half], result, name=result)
        links.replace_reads(source, result, kept)
        if not links.readers[source] and source not in links.outputs:
            links.remove(dequantize)
    if links.readers[half]:
        links.add_constant(half, np.float32(0.5))


def _arithmetic(model: onnx.ModelProto, reasons: Mapping[str, str]) -> OnnxQuantization:
    links = OnnxLinks(model.graph)
    int8: Counter[str] = Counter()
    in_float: list[tuple[str, str, str]] = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        reads_codes = links.maker(node.input[0], "DequantizeLinear") is not None
        if node.name in reasons:
            in_float.append((node.name, node.op_type, reasons[node.name]))
        elif reads_codes and node.op_type in INT8_OPS:
            int8[node.op_type] += 1
        else:
            in_float.append((node.name, node.op_type, _float_reason(node)))
    return OnnxQuantization(dict(int8.most_common()), tuple(in_float))


def _float_reason(node: onnx.NodeProto) -> str:
    """Why a node that was not kept is float all the same."""
    if node.op_type in INT8_OPS:
        return _FLOAT_INPUT_REASON
    if node.name.endswith(_SHIELDED):
        return _SHIELD_REASON
    rule = RULES.get(node.op_type)
    return NO_KERNEL if rule is None else rule.slower or _UNTIMED_REASON
