"""From figures to causes: one for each damaged layer, and a ranking of what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mnv4_deploy.drift.causes.calibration import find_calibration_fault
from mnv4_deploy.drift.causes.hypothesis import name
from mnv4_deploy.drift.causes.rules import Findings, explain
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
# Effects are told where they add up to most of what happened to the outputs.
_EXPLAINED = 0.5
# From this part on it is the weights that are to be mended, not the range of the output.
_MOSTLY_WEIGHTS = 0.5
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
    effects = layers.effects
    if effects is not None and effects.explained_share >= _EXPLAINED:
        chosen = list(_by_effect(layers, findings, effects.ranked, matters=matters))
    else:
        chosen = list(_by_noise(layers, findings)) if matters else []
    ranking += chosen
    told = {entry.layer for entry in chosen}
    named = tuple(
        replace(layer, cause=findings[layer.index].cause)
        if layer.index in findings and (matters or position in told)
        else layer
        for position, layer in enumerate(layers.layers)
    )
    return replace(layers, layers=named, ranking=tuple(ranking))


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
            cause = found.cause if found is not None and found.share else _rounding(effect)
            yield Diagnosis(name(layers.layers[position]), position, cause, effect)


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


def _rounding(effect: OutputEffect) -> Cause:
    """Nothing is wrong with the layer, but the outputs are sensitive to it."""
    weights = 100 * effect.weights_share
    if effect.weights_share >= _MOSTLY_WEIGHTS:
        return Cause(
            "rounded weights",
            f"Nothing is wrong with it; {weights:.0f} % of its noise are its rounded weights.",
            "Keep it in float, or let a trial of --max-drop choose how its weights are rounded.",
        )
    return Cause(
        "rounded activations",
        f"Nothing is wrong with its range; {100 - weights:.0f} % of its noise is the rounding of "
        "its output.",
        "Keep it and what reads it in float or int16.",
    )
