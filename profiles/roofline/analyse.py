"""From a measurement and a machine to a profile. Pure: nothing runs here."""

from __future__ import annotations

from mnv4_deploy.profiles.costs.group import unknown_kinds
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.profile import Measurement, ModelProfile, Statistic
from mnv4_deploy.profiles.roofline.bounds import with_bounds
from mnv4_deploy.profiles.roofline.findings import findings_of
from mnv4_deploy.profiles.roofline.layers import layers_of, whole_of, within_wall
from mnv4_deploy.profiles.roofline.trust import trust_in, wall_us


def analyse(
    measurement: Measurement, machine: Machine | None, statistic: Statistic = "min"
) -> ModelProfile:
    """The profile of a measurement; without ceilings it has no bounds and no findings.

    Without times of operators it has no layers either: the model is then one whole.
    """
    layers, part = layers_of(measurement, statistic), 1.0
    whole = None if measurement.profiled_rounds_us else whole_of(measurement, statistic)
    if whole is None:
        layers, part = within_wall(layers, wall_us(measurement, statistic))
    ceilings = machine.with_threads(measurement.threads) if machine else None
    trust = trust_in(measurement, layers, ceilings, statistic, part=part)
    if ceilings:
        layers = with_bounds(layers, ceilings)
    unknown = {layer.op_type for layer in layers if layer.cost is None and layer.file_op_types}
    if whole:
        unknown.update(unknown_kinds(measurement.graph))
    return ModelProfile(
        measurement=measurement,
        layers=layers,
        findings=findings_of(layers, trust) if ceilings and layers else (),
        trust=trust,
        statistic=statistic,
        machine=machine if ceilings else None,
        unknown_op_types=tuple(sorted(unknown)),
        whole=whole,
    )
