"""The best explanation of each layer's noise, and whose fault it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mnv4_deploy.drift.causes.hypothesis import (
    DAMAGE,
    Hypothesis,
    LayerContext,
    decibels,
    name,
    same_range,
    scenes,
)
from mnv4_deploy.drift.causes.range_rules import (
    clipped_activation,
    outlier_channel,
    padding_constant,
    probabilities,
    unit_result,
    unused_range,
)
from mnv4_deploy.drift.causes.weight_rules import (
    bias_overflow,
    coarse_weights,
    depthwise_spread,
    dynamic_rounding,
    few_bits,
    lost_channel,
    tiny_scale,
    wrong_scale,
)
from mnv4_deploy.layers.records import LayerDrift

# Of two that explain equally much the first is taken: the more specific.
RULES: tuple[Callable[[LayerContext], Hypothesis | None], ...] = (
    padding_constant,
    bias_overflow,
    tiny_scale,
    lost_channel,
    wrong_scale,
    unit_result,
    probabilities,
    depthwise_spread,
    few_bits,
    dynamic_rounding,
    outlier_channel,
    clipped_activation,
    unused_range,
    coarse_weights,
)
# A cause explains the noise of a layer, its own or a reader, if it is estimated to make this part
# of it: estimates are rough, values with long tails are clipped worse than their peaks tell.
_EXPLAINS = 1 / 8
# From 15 dB on the noise of the layers before is worth a word.
_INHERITED = 10**-1.5

Findings = dict[int, Hypothesis]


def own_fault(context: LayerContext) -> Hypothesis | None:
    """What explains most of a layer's noise, None where there is hardly any."""
    found = [hypothesis for rule in RULES if (hypothesis := rule(context)) is not None]
    found = [hypothesis for hypothesis in found if hypothesis.share >= DAMAGE]
    best = max(found, key=lambda hypothesis: hypothesis.share, default=None)
    if best is not None and _explains(best, context):
        # What was measured is better than the estimate that found the cause.
        return best.at_least(context.measured)
    return best


def explain(layers: Sequence[LayerDrift]) -> Findings:
    """A hypothesis for each layer that needs one, by ``LayerDrift.index``.

    A layer that only passes on what another did to it gets "accumulated noise" with a share of
    0, and the other one's share is raised to the noise that was measured there.
    """
    stage = scenes(layers)
    faults = {s.layer.index: fault for s in stage if (fault := own_fault(s)) is not None}
    inherited: Findings = {}
    for context in _pads_first(stage, faults):
        layer, fault = context.layer, faults.get(context.layer.index)
        if fault is not None and _explains(fault, context) and not _forced(context, faults):
            continue
        culprit = _culprit(context, faults)
        if culprit is not None:
            noise = max(context.measured, 0.0 if fault is None else fault.share)
            faults[culprit.index] = faults[culprit.index].at_least(noise)
            inherited[layer.index] = _passed_on(layer, culprit, noise)
            faults.pop(layer.index, None)
        elif fault is None and _mostly_inherited(context):
            inherited[layer.index] = _from_before(layer, context.measured)
    return {**inherited, **faults}


def _pads_first(stage: list[LayerContext], faults: Findings) -> list[LayerContext]:
    """Readers before what they read, but what has a ruinous Pad's range before all."""
    pads = {i for i, fault in faults.items() if fault.kind == "padding constant"}
    backwards = stage[::-1]
    return sorted(backwards, key=lambda s: not any(r.index in pads for r in s.readers))


def _mostly_inherited(context: LayerContext) -> bool:
    through = context.layer.accumulated.noise_share
    return through >= _INHERITED and context.measured < through / 2


def _explains(fault: Hypothesis, context: LayerContext) -> bool:
    return fault.share >= _EXPLAINS * context.measured


def _forced(context: LayerContext, faults: Findings) -> bool:
    """Whether the layer's range was set by another one, as a pooling layer's is."""
    fault = faults[context.layer.index]
    if not fault.of_range or fault.kind == "padding constant":
        return False
    sets_it = [p for p in context.producers if same_range(p, context.layer)]
    return bool(sets_it) or _padded(context, faults) is not None


def _padded(context: LayerContext, faults: Findings) -> LayerDrift | None:
    """The reader whose ruinous padding this layer's range has to hold."""
    for reader in context.readers:
        fault = faults.get(reader.index)
        pads = fault is not None and fault.kind == "padding constant"
        if pads and same_range(reader, context.layer):
            return reader
    return None


def _culprit(context: LayerContext, faults: Findings) -> LayerDrift | None:
    padded = _padded(context, faults)
    if padded is not None:
        return padded
    blamed = [
        producer
        for producer in context.producers
        if (fault := faults.get(producer.index)) is not None
        and fault.of_range
        and context.measured >= DAMAGE
        and _explains(fault, context)
    ]
    return max(blamed, key=lambda producer: faults[producer.index].share, default=None)


def _passed_on(layer: LayerDrift, culprit: LayerDrift, noise: float) -> Hypothesis:
    return Hypothesis(
        "accumulated noise",
        0.0,
        f"Its noise ({decibels(noise)}) comes from the range of {name(culprit)}, which it "
        f"{'shares' if same_range(layer, culprit) else 'reads'}.",
        f"Mend {name(culprit)}.",
        culprit=culprit.index,
    )


def _from_before(layer: LayerDrift, alone: float) -> Hypothesis:
    own = f"{decibels(alone)} alone" if layer.isolated is not None else "alone it was not run"
    return Hypothesis(
        "accumulated noise",
        0.0,
        f"It is at {layer.accumulated.sqnr_db:.1f} dB behind the layers before it ({own}).",
        "Mend the layers that are ranked above it.",
    )
