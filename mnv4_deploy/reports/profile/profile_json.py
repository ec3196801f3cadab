"""Everything a profile knows, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mnv4_deploy.profiles.records.plain import to_plain
from mnv4_deploy.profiles.records.profile import Layer, ModelProfile, Spread
from mnv4_deploy.profiles.roofline.predicted import predicted_range_us
from mnv4_deploy.reports.profile.rows import rows_of

SCHEMA_VERSION = 2
# Rows spell these out as text; here they are lists.
_LISTS = ("file_op_types", "kernels", "output_shape")
# Rows flatten these; here they are records of their own.
_NESTED = (
    *("macs", "other_ops", "weight_bytes", "read_bytes", "written_bytes"),
    *("bound", "level", "roof_us", "percent_of_roof", "recoverable_us"),
)


def profile_to_dict(profile: ModelProfile) -> dict[str, Any]:
    """``profile`` as a dict that ``json.dumps(..., allow_nan=False)`` takes.

    Keys carry their units (``_us``, ``_bytes``, ``_percent``, ``_macs_per_s``) and keep their
    meaning within a ``schema_version``. Unknown figures are None. ``layers`` have their raw
    samples, one a profiled run, and index ``file_operators`` and ``runtime_operators``; without
    times of operators there are none, and what ``trust`` says of them is None. ``holder`` is the
    operator in whose branch or body an operator is; ``at_least``: the totals leave something out
    that is unknown. ``device`` is
    None for this machine. ``predicted`` says that times are not measured but predicted, for the
    machine ``prediction``; ``predicted_range_us`` is what such predictions have been right within,
    None where that is not known. Names are the file's and
    the device's own, unescaped.
    """
    measured = profile.measurement
    document = {
        "schema_version": SCHEMA_VERSION,
        "file": {
            "path": measured.path,
            "format": measured.format,
            "size_bytes": measured.size_bytes,
            "sha256": measured.sha256,
        },
        "method": {
            "statistic": profile.statistic,
            "runtime": measured.runtime,
            "threads": measured.threads,
            "cpus": measured.cpus,
            "rounds": len(measured.rounds_us),
            "profiled_rounds": len(measured.profiled_rounds_us),
            "notes": measured.notes,
        },
        "wall": {
            **_spread(_flat(measured.rounds_us)),
            "rounds_us": measured.rounds_us,
            "profiled_rounds_us": measured.profiled_rounds_us,
        },
        "totals": {
            **to_plain(profile.total_cost),
            "operational_intensity": profile.total_cost.operational_intensity,
            "unknown_op_types": profile.unknown_op_types,
            "at_least": profile.cost_is_least,
        },
        "device": measured.device,
        "layers": [
            _layer(layer, row) for layer, row in zip(profile.layers, rows_of(profile), strict=True)
        ],
        "findings": profile.findings,
        "trust": profile.trust,
        "conditions": measured.conditions,
        "machine": profile.machine,
        "predicted": profile.prediction is not None,
        "prediction": profile.prediction,
        "predicted_range_us": predicted_range_us(profile),
        "ceilings": profile.ceilings,
        "refusals": {str(index): reason for index, reason in measured.refusals.items()},
        "file_operators": [
            {
                "index": op.index,
                "op_type": op.kind,
                "name": op.name,
                "runs": op.runs,
                "holder": None if op.holder < 0 else op.holder,
            }
            for op in measured.graph.ops
        ],
        "runtime_operators": measured.profile.ops,
    }
    plain: dict[str, Any] = to_plain(document)
    return plain


def _layer(layer: Layer, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in row.items() if key not in (*_LISTS, *_NESTED)},
        **{key: getattr(layer, key) for key in _LISTS},
        "runs": layer.runs,
        "samples_us": layer.samples_us,
        "file_operator_indices": layer.op_indices,
        "runtime_operator_indices": layer.timing_indices,
        "cost": layer.cost,
        "bound": layer.bound,
    }


def _spread(samples_us: tuple[float, ...]) -> dict[str, float]:
    spread = Spread.of(samples_us)
    return {f"{field.name}_us": getattr(spread, field.name) for field in fields(spread)}


def _flat(rounds_us: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    return tuple(sample for samples in rounds_us for sample in samples)
