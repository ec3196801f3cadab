"""The most valuable things to do about a profile, in plain words.

Each detector looks for one defect and says what it costs. A finding's ``recoverable_us`` is an
upper bound: the time above what the roofline says the layers need, or all of it where the work
could go away.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.records.profile import Bound, Finding, Layer, Trust

FINDINGS = 3
_MIN_SHARE = 0.005  # of the wall time: anything less is not worth reading about
_FAR_BELOW_PERCENT = 70.0
_DOMINATES = 0.5
_SHORT_SUM = 64
_INT8 = ("int8", "uint8")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear")
_LAYOUT = ("TRANSPOSE", "Transpose", "ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class _Profile:
    layers: Sequence[Layer]
    bounds: Sequence[Bound]
    trust: Trust

    def recoverable_us(self, indices: Iterable[int]) -> float:
        return sum(self.bounds[i].recoverable_us for i in indices)

    def latency_us(self, indices: Iterable[int]) -> float:
        return sum(self.layers[i].latency_us for i in indices)


def findings_of(
    layers: Sequence[Layer], bounds: Sequence[Bound], trust: Trust
) -> tuple[Finding, ...]:
    """The three findings that could win most time, no layer counted for two of them."""
    profile = _Profile(layers, bounds, trust)
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
    if not any(layer.where == "xnnpack" for layer in profile.layers):
        return
    by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for layer in profile.layers:
        if layer.where == "builtin":
            by_kind[layer.kind].append(layer.index)
    partitions = len({x.partition for x in profile.layers if x.partition is not None})
    for kind, indices in by_kind.items():
        reason = next(
            (profile.layers[i].refusal for i in indices if profile.layers[i].refusal), ""
        )
        split = f" They leave {partitions} partitions." if partitions > 1 else ""
        yield Finding(
            "fragmenting op",
            f"{_count(len(indices), kind)} outside XNNPACK "
            f"({_ms(profile.latency_us(indices))} of {_ms(profile.trust.wall_us)})",
            (
                f"XNNPACK does not take it: {reason.rstrip('.')}."
                if reason
                else "No XNNPACK kernel."
            )
            + split,
            profile.recoverable_us(indices) or profile.latency_us(indices),
            tuple(indices),
        )


def _below_roof(profile: _Profile) -> Iterator[Finding]:
    """Kinds of layers that stay far below their roof; the one layer, where one dominates."""
    by_kind: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for layer, bound in zip(profile.layers, profile.bounds, strict=True):
        percent = bound.percent_of_roof
        if percent is not None and percent < _FAR_BELOW_PERCENT and layer.where != "builtin":
            by_kind[layer.kind, layer.compute].append(layer.index)
    for (kind, compute), indices in by_kind.items():
        worst = max(indices, key=lambda i: profile.bounds[i].recoverable_us)
        total = profile.recoverable_us(indices)
        alone = profile.bounds[worst].recoverable_us >= _DOMINATES * total
        chosen = [worst] if alone else indices
        roof = sum(profile.bounds[i].roof_us or 0.0 for i in chosen)
        latency = profile.latency_us(chosen)
        what = (
            f"{profile.layers[worst].module or profile.layers[worst].name} ({kind})"
            if alone
            else _count(len(indices), kind)
        )
        yield Finding(
            "below its roof",
            f"{what} at {100 * roof / latency:.0f} % of the roof ({compute}, {_ms(latency)})",
            _advice_below_roof(profile, worst, alone),
            profile.recoverable_us(chosen),
            tuple(chosen),
        )


def _advice_below_roof(profile: _Profile, worst: int, alone: bool) -> str:
    layer, bound = profile.layers[worst], profile.bounds[worst]
    name = layer.module or layer.name
    prefix = "" if alone else f"Worst: {name}. "
    shape = "x".join(map(str, layer.output_shape))
    if layer.cost is not None and layer.cost.macs == 0:
        return f"{prefix}It multiplies nothing: fuse it into a neighbour, or do without it."
    if bound.limit == "memory":
        return (
            f"{prefix}Its bytes from {bound.level} need {_ms(bound.memory_us or 0)}; the kernel"
            f" does not keep that up for an output of {shape}."
        )
    products = _products_per_output(layer)
    if products is not None and products < _SHORT_SUM:
        return (
            f"{prefix}Each output is a sum of only {products} products (depthwise or few input"
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
    conversions = [x.index for x in profile.layers if x.kind in _CONVERSIONS]
    islands = [
        x.index
        for x in profile.layers
        if x.compute.startswith("float") and x.index not in conversions and x.samples_us
    ]
    if not islands:
        return
    kinds = sorted({profile.layers[i].kind for i in islands})
    yield Finding(
        "float island",
        f"{_count(len(islands), 'operator')} in float ({', '.join(kinds)}) and "
        f"{_count(len(conversions), 'conversion')} around them in an int8 network: "
        f"{_ms(profile.latency_us([*islands, *conversions]))}",
        "Quantize them where the runtime has an 8-bit kernel and accuracy allows it; otherwise"
        " this is the price of float there.",
        profile.latency_us(conversions) + profile.recoverable_us(islands),
        tuple([*islands, *conversions]),
    )


def _layout_changes(profile: _Profile) -> Iterator[Finding]:
    indices = [x.index for x in profile.layers if x.kind in _LAYOUT and x.samples_us]
    if not indices:
        return
    inserted = sum(not profile.layers[i].file_kinds for i in indices)
    by_whom = f", {inserted} of them inserted by the runtime" if inserted else ""
    yield Finding(
        "layout changes",
        f"{_count(len(indices), 'transpose')}{by_whom}: {_ms(profile.latency_us(indices))}",
        "They compute nothing. The runtime puts them around operators that do not know its own"
        " layout: fuse those or move them together."
        if inserted == len(indices)
        else "They compute nothing: keep one layout through the network (mnv4-deploy export"
        " rewrites attention so that it needs none).",
        profile.latency_us(indices),
        tuple(indices),
    )


def _overhead(profile: _Profile) -> Iterator[Finding]:
    """Operators too small to be worth a dispatch."""
    indices = [
        layer.index
        for layer, bound in zip(profile.layers, profile.bounds, strict=True)
        if bound.limit == "overhead" and layer.where != "builtin"
    ]
    if len(indices) < 2:
        return
    cost = min(profile.latency_us(indices), sum(profile.bounds[i].overhead_us for i in indices))
    yield Finding(
        "overhead",
        f"{_count(len(indices), 'operator')} too small for their dispatch: "
        f"{_ms(profile.latency_us(indices))}",
        "Fewer, larger operators: fuse elementwise chains and reshapes, or drop them from the"
        " model.",
        cost,
        tuple(indices),
    )


def _around_operators(profile: _Profile) -> Iterator[Finding]:
    gap_us = profile.trust.wall_us * (1 - profile.trust.sum_percent / 100)
    indices = [x.index for x in profile.layers if x.where == "runtime"]
    total = max(0.0, gap_us) + profile.latency_us(indices)
    yield Finding(
        "around the operators",
        f"{_ms(total)} outside the operators, in the runtime itself",
        "Fewer operators and partitions, or a larger batch, spread it.",
        total,
        tuple(indices),
    )


_DETECTORS: tuple[Callable[[_Profile], Iterator[Finding]], ...] = (
    _outside_delegate,
    _below_roof,
    _float_islands,
    _layout_changes,
    _overhead,
    _around_operators,
)


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"


def _count(number: int, what: str) -> str:
    """``1 RESHAPE``, ``3 RESHAPE``, ``3 operators``."""
    return f"{number} {what}" if number == 1 or what.isupper() else f"{number} {what}s"
