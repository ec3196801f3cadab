"""Everything a drift run knows, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from mnv4_deploy.drift.limits import metrics
from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import LayerDrift
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.versions import tool_versions

SCHEMA_VERSION = 2


def drift_to_dict(result: DriftResult) -> dict[str, Any]:
    """``result`` as a dict that ``json.dumps(..., allow_nan=False)`` takes.

    Keys carry their units and keep their meaning within a ``schema_version``; they always come
    in the same order. What is not known, or is no number, is None. ``metrics`` has what
    ``--fail-if`` can limit, under the same names, ``output`` the task's own record. Images go by
    their names within the data set, files by their own: no path of this machine is written.
    Names are the files' own, unescaped.
    """
    layers = result.layers
    document = {
        "schema_version": SCHEMA_VERSION,
        "task": result.task.name,
        "reference": _subject(result.reference),
        "candidate": _subject(result.candidate),
        "data": result.data,
        "metrics": metrics(result.task, result.output, layers, len(result.skipped)),
        "limits": result.limits,
        "failed": result.failed,
        "output": result.output,
        "layers": None
        if layers is None
        else {**_record(layers), "layers": [_layer(layer) for layer in layers.layers]},
        "skipped": result.skipped,
        "run": {
            "seconds": result.seconds,
            "images_per_second": result.rate,
            "resumed_images": result.resumed_images,
            "workers": result.workers,
        },
        "device": None
        if result.device is None
        else {**_record(result.device), "used_runtimes": result.device_runtimes},
        "parity": result.parity,
        "notes": result.notes,
        "tools": tool_versions(),
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _subject(subject: ModelRef) -> dict[str, Any]:
    record = _record(subject)
    source = record.pop("source")
    return {
        "kind": record.pop("kind"),
        "name": record.pop("name"),
        "file": file_name(subject.path),
        "model": file_name(source.name) if source else "",
        "weights": file_name(source.weights) if source else "",
        **record,
    }


def file_name(path: str) -> str:
    """The last part of a path, whichever system it is from."""
    return PurePath(path.replace("\\", "/")).name


def _layer(layer: LayerDrift) -> dict[str, Any]:
    return {**_record(layer), "damage": layer.damage}


def _record(record: Any) -> dict[str, Any]:
    """Its fields, without where a file is on this machine."""
    return {
        field.name: getattr(record, field.name) for field in fields(record) if field.name != "path"
    }


def _plain(value: Any) -> Any:
    """Records as dicts, arrays and sequences as lists, None for a number JSON does not have."""
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(_record(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        # Peaks of float32 values: more digits would only triple the file.
        return [_plain(float(f"{item:.8g}")) for item in value.tolist()]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
