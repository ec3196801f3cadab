"""The manifest: everything an export did, as JSON that later tools can rely on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv4_deploy.exporters.records import (
    Artifact,
    BudgetSearch,
    Deviation,
    Drift,
    ExportRequest,
    FileAudit,
    RewriteSummary,
)
from mnv4_deploy.versions import tool_versions

if TYPE_CHECKING:
    from mnv4_deploy.exporters.recipes import Targets
    from mnv4_deploy.images.sets import ImageSource
    from mnv4_deploy.models.weights import ReferenceModel
    from mnv4_deploy.tasks.task import Task

SCHEMA_VERSION = 3


def build_manifest(
    *,
    request: ExportRequest,
    reference: ReferenceModel,
    macs: int,
    artifacts: tuple[Artifact, ...],
    rewrites: tuple[RewriteSummary, ...],
    layer_histograms: dict[str, dict[str, dict[str, int]]],
    calibration: ImageSource | None,
    evaluation: ImageSource | None,
    deviations: tuple[Deviation, ...],
    drifts: tuple[Drift, ...],
    searches: tuple[BudgetSearch, ...],
    audits: tuple[FileAudit, ...],
    warnings: tuple[str, ...],
    seconds_by_stage: dict[str, float],
) -> dict[str, Any]:
    """The manifest's content. Paths in it are file names relative to the manifest."""
    by_name = {truth.subject: truth for truth in audits}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": request.source.name,
            "parameters": reference.parameters,
            "macs": macs,
            "num_classes": reference.num_classes,
        },
        "weights": dataclasses.asdict(reference.source),
        "preprocessing": dataclasses.asdict(reference.preprocessing),
        "preprocessing_from": reference.preprocessing_from,
        "labels": list(reference.labels),
        "labels_from": reference.labels_from,
        "outputs": [dataclasses.asdict(output) for output in reference.outputs],
        "task": _task(request.task),
        "options": _options(request),
        "files": [
            _file(artifact, by_name.get(artifact.path.name), request.targets)
            for artifact in artifacts
        ],
        "rewrites": [dataclasses.asdict(rewrite) for rewrite in rewrites],
        "layer_histogram": layer_histograms,
        "calibration": None if calibration is None else _images(calibration),
        "evaluation": None if evaluation is None else _images(evaluation),
        "verification": [
            {**dataclasses.asdict(deviation), "ok": deviation.ok} for deviation in deviations
        ],
        "drift": [dataclasses.asdict(drift) for drift in drifts],
        "budget": [dataclasses.asdict(search) for search in searches],
        "warnings": list(warnings),
        "tools": tool_versions(),
        "seconds_by_stage": {k: round(v, 2) for k, v in seconds_by_stage.items()},
    }


def _options(request: ExportRequest) -> dict[str, Any]:
    """What was asked for."""
    options = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name not in ("out", "overwrite")  # the machine's that it ran on
    }
    options |= {"model": request.source.name, "task": request.task.name}
    options |= {"weights": request.source.weights}
    if request.labels is not None:
        options["labels"] = str(request.labels)
    for path in ("calibration", "evaluation", "labels", "weights"):
        options[path] = options[path] and _name(options[path])
    options["io"] = request.effective_io
    return options


def _task(task: Task) -> dict[str, Any]:
    """What the figures are, for those who read them later."""
    accuracy = task.metrics[task.accuracy]
    reference = next((c.reference_metric for c in task.brief if c.metric == task.accuracy), "")
    return {
        "name": task.name,
        "accuracy": task.accuracy,
        "accuracy_reference": reference,
        "unit": accuracy.unit,
        "title": next((c.title for c in task.brief if c.metric == task.accuracy), task.accuracy),
    }


def _name(spec: str) -> str:
    return Path(spec).name if Path(spec).exists() else spec


def _images(source: ImageSource) -> dict[str, Any]:
    record = dataclasses.asdict(source)
    record["note"] = {
        "random": "random data, not images: the int8 ranges are arbitrary",
        "bundled": "images that ship with mnv4-deploy",
        "folder": "the user's images",
    }[source.kind]
    return record


def _file(artifact: Artifact, truth: FileAudit | None, targets: Targets) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": artifact.path.name,
        "format": artifact.format,
        "precision": artifact.precision,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
    }
    if artifact.precision == "int8":
        entry["target"] = dataclasses.asdict(targets)[artifact.format]
    if truth is not None:
        facts = truth.facts
        entry |= {
            "inputs": [dataclasses.asdict(tensor) for tensor in facts.inputs],
            "outputs": [dataclasses.asdict(tensor) for tensor in facts.outputs],
            "op_histogram": facts.histogram,
            "executed_op_histogram": facts.executed_histogram,
            "compute_histogram": facts.compute_histogram,
            "weight_bytes_by_dtype": facts.weight_bytes_by_dtype,
            "partitions": facts.partitions,
            "delegated_share": facts.delegated_share,
            "not_delegated": [
                {"op": op.kind, "name": op.name, "why": op.refusal} for op in facts.not_delegated
            ],
            "overflowing_biases": list(truth.overflowing_biases),
            "padding_outliers": list(truth.padding_outliers),
            "notes": list(facts.notes),
        }
        if (artifact.format, artifact.precision) == ("onnx", "int8"):
            entry["in_float"] = [
                {"op": op.kind, "name": op.name, "why": op.float_reason} for op in facts.in_float
            ]
    return entry
