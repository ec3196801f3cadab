"""From figures to causes: one for each damaged layer, and a ranking of what went wrong."""

from __future__ import annotations

from dataclasses import replace

from mnv4_deploy.drift.causes.calibration import find_calibration_fault
from mnv4_deploy.drift.causes.hypothesis import name
from mnv4_deploy.drift.causes.rules import explain
from mnv4_deploy.layers.records import Cause, Diagnosis, LayersDrift


def diagnose(layers: LayersDrift, input_fault: Cause | None) -> LayersDrift:
    """``layers`` with the cause of each and the ranking, worst first.

    What concerns the whole model comes before any layer: ``input_fault`` (see
    ``input_faults.find_input_fault``), then wrong calibration images. Layers follow by the noise
    they make themselves; those that only pass on others' noise have a cause but no rank.
    """
    findings = explain(layers.layers)
    ranking: list[Diagnosis] = []
    if input_fault is not None:
        ranking.append(Diagnosis("input", None, input_fault))
    calibration = find_calibration_fault(layers.layers)
    if calibration is not None:
        ranking.append(Diagnosis("all layers", None, calibration))
    positions = {layer.index: position for position, layer in enumerate(layers.layers)}
    guilty = [i for i in findings if findings[i].kind != "accumulated noise"]
    for index in sorted(guilty, key=lambda i: -findings[i].share):
        layer = layers.layers[positions[index]]
        ranking.append(Diagnosis(name(layer), positions[index], findings[index].cause))
    named = tuple(
        replace(layer, cause=findings[layer.index].cause if layer.index in findings else None)
        for layer in layers.layers
    )
    return replace(layers, layers=named, ranking=tuple(ranking))
