"""The best explanation of each layer's noise, and whose fault it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mnv4_deploy.drift.causes.range_rules import (
    clipped_activation,
    outlier_channel,
    padding_constant,
    unit_result,
    unused_range,
)
from mnv4_deploy.drift.causes.suspicion import (
    DAMAGE,
    Scene,
    Suspicion,
    decibels,
    name,
    same_range,
    scenes,
)
from mnv4_deploy.drift.causes.weight_rules import (
    bias_overflow,
    coarse_weights,
    depthwise_spread,
    tiny_scale,
)
from mnv4_deploy.layers.records import LayerDrift

# Of two that explain equally much the first is taken: the more specific.
RULES: tuple[Callable[[Scene], Suspicion | None], ...] = (
    padding_constant,
    bias_overflow,
    tiny_scale,
    unit_result,
    depthwise_spread,
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

Findings = dict[int, Suspicion]


def own_fault(scene: Scene) -> Suspicion | None:
    """What explains most of a layer's noise, None where there is hardly any."""
    found = [suspicion for rule in RULES if (suspicion := rule(scene)) is not None]
    found = [suspicion for suspicion in found if suspicion.share >= DAMAGE]
    best = max(found, key=lambda suspicion: suspicion.share, default=None)
    if best is not None and _explains(best, scene):
        # What was measured is better than the estimate that found the cause.
        return best.at_least(scene.measured)
    return best


def explain(layers: Sequence[LayerDrift]) -> Findings:
    """A suspicion for each layer that needs one, by ``LayerDrift.index``.

    A layer that only passes on what another did to it gets "accumulated noise" with a share of
    0, and the other one's share is raised to the noise that was measured there.
    """
    stage = scenes(layers)
    faults = {s.layer.index: fault for s in stage if (fault := own_fault(s)) is not None}
    inherited: Findings = {}
    for scene in _pads_first(stage, faults):
        layer, fault = scene.layer, faults.get(scene.layer.index)
        if fault is not None and _explains(fault, scene) and not _forced(scene, faults):
            continue
        culprit = _culprit(scene, faults)
        if culprit is not None:
            noise = max(scene.measured, 0.0 if fault is None else fault.share)
            faults[culprit.index] = faults[culprit.index].at_least(noise)
            inherited[layer.index] = _passed_on(layer, culprit, noise)
            faults.pop(layer.index, None)
        elif fault is None and _mostly_inherited(scene):
            inherited[layer.index] = _from_before(layer, scene.measured)
    return {**inherited, **faults}


def _pads_first(stage: list[Scene], faults: Findings) -> list[Scene]:
    """Readers before what they read, but what has a ruinous Pad's range before all."""
    pads = {i for i, fault in faults.items() if fault.kind == "padding constant"}
    backwards = stage[::-1]
    return sorted(backwards, key=lambda s: not any(r.index in pads for r in s.readers))


def _mostly_inherited(scene: Scene) -> bool:
    through = scene.layer.accumulated.noise_share
    return through >= _INHERITED and scene.measured < through / 2


def _explains(fault: Suspicion, scene: Scene) -> bool:
    return fault.share >= _EXPLAINS * scene.measured


def _forced(scene: Scene, faults: Findings) -> bool:
    """Whether the layer's range was set by another one, as a pooling layer's is."""
    fault = faults[scene.layer.index]
    if not fault.of_range or fault.kind == "padding constant":
        return False
    sets_it = [p for p in scene.producers if same_range(p, scene.layer)]
    return bool(sets_it) or _padded(scene, faults) is not None


def _padded(scene: Scene, faults: Findings) -> LayerDrift | None:
    """The reader whose ruinous padding this layer's range has to hold."""
    for reader in scene.readers:
        fault = faults.get(reader.index)
        pads = fault is not None and fault.kind == "padding constant"
        if pads and same_range(reader, scene.layer):
            return reader
    return None


def _culprit(scene: Scene, faults: Findings) -> LayerDrift | None:
    padded = _padded(scene, faults)
    if padded is not None:
        return padded
    blamed = [
        producer
        for producer in scene.producers
        if (fault := faults.get(producer.index)) is not None
        and fault.of_range
        and scene.measured >= DAMAGE
        and _explains(fault, scene)
    ]
    return max(blamed, key=lambda producer: faults[producer.index].share, default=None)


def _passed_on(layer: LayerDrift, culprit: LayerDrift, noise: float) -> Suspicion:
    return Suspicion(
        "accumulated noise",
        0.0,
        f"Its noise ({decibels(noise)}) comes from the range of {name(culprit)}, which it "
        f"{'shares' if same_range(layer, culprit) else 'reads'}.",
        f"Mend {name(culprit)}.",
    )


def _from_before(layer: LayerDrift, alone: float) -> Suspicion:
    own = f"{decibels(alone)} alone" if layer.isolated is not None else "alone it was not run"
    return Suspicion(
        "accumulated noise",
        0.0,
        f"It is at {layer.accumulated.sqnr_db:.1f} dB behind the layers before it ({own}).",
        "Mend the layers that are ranked above it.",
    )
