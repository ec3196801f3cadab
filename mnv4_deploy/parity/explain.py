"""Why two sides may differ in a layer, as far as the evidence goes.

Each rule looks at one inference in which the layer read the same bits on both sides; the first
that has something to say is the explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv4_deploy.layers.families import CONVERSIONS, MOVES, PRODUCT, family_of
from mnv4_deploy.parity.layer_tally import Evidence
from mnv4_deploy.parity.recompute import Recomputed, recompute
from mnv4_deploy.parity.records import Difference, LayerParity
from mnv4_deploy.profiles.machine.cpu import may_saturate
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.tolerances import TOLERANCES

_EXACT = MOVES - CONVERSIONS - {"CAST", "Cast"}
# Families whose kernels approximate a function, each library in its own way.
_APPROXIMATED = frozenset(
    {
        *("sigmoid", "softmax", "logsoftmax", "tanh", "gelu", "erf", "exp", "elu", "selu", "log"),
        *("silu", "quickgelu", "softplus", "pow", "sqrt", "rsqrt", "hardswish", "swish"),
    }
)
_LARGEST_PAIR = 128  # 255 * 128 < 2^15
_ROUNDING = {
    "tflite": ". Kernels are free to: XNNPACK's round a float32 product half to even or a"
    " fixed-point product half up, TFLite's own round a fixed-point product twice.",
    "onnx": ", as kernels are free to.",
}


@dataclass(frozen=True)
class Case:
    """What the rules look at."""

    evidence: Evidence
    layer: LayerParity
    path: Path
    graph: ModelGraph
    here: DeviceFacts
    there: DeviceFacts

    @property
    def own(self) -> Difference:
        return self.layer.own

    @property
    def family(self) -> str:
        return family_of(self.layer.kind)

    @property
    def codes(self) -> bool:
        return self.own.max_codes is not None


def explain(
    evidence: Evidence,
    layer: LayerParity,
    path: Path,
    graph: ModelGraph,
    here: DeviceFacts,
    there: DeviceFacts,
) -> str:
    """One or two sentences on why ``layer``, the first to differ, does."""
    case = Case(evidence, layer, path, graph, here, there)
    return next(filter(None, (rule(case) for rule in _RULES)), "")


def _other_form(case: Case) -> str:
    here, there = case.evidence.here, case.evidence.there
    if (here.shape, here.dtype) == (there.shape, there.dtype):
        return ""
    return (
        f"The result is {here.dtype.name} {list(here.shape)} here and {there.dtype.name} "
        f"{list(there.shape)} on the device: the two runtimes read the operator differently."
    )


def _moved(case: Case) -> str:
    if case.layer.kind not in _EXACT:
        return ""
    return (
        f"{case.layer.kind} computes nothing, so equal inputs must give equal bits: one of the "
        "two runtimes has a defect, or read the operator's options differently."
    )


def _recomputed(case: Case) -> str:
    found = recompute(case.path, case.graph, case.evidence)
    if found is None:
        return ""
    return _of_codes(case, found) if found.codes else _of_floats(case, found)


def _checked(found: Recomputed) -> str:
    count = len(found.exact)
    if found.differing == 1:
        return "in the one element that differs in one inference"
    every = "all" if count == found.differing else f"{count:,} checked"
    return f"in {every} of the {found.differing:,} elements that differ in one inference"


def _of_codes(case: Case, found: Recomputed) -> str:
    source = "(recomputed in float64 from the layer's own inputs and weights)"
    if case.family in _APPROXIMATED:
        return (
            f"The layer computes {case.family} for codes, which runtimes approximate by tables or "
            f"polynomials of their own: {_checked(found)} this machine is at most "
            f"{found.off(found.here):.3f} steps from the exact value {source}, the device at most "
            f"{found.off(found.there):.3f}; rounding alone makes 0.5."
        )
    sides = {"this machine": found.here, "the device": found.there}
    right = [name for name, side in sides.items() if found.explained(side)]
    if len(right) == len(sides):
        return (
            "Both sides round the same value differently: the exact one "
            f"{source} lies, {_checked(found)}, at most {found.tie_distance:.2g} steps from the "
            f"tie between two codes, and each side took one of them{_ROUNDING[case.graph.format]}"
        )
    if right:
        other = next(name for name in sides if name not in right)
        return (
            f"{_capital(right[0])} gives what the exact value {source} rounds to "
            f"{_checked(found)}; {other} is up to {found.off(sides[other]):.1f} steps off it, "
            "which rounding does not explain: a kernel there saturates or approximates, or has "
            "a defect."
        )
    return (
        f"Neither side gives what the exact value {source} rounds to: this machine is up to "
        f"{found.off(found.here):.1f} steps off it, the device up to "
        f"{found.off(found.there):.1f}, so that their kernels compute different things."
    )


def _of_floats(case: Case, found: Recomputed) -> str:
    if case.family in _APPROXIMATED:
        return ""
    off = {
        "this machine": found.off(found.here),
        "the device": found.off(found.there),
    }
    scale = found.largest or 1.0
    relative = {name: f"{value / scale:.1g}" for name, value in off.items()}
    right = [
        name
        for name, side in zip(off, (found.here, found.there), strict=True)
        if found.explained(side)
    ]
    if len(right) == len(off):
        return (
            f"Both sides are as close to the float64 result as float32 allows for {found.terms} "
            f"terms (this machine within {relative['this machine']} of the largest value, the "
            f"device within {relative['the device']}): another order of summation, or fused "
            "multiply-adds."
        )
    wrong = " and ".join(name for name in off if name not in right)
    return (
        f"{_capital(wrong)} {'are' if not right else 'is'} further from the float64 result "
        f"(this machine {relative['this machine']} of the largest value, the device "
        f"{relative['the device']}) than float32 allows for {found.terms} terms in any order: "
        "another algorithm, half precision, or a defect."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _approximated(case: Case) -> str:
    if case.family not in _APPROXIMATED:
        return ""
    where = " inside a network of integers" if case.codes else ""
    return (
        f"{case.layer.kind} is computed{where} with an approximation that each runtime and "
        "processor has its own of; the results are "
        + (
            f"at most {case.own.max_codes} codes apart."
            if case.codes
            else f"{case.own.max_relative_error:.1g} of the largest value apart."
        )
    )


def _saturating_pairs(case: Case) -> str:
    """onnxruntime multiplies uint8 by int8 with vpmaddubsw where a processor has no VNNI."""
    saturates = any(may_saturate(f.architecture, f.isa) for f in (case.here, case.there))
    if case.graph.format != "onnx" or case.family != PRODUCT or not case.codes or not saturates:
        return ""
    pairs = large_pairs(case.path, case.layer.index)
    if not pairs or case.own.max_codes == 1:
        return ""
    return (
        f"{pairs:,} pairs of neighbouring weights of this layer add up to more than "
        f"{_LARGEST_PAIR}. Int8 kernels of x86 without VNNI add two products in 16 bits and "
        "saturate there, others do not: that is the likely cause. Exports of mnv4-deploy have no "
        "such pairs unless they were made with --target vnni or arm."
    )


def large_pairs(path: Path, node: int) -> int:
    """How many pairs of weights that x86 adds in int16 can exceed it (see ``pair_scales``)."""
    import onnx

    from mnv4_deploy.exporters.pair_scales import k_order, layer_grid
    from mnv4_deploy.layers.networks.onnx_constants import Constants
    from mnv4_deploy.profiles.graph.onnx.model import load_onnx

    graph = load_onnx(onnx, path, weights=True).graph
    weights = Constants(graph).weights(graph.node[node])
    groups = next((a.i for a in graph.node[node].attribute if a.name == "group"), 1)
    if weights is None or len(weights.scales) not in (1, len(weights.values)):
        return 0
    if layer_grid("pairs", weights.values.shape, groups) == "full":
        return 0
    shape = (-1, *[1] * (weights.values.ndim - 1))
    codes = np.rint(weights.values / np.asarray(weights.scales, np.float32).reshape(shape))
    rows = codes.reshape(len(codes), -1)[:, k_order(codes.shape)]
    even = rows[:, : rows.shape[1] // 2 * 2]
    return int(np.count_nonzero(np.abs(even[:, ::2] + even[:, 1::2]) > _LARGEST_PAIR))


def _one_code(case: Case) -> str:
    if case.own.max_codes != 1:
        return ""
    return (
        f"All codes that differ are neighbours, {case.own.differing:,} of "
        f"{case.own.elements:,}: that is what two ways of rounding the same value give, though "
        "it was not recomputed for this operator."
    )


def _within_tolerance(case: Case) -> str:
    tolerance = TOLERANCES.get(case.own.verdict)
    if case.codes or tolerance is None:
        return ""
    return (
        f"The difference is {case.own.max_relative_error:.1g} of the largest value, as it is with "
        f"{tolerance.reason}."
    )


def _large(case: Case) -> str:
    size = (
        f"{case.own.max_codes} codes"
        if case.codes
        else f"{case.own.max_relative_error:.2g} of the largest value"
    )
    return (
        f"{size} apart is too much for rounding: the two runtimes compute this layer by different "
        "methods, or one of them has a defect."
    )


_RULES: tuple[Callable[[Case], str], ...] = (
    _other_form,
    _moved,
    _saturating_pairs,
    _recomputed,
    _approximated,
    _one_code,
    _within_tolerance,
    _large,
)
