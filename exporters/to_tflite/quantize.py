"""int8 and float16 forms of a float32 TFLite file, by ai-edge-quantizer.

What is ours: the ranges (any method of ``ranges``, not only the library's moving average) and
their adjustment to what the target's kernels accept, before the library chooses scales.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.bias_overflow import widen_scales_in_tflite
from mnv4_deploy.exporters.ranges import Range, RangeCollector, RangeMethod
from mnv4_deploy.exporters.recipes import INT16_OPS, TfliteRecipe
from mnv4_deploy.exporters.records import LayerPrecision
from mnv4_deploy.exporters.recovery.chosen_operators import chosen_operators, operators_inside
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.models.records import LOGITS
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.graph import Operator
from mnv4_deploy.profiles.runtimes.litert.interpreter import allocate, open_interpreter
from mnv4_deploy.profiles.runtimes.quiet import quiet
from mnv4_deploy.profiles.xnnpack.refusals import scale_refusal
from mnv4_deploy.profiles.xnnpack.rules import RULES

# Operators whose output has the scale of their first input.
_SAME_SCALE = ("RESHAPE", "TRANSPOSE", "PAD", "STRIDED_SLICE", "SLICE", "SQUEEZE", "EXPAND_DIMS")
# An operand too faint for these loses nothing that counts by a wider range: they stay int8.
_WIDENED = ("ADD", "SUB")
# A range of [-a * 128/127, a] has scale a/127 and zero point exactly 0.
_SYMMETRIC_LOW = 128 / 127
# What is not as the recipe says: the library's scope (a regular expression), kind, precision.
_Exception = tuple[str, str, LayerPrecision]


def quantize_tflite(
    fp32_path: Path,
    int8_path: Path,
    batches: Iterable[npt.NDArray[np.float32]],
    *,
    recipe: TfliteRecipe,
    method: RangeMethod = "average",
    input_range: Range | None = None,
    float_modules: Collection[str] = (),
    float_layers: Collection[str] = (),
    int16_layers: Collection[str] = (),
    whole_range: Collection[str] = (LOGITS.name,),
    ranges: Mapping[str, Range] | None = None,
) -> None:
    """Write the int8 form of ``fp32_path``: int8 input and output, weights per channel.

    ``batches`` are model inputs ``[B, H, W, 3]``. ``input_range`` replaces the input's observed
    range where it is known (0..1 for pixels). ``float_modules`` are those of a rewritten network
    that stay in float with all modules inside them, if the target has float operators at all.
    ``float_layers`` are module paths whose own operators stay in float, ``int16_layers`` those
    that compute with 16-bit activations and 8-bit weights; what they read from int8 operators and
    hand on to them is still rounded to 8 bits. XNNPACK has no 16-bit operator: each such layer
    leaves the delegate and splits the graph. ``whole_range`` are outputs of which nothing is
    clipped (``OutputSpec``). ``ranges`` are what ``observe_tflite`` found in the same file, for
    one that is quantized again and again; then there are no ``batches``.

    Raises UnsupportedError for a layer that the file does not have, that is in both collections,
    that the target cannot have in float, or that LiteRT does not have in int16.
    """
    file = TfliteFile(fp32_path)
    exceptions = _exceptions(file, fp32_path, recipe, float_layers, int16_layers)
    if recipe.target != "integer-only":
        inside = operators_inside(fp32_path, float_modules)
        exceptions = [*_as_exceptions(file, inside, "float"), *exceptions]
    if ranges is None:
        ranges = observe_tflite(fp32_path, batches, method=method, whole_range=whole_range)
    if input_range is not None:
        ranges = {**ranges, file.name(int(file.graph.inputs[0])): input_range}
    ranges = adjust_ranges(file, dict(ranges), recipe)
    statistics: dict[str, Any] = {}
    for tensor in range(len(file.graph.tensors)):
        name = file.name(tensor)
        if name in ranges:
            rank = (1,) * len(file.shape(tensor))
            low, high = ranges[name]
            statistics[name] = {
                "min": np.full(rank, low, np.float32),
                "max": np.full(rank, high, np.float32),
            }
    while True:
        int8_path.write_bytes(_quantized(fp32_path, recipe, exceptions, statistics))
        refused = _beyond_scale_ratios(file, int8_path, recipe)
        if refused <= set(exceptions):
            break
        exceptions = [*exceptions, *sorted(refused.difference(exceptions))]
    quantized = TfliteFile(int8_path)
    widen_scales_in_tflite(quantized, file)
    _mend_signature(quantized, file)
    quantized.write(int8_path)


def _quantized(
    path: Path,
    recipe: TfliteRecipe,
    exceptions: Iterable[_Exception],
    statistics: Mapping[str, Any],
) -> bytes:
    with quiet():
        from ai_edge_quantizer import qtyping, quantizer
        from ai_edge_quantizer import recipe as library_recipes

        work = quantizer.Quantizer(str(path))
        work.load_quantization_recipe(library_recipes.static_wi8_ai8())
        for kind in sorted(recipe.float_ops & set(qtyping.TFLOperationName)):
            work.update_quantization_recipe(
                regex=".*",
                operation_name=qtyping.TFLOperationName(kind),
                algorithm_key="no_quantize",
            )
        for scope, kind, precision in exceptions:
            settings = {"algorithm_key": "no_quantize"}
            if precision == "int16x8":
                settings = {"op_config": _int16x8()}
            work.update_quantization_recipe(
                regex=scope, operation_name=qtyping.TFLOperationName(kind), **settings
            )
        result = work.quantize(statistics, enable_progress_report=False)
    return bytes(result.quantized_model)


def _beyond_scale_ratios(
    file: TfliteFile, int8_path: Path, recipe: TfliteRecipe
) -> set[_Exception]:
    """What must stay in float because its scales came out as XNNPACK does not take them.

    Only the finished file tells: an operator before a CONCATENATION gets the scale of all that
    is joined, the results of some functions have a fixed one, and where a tensor has other
    readers too, the library requantizes it for the CONCATENATION. That one is then what stays
    in float, for a wider range would cost the other readers precision.
    """
    limited = {kind for kind, _ in recipe.scale_ratios}
    if not limited:
        return set()
    graph = read_tflite(int8_path)
    results = set()
    for op in graph.ops:
        if op.kind in limited and scale_refusal(graph, op) is not None:
            readers = [o for o in graph.ops if op.outputs[0] in o.inputs]
            for found in readers if op.kind == "QUANTIZE" else [op]:
                results.add(graph.tensors[found.outputs[0]].name)
    return {
        (_scope(file, operator), file.kind(operator), "float")
        for operator in file.operators(*RULES.keys() & _known_kinds())
        if file.name(int(operator.outputs[0])) in results
    }


def _known_kinds() -> frozenset[str]:
    """The kinds of operators that ai-edge-quantizer has."""
    with quiet():
        from ai_edge_quantizer import qtyping
    return frozenset(qtyping.TFLOperationName)


def _exceptions(
    file: TfliteFile,
    path: Path,
    recipe: TfliteRecipe,
    float_layers: Collection[str],
    int16_layers: Collection[str],
) -> list[_Exception]:
    if both := sorted(set(float_layers) & set(int16_layers)):
        raise UnsupportedError(f"Layer {both[0]!r} cannot be float and int16: choose one.")
    if float_layers and recipe.target == "integer-only":
        raise UnsupportedError("The target integer-only has no float layer: use int16 layers.")
    wanted: tuple[tuple[Collection[str], LayerPrecision], ...] = (
        (float_layers, "float"),
        (int16_layers, "int16x8"),
    )
    found: list[_Exception] = []
    for modules, precision in wanted:
        for module, operators in chosen_operators(path, modules).items():
            able = [o for o in operators if precision == "float" or o.kind in INT16_OPS]
            if not able:
                kinds = ", ".join(sorted({o.kind for o in operators}))
                raise UnsupportedError(
                    f"Layer {module!r} cannot be int16: LiteRT has no such {kinds}."
                )
            found += _as_exceptions(file, able, precision)
    return found


def _as_exceptions(
    file: TfliteFile, operators: Iterable[Operator], precision: LayerPrecision
) -> list[_Exception]:
    """What the library knows among ``operators``."""
    known = _known_kinds()
    return [(_scope(file, o), o.kind, precision) for o in operators if o.kind in known]


def _scope(file: TfliteFile, operator: Any) -> str:
    """A regular expression for one operator: the library searches in its results' names."""
    outputs = "".join(f"{file.name(int(tensor))};" for tensor in operator.outputs)
    return f"^{re.escape(outputs)}$"


