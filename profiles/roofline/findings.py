"""The most valuable things to do about a profile, in plain words.

Each detector looks for one defect and says what it costs. A finding's ``recoverable_us`` is an
upper bound: the time above what the roofline says the layers need, or all of it where the work
could go away.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.profiles.inspection.onnx_operators import CONTROL
from mnv4_deploy.profiles.records.profile import Finding, Layer, Trust

FINDINGS = 3
_MIN_SHARE = 0.005  # of the wall time: anything less is not worth reading about
_FAR_BELOW_PERCENT = 70.0
_DOMINATES = 0.5
_SHORT_SUM = 64
_INT8 = ("int8", "uint8")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear")
_Reason = Literal["no products", "memory", "short sums", "shape"]
_LAYOUT = ("TRANSPOSE", "Transpose", "ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class _Profile:
    layers: Sequence[Layer]
    trust: Trust


def findings_of(layers: Sequence[Layer], trust: Trust) -> tuple[Finding, ...]:
    """The three findings that could win most time, no layer counted for two of them.

    ``layers`` have their bounds.
    """
    profile = _Profile(layers, trust)
    candidates = sorted(
        (finding for detect in _DETECTORS for finding in detect(profile)),
        key=lambda finding: -finding.recoverable_us,
    )
    chosen: list[Finding] = []
    taken: set[int] = set()
    for finding in candidates:
        worth = finding.recoverable_us >= _MIN_SHARE * trust.wall_us
        if worth and not taken.intersection(finding.layers):
            chosen.append(finding)
            taken.update(finding.layers)
    return tuple(chosen[:FINDINGS])


def _outside_delegate(profile: _Profile) -> Iterator[Finding]:
    """Operators that XNNPACK left to the built-in kernels, which also split its partition."""
    if not any(layer.backend == "xnnpack" for layer in profile.layers):
        return
    by_op_type: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        if layer.backend == "builtin":
            by_op_type[layer.op_type].append(layer)
    partitions = len({x.partition for x in profile.layers if x.partition is not None})
    for op_type, layers in by_op_type.items():
        reason = next((layer.refusal for layer in layers if layer.refusal), "")
        split = f" They leave {partitions} partitions." if partitions > 1 else ""
        yield Finding(
            "fragmenting op",
            f"{_count(len(layers), op_type)} outside XNNPACK "
            f"({_ms(_latency_us(layers))} of {_ms(profile.trust.wall_us)})",
            (
                f"XNNPACK does not take it: {reason.rstrip('.')}."
                if reason
                else "No XNNPACK kernel."
            )
            + split,
            _recoverable_us(layers) or _latency_us(layers),
            _indices(layers),
        )


def _below_roof(profile: _Profile) -> Iterator[Finding]:
    """Operators that stay far below their roof for one reason; the one layer, if one dominates."""
    alike: defaultdict[tuple[str, str, _Reason], list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        percent = layer.bound.percent_of_roof if layer.bound else None
        if layer.compute == CONTROL:
            continue
        if percent is not None and percent < _FAR_BELOW_PERCENT and layer.backend != "builtin":
            alike[layer.op_type, layer.compute, _reason(layer)].append(layer)
    for (op_type, compute, reason), layers in alike.items():
        worst = max(layers, key=lambda layer: _recoverable_us([layer]))
        alone = _recoverable_us([worst]) >= _DOMINATES * _recoverable_us(layers)
        chosen = [worst] if alone else layers
        roof = sum(layer.bound.roof_us or 0.0 for layer in chosen if layer.bound)
        latency = _latency_us(chosen)
        what = (
            f"{worst.module or worst.name} ({op_type})" if alone else _count(len(layers), op_type)
        )
        yield Finding(
            "below its roof",
            f"{what} at {100 * roof / latency:.0f} % of the roof ({compute}, {_ms(latency)})",
            _advice_below_roof(reason, worst, chosen),
            _recoverable_us(chosen),
            _indices(chosen),
        )


def _reason(layer: Layer) -> _Reason:
    if layer.cost is not None and layer.cost.macs == 0:
        return "no products"
    if layer.bound and layer.bound.limit == "memory":
        return "memory"
    products = _products_per_output(layer)
    return "short sums" if products is not None and products < _SHORT_SUM else "shape"


def _advice_below_roof(reason: _Reason, layer: Layer, layers: Sequence[Layer]) -> str:
    """What is true of all ``layers``, and of ``layer``, the worst of them, where it is named."""
    bound, name = layer.bound, layer.module or layer.name
    prefix = "" if len(layers) == 1 else f"Worst: {name}. "
    shape = "x".join(map(str, layer.output_shape))
    if reason == "no products":
        return f"{prefix}It multiplies nothing: fuse it into a neighbour, or do without it."
    if reason == "memory" and bound:
        return (
            f"{prefix}Its bytes from {bound.level} need {_ms(bound.memory_us or 0)}; the kernel"
            f" does not keep that up for an output of {shape}."
        )
    if reason == "short sums":
        lengths = [n for x in layers if (n := _products_per_output(x)) is not None]
        few = " to ".join(map(str, dict.fromkeys((min(lengths), max(lengths)))))
        return (
            f"{prefix}Each output is a sum of only {few} products (depthwise or few input"
            " channels), too short to fill the multipliers: fewer such layers, an earlier stride,"
            " or ordinary convolutions at high resolution."
        )
    return (
        f"{prefix}The kernel does not fill the multipliers for an output of {shape}: channel"
        " counts that are multiples of 16 or 32, or fewer and larger layers, fit it better."
    )


def _products_per_output(layer: Layer) -> int | None:
    """Length of the sum behind each output value."""
    outputs = math.prod(layer.output_shape)
    if layer.cost is None or not layer.output_shape or not outputs:
        return None
    return round(layer.cost.macs / outputs)


def _float_islands(profile: _Profile) -> Iterator[Finding]:
    """Float operators and conversions in a network whose products are 8-bit."""
    products = [x for x in profile.layers if x.cost is not None and x.cost.macs > 0]
    int8_us = sum(x.latency_us for x in products if x.compute.startswith(_INT8))
    if not products or int8_us < _DOMINATES * sum(x.latency_us for x in products):
        return
    conversions = [x for x in profile.layers if x.op_type in _CONVERSIONS]
    islands = [
        x
        for x in profile.layers
        if x.compute.startswith("float") and x.op_type not in _CONVERSIONS and x.samples_us
    ]
    if not islands:
        return
    op_types = sorted({layer.op_type for layer in islands})
    yield Finding(
        "float island",
        f"{_count(len(islands), 'operator')} in float ({', '.join(op_types)}) and "
        f"{_count(len(conversions), 'conversion')} around them in an int8 network: "
        f"{_ms(_latency_us([*islands, *conversions]))}",
        "Quantize them where the runtime has an 8-bit kernel and accuracy allows it; otherwise"
        " this is the price of float there.",
        _latency_us(conversions) + _recoverable_us(islands),
        _indices([*islands, *conversions]),
    )


def _layout_changes(profile: _Profile) -> Iterator[Finding]:
    layers = [x for x in profile.layers if x.op_type in _LAYOUT and x.samples_us]
    if not layers:
        return
    inserted = sum(not layer.file_op_types for layer in layers)
    by_whom = f", {inserted} of them inserted by the runtime" if inserted else ""
    yield Finding(
        "layout changes",
        f"{_count(len(layers), 'transpose')}{by_whom}: {_ms(_latency_us(layers))}",
        "They compute nothing. The runtime puts them around operators that do not know its own"
        " layout: fuse those or move them together."
        if inserted == len(layers)
        else "They compute nothing: keep one layout through the network (mnv4-deploy export"
        " rewrites attention so that it needs none).",
        _latency_us(layers),
        _indices(layers),
    )


def _overhead(profile: _Profile) -> Iterator[Finding]:
    """Operators too small to be worth a dispatch."""
    layers = [
        x
        for x in profile.layers
        if x.bound and x.bound.limit == "overhead" and x.backend != "builtin"
    ]
    if len(layers) < 2:
        return
    dispatch_us = sum(layer.bound.overhead_us for layer in layers if layer.bound)
    yield Finding(
        "overhead",
        f"{_count(len(layers), 'operator')} too small for their dispatch: "
        f"{_ms(_latency_us(layers))}",
        "Fewer, larger operators: fuse elementwise chains and reshapes, or drop them from the"
        " model.",
        min(_latency_us(layers), dispatch_us),
        _indices(layers),
    )


def _around_operators(profile: _Profile) -> Iterator[Finding]:
    gap_us = profile.trust.wall_us * (1 - profile.trust.sum_percent / 100)
    layers = [x for x in profile.layers if x.backend == "runtime"]
    total = max(0.0, gap_us) + _latency_us(layers)
    yield Finding(
        "around the operators",
        f"{_ms(total)} outside the operators, in the runtime itself",
        "Fewer operators and partitions, or a larger batch, spread it.",
        total,
        _indices(layers),
    )


_DETECTORS: tuple[Callable[[_Profile], Iterator[Finding]], ...] = (
    _outside_delegate,
    _below_roof,
    _float_islands,
    _layout_changes,
    _overhead,
    _around_operators,
)


def _recoverable_us(layers: Sequence[Layer]) -> float:
    return sum(layer.bound.recoverable_us for layer in layers if layer.bound)


def _latency_us(layers: Sequence[Layer]) -> float:
    return sum(layer.latency_us for layer in layers)


def _indices(layers: Sequence[Layer]) -> tuple[int, ...]:
    return tuple(layer.index for layer in layers)


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"


def _count(number: int, what: str) -> str:
    """``1 RESHAPE``, ``3 RESHAPE``, ``3 operators``."""
    return f"{number} {what}" if number == 1 or what.isupper() else f"{number} {what}s"
