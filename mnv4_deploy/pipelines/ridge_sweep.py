"""The MobileNetV4 paper's roofline analysis: predicted latency of the zoo over ridge points.

ModelTime = sum over layers of max(MACs / PeakMACs, bytes / PeakMemBW) (paper, section 3.1), in
units of the time of a MAC, so that only the ridge point PeakMACs / PeakMemBW matters. Layers are
convolutions and linear layers in int8, unfused, with their input, output and weights; products
of two activations (attention) are left out, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.outputs import check_free, staged, write_manifest
from mnv4_deploy.progress import Progress
from mnv4_deploy.reports.plots.ridge_plot import RidgeSweep

SCHEMA_VERSION = 1
SWEEP_JSON = "sweep.json"
_PLOTS = ("sweep.png", "sweep.svg")
_STEPS = 100
_MAX_RIDGE_POINT = 10_000.0
# Those that the paper's figure has.
PAPER_MODELS = ("conv-s", "conv-m", "conv-l", "hybrid-m", "hybrid-l")


def sweep(
    models: Sequence[str] | None,
    max_ridge_point: float,
    progress: Progress,
    *,
    out: Path | None = None,
    overwrite: bool = False,
) -> RidgeSweep:
    """ModelTime of each model at ridge points from 0 to ``max_ridge_point`` MACs/byte.

    ``models`` None are the five of the paper. Raises UnknownModelError for a model
    that does not exist, UnsupportedError for a ridge point that is not positive.
    """
    if not 0 < max_ridge_point <= _MAX_RIDGE_POINT:
        raise UnsupportedError(
            f"--max-ridge-point {max_ridge_point:g} makes no sense: give a number of MACs per "
            f"byte up to {_MAX_RIDGE_POINT:g}, such as 500."
        )
    if models is not None and not models:
        raise UnsupportedError("--models names no model: give names that `models` lists.")
    if out is not None:
        check_free(out, overwrite=overwrite, names=_PLOTS, manifest=SWEEP_JSON)
    with progress.stage("Count layers"):
        result = _sweep(models, max_ridge_point)
    if out is not None:
        with progress.stage("Draw"):
            _write(result, out, overwrite=overwrite)
    return result


def _sweep(models: Sequence[str] | None, max_ridge_point: float) -> RidgeSweep:
    from mnv4_deploy.models import zoo
    from mnv4_deploy.models.layer_costs import layer_costs
    from mnv4_deploy.profiles.costs.model_time import model_time
    from mnv4_deploy.profiles.machine.published import published_machines

    accuracy = {
        name: top1
        for name in zoo.names()
        if (top1 := zoo.entry(name).published_top1_percent) is not None
    }
    names = tuple(dict.fromkeys(PAPER_MODELS if models is None else models))
    marks = {
        machine.title: machine.ridge_point
        for machine in published_machines()
        if machine.ridge_point <= max_ridge_point
    }
    steps = {max_ridge_point * i / _STEPS for i in range(_STEPS + 1)}
    points = tuple(sorted(steps.union(marks.values())))
    times = {}
    for name in names:
        size = zoo.entry(name).native_size
        costs = [
            (layer.macs, layer.elements)
            for layer in layer_costs(name, (size, size))
            if not layer.attention
        ]
        times[name] = tuple(model_time(costs, point) for point in points)
    return RidgeSweep(
        models=names,
        ridge_points=points,
        model_time=times,
        accuracy_percent={name: accuracy[name] for name in names if name in accuracy},
        marks=marks,
    )


def to_dict(result: RidgeSweep) -> dict[str, Any]:
    """Everything, for ``--json`` and ``sweep.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "unit": "time of one MAC at peak",
        **asdict(result),
    }


def _write(result: RidgeSweep, out: Path, *, overwrite: bool) -> None:
    from mnv4_deploy.reports.plots.ridge_plot import save_ridge_sweep

    with staged(out, overwrite=overwrite, manifest=SWEEP_JSON) as folder:
        save_ridge_sweep(result, [folder / name for name in _PLOTS])
        write_manifest(folder, to_dict(result), name=SWEEP_JSON, indent=1)