def _int16x8() -> Any:
    from ai_edge_quantizer import qtyping

    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, symmetric=True),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )


def _mend_signature(quantized: TfliteFile, original: TfliteFile) -> None:
    """Point the signature at the graph's outputs again, under their old names.

    Where an operator that stays in float makes an output, ai-edge-quantizer 0.10 appends a
    QUANTIZE but leaves the signature at the float tensor, and LiteRT aborts on such a file.
    """
    before = [int(tensor) for tensor in original.graph.outputs]
    entries = {int(entry.tensorIndex): entry for entry in quantized.model.signatureDefs[0].outputs}
    for position, old in enumerate(before):
        tensor, name = int(quantized.graph.outputs[position]), original.name(old)
        entry = entries.get(tensor) or entries[old]
        if quantized.name(tensor) != name:
            quantized.graph.tensors[old].name = f"{name};float".encode()
            quantized.graph.tensors[tensor].name = name.encode()
        entry.tensorIndex = tensor


def cast_tflite_to_fp16(fp32_path: Path, fp16_path: Path) -> None:
    """Write ``fp32_path`` with float16 weights; inputs, outputs and arithmetic stay float32.

    A GPU delegate computes in float16; XNNPACK expands the weights once, when it loads them.
    """
    with quiet():
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

        work = quantizer.Quantizer(str(fp32_path))
        work.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
        )
        result = work.quantize(enable_progress_report=False)
    fp16_path.write_bytes(result.quantized_model)


