"""From figures to causes: one for each damaged layer, and a ranking of what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mnv4_deploy.drift.causes.arithmetic import find_few_bits, find_narrow_activations
from mnv4_deploy.drift.causes.calibration import find_calibration_fault
from mnv4_deploy.drift.causes.hypothesis import Hypothesis, name
from mnv4_deploy.drift.causes.rules import Findings, explain
from mnv4_deploy.drift.causes.small import small_cause
from mnv4_deploy.drift.causes.tried import with_trials, without_advice
from mnv4_deploy.layers.records import (
    Cause,
    CauseKind,
    Diagnosis,
    LayerDrift,
    LayersDrift,
    OutputEffect,
)

# A layer that makes half of the outputs' noise is named even where the whole does not matter.
_OUTSTANDING_DB = 3.0
_UNIT_RANGE: CauseKind = "softmax or sigmoid range"


def diagnose(layers: LayersDrift, whole: Cause | None, *, matters: bool = True) -> LayersDrift:
    """``layers`` with the causes of their damage and the ranking, worst first.

    What concerns the whole model comes before any layer: ``whole`` (of ``output_faults`` or
    ``input_faults``), then wrong calibration images. Layers follow by what
    mending them gains at the outputs, those for which that is not known by the noise they make
    themselves; those that only pass on others' noise have a cause but no rank. Where the damage
    does not ``matter`` only layers that stand out are named, and the ranking may be empty.
    """
    findings = explain(layers.layers)
    ranking: list[Diagnosis] = []
    if whole is not None:
        where = "output" if whole.kind in ("class order", "output scale") else "input"
        ranking.append(Diagnosis(where, None, whole))
    calibration = find_calibration_fault(layers.layers) if matters else None
    if calibration is not None:
        ranking.append(Diagnosis("all layers", None, calibration))
    few_bits = find_few_bits(layers) if matters else None
    if few_bits is not None:
        ranking.append(Diagnosis("all layers", None, few_bits))
    effects = layers.effects
    if effects is not None and effects.adds_up:
        chosen = list(_by_effect(layers, findings, effects.ranked, matters=matters))
    else:
        chosen = list(_by_noise(layers, findings)) if matters else []
    activations = find_narrow_activations(layers) if matters and not ranking else None
    if activations is not None and not any(map(_outstanding, chosen)):
        ranking.append(Diagnosis("all layers", None, activations))
    ranking = [*with_trials([*ranking, *chosen], layers)]
    told = {entry.layer: entry.cause for entry in ranking if entry.layer is not None}
    named = tuple(
        replace(layer, cause=_told(findings[layer.index], told.get(position), layers))
        if layer.index in findings and (matters or position in told)
        else layer
        for position, layer in enumerate(layers.layers)
    )
    return replace(layers, layers=named, ranking=tuple(ranking), matters=matters)


def _told(found: Hypothesis, ranked: Cause | None, layers: LayersDrift) -> Cause:
    """The cause of a layer: its advice is what the ranking says of it."""
    tried = layers.effects is not None and layers.effects.tried is not None
    if not tried or found.kind == "accumulated noise":
        return found.cause
    advised = ranked is not None and ranked.kind == found.kind and ranked.advice
    return found.cause if advised else without_advice(found.cause)


def _outstanding(entry: Diagnosis) -> bool:
    return entry.effect is None or entry.effect.gain_db >= _OUTSTANDING_DB


def _by_effect(
    layers: LayersDrift,
    findings: Findings,
    effects: tuple[OutputEffect, ...],
    *,
    matters: bool,
) -> Iterator[Diagnosis]:
    positions = {layer.index: position for position, layer in enumerate(layers.layers)}
    told: set[int] = set()
    for effect in effects:
        if not matters and effect.gain_db < _OUTSTANDING_DB:
            continue
        to_blame = _to_blame(layers.layers[effect.layer], layers.layers, findings)
        position = positions[to_blame]
        if position not in told:
            told.add(position)
            found = findings.get(to_blame)
            to_mend = layers.layers[position]
            cause = (
                found.cause if found is not None and found.share else small_cause(to_mend, effect)
            )
            yield Diagnosis(name(to_mend), position, cause, effect)


def _to_blame(layer: LayerDrift, layers: Sequence[LayerDrift], findings: Findings) -> int:
    """The index of the layer whose fault the noise of ``layer`` is: mostly its own."""
    found = findings.get(layer.index)
    if found is not None:
        return layer.index if found.culprit is None else found.culprit
    # A range that is too wide for what reads it is told where it is read.
    readers = (reader.index for reader in layers if layer.index in reader.inputs)
    units = (i for i in readers if i in findings and findings[i].kind == _UNIT_RANGE)
    return next(units, layer.index)


def _by_noise(layers: LayersDrift, findings: Findings) -> Iterator[Diagnosis]:
    positions = {layer.index: position for position, layer in enumerate(layers.layers)}
    guilty = [i for i in findings if findings[i].kind != "accumulated noise"]
    for index in sorted(guilty, key=lambda i: -findings[i].share):
        layer = layers.layers[positions[index]]
        yield Diagnosis(name(layer), positions[index], findings[index].cause)