def observe_tflite(
    path: Path,
    batches: Iterable[npt.NDArray[np.float32]],
    *,
    method: RangeMethod = "average",
    whole_range: Collection[str] = (LOGITS.name,),
) -> dict[str, Range]:
    """The ``ranges`` of :func:`quantize_tflite`, whose arguments these are."""
    with quiet():
        interpreter = open_interpreter(path, keep_tensors=True)
        allocate(interpreter)
    file = TfliteFile(path)
    watched = {int(t): file.name(int(t)) for t in file.graph.inputs}
    for operator in file.graph.operators:
        watched.update((int(t), file.name(int(t))) for t in operator.outputs)
    # Constants take part in additions too, and need a range like any other operand.
    collector = RangeCollector(method)
    fixed = RangeCollector("minmax")
    for operator in file.operators("ADD", "SUB", "MUL"):
        for tensor in map(int, operator.inputs):
            if file.is_constant(tensor):
                fixed.update(file.name(tensor), file.constant(tensor, np.float32))
    whole = {t for t in map(int, file.graph.outputs) if file.name(t) in whole_range}
    for operator in reversed(file.graph.operators):
        moves = file.kind(operator) in (*_SAME_SCALE, "CONCATENATION")
        if moves and not whole.isdisjoint(map(int, operator.outputs)):
            whole.update(map(int, operator.inputs))
    batch_size = file.shape(int(file.graph.inputs[0]))[0]
    for batch in batches:
        interpreter.set_tensor(int(file.graph.inputs[0]), _padded(batch, batch_size))
        interpreter.invoke()
        for tensor, name in watched.items():
            chosen = fixed if tensor in whole else collector
            chosen.update(name, interpreter.get_tensor(tensor))
    return {**collector.ranges(), **fixed.ranges()}


def _padded(batch: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Repeat the last image of a short batch: the ranges do not change."""
    missing = size - len(batch)
    return np.concatenate([batch, batch[-1:].repeat(missing, 0)]) if missing else batch


def adjust_ranges(
    file: TfliteFile, ranges: dict[str, Range], recipe: TfliteRecipe
) -> dict[str, Range]:
    """Widen ranges where the target's kernels ask for it; never narrow one."""
    adjusted = dict(ranges)
    if recipe.symmetric_products:
        for operator in file.operators("BATCH_MATMUL"):
            for name in _same_scale_chain(file, int(operator.inputs[1])):
                if name in adjusted:
                    bound = max(map(abs, adjusted[name]))
                    adjusted[name] = (-bound * _SYMMETRIC_LOW, bound)
    for kind, ratio in recipe.scale_ratios:
        for operator in file.operators(kind) if kind in _WIDENED else ():
            output = file.name(int(operator.outputs[0]))
            if output not in adjusted:
                continue
            for tensor in map(int, operator.inputs):
                for name in _same_scale_chain(file, tensor):
                    if name in adjusted:
                        adjusted[name] = _at_least(
                            adjusted[name], _width(adjusted[output]) * ratio.low * 1.01
                        )
                widest = max(
                    (_width(adjusted[n]) for n in (file.name(tensor),) if n in adjusted),
                    default=0.0,
                )
                adjusted[output] = _at_least(adjusted[output], widest / ratio.high * 1.01)
    return adjusted


def _same_scale_chain(file: TfliteFile, tensor: int) -> list[str]:
    """``tensor`` and what it takes its scale from, through reshapes and the like."""
    names = [file.name(tensor)]
    while (maker := file.producer(tensor)) is not None and file.kind(maker) in _SAME_SCALE:
        tensor = int(maker.inputs[0])
        names.append(file.name(tensor))
    return names


def _width(bounds: Range) -> float:
    return bounds[1] - bounds[0]


def _at_least(bounds: Range, width: float) -> Range:
    """Scale ``bounds`` about zero until they are ``width`` wide (scale = width / 255)."""
    own = _width(bounds)
    if own >= width or width == 0.0:
        return bounds
    return (bounds[0] * width / own, bounds[1] * width / own) if own else (-width / 2, width / 2)
