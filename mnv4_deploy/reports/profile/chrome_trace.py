"""One inference as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

from typing import Any

from mnv4_deploy.profiles.records.profile import Layer, ModelProfile
from mnv4_deploy.reports.profile.rows import Row, rows_of
from mnv4_deploy.text import STATISTIC_TITLES, clean, layer_title, plural

_PROCESS = 1
_TRACKS = {
    "xnnpack": "XNNPACK",
    "builtin": "TFLite built-in kernels",
    "onnxruntime": "onnxruntime",
}
_ARGUMENTS = (
    *("index", "module", "name", "compute", "kernels", "output_shape", "p10_us", "p90_us"),
    *("share_percent", "macs", "weight_bytes", "read_bytes", "written_bytes"),
    *("operational_intensity", "gmacs_per_s", "bound", "level", "percent_of_roof"),
    *("recoverable_us", "refusal"),
)


def trace_events(profile: ModelProfile) -> dict[str, Any]:
    """The layers one after the other, each as long as its latency, in the Trace Event Format.

    Times are in us. Each delegated partition, the built-in kernels and the runtime have tracks
    of their own, so that borders are seen. Layers that the runtime dropped are not in it.
    """
    rows = rows_of(profile)
    ran = sorted(
        (layer for layer in profile.layers if layer.samples_us),
        key=lambda layer: min(layer.timing_indices, default=0),
    )
    tracks: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    now_us = 0.0
    for layer in ran:
        track = tracks.setdefault(_track(layer), len(tracks) + 1)
        events.append(_event(layer, rows[layer.index], track, now_us))
        now_us += layer.latency_us
    measured, how = profile.measurement, STATISTIC_TITLES[profile.statistic]
    title = f"{clean(measured.path)}, {measured.runtime}, {plural(measured.threads, 'thread')}"
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "what": f"one inference: {how} run of each layer",
            "sha256": measured.sha256,
        },
        "traceEvents": [
            _metadata("process_name", 0, title),
            *(_metadata("thread_name", number, name) for name, number in tracks.items()),
            *events,
        ],
    }


def _track(layer: Layer) -> str:
    name = _TRACKS.get(layer.backend, "Runtime")
    return name if layer.partition is None else f"{name} partition {layer.partition}"


def _event(layer: Layer, row: Row, track: int, start_us: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": track,
        "ts": start_us,
        "dur": layer.latency_us,
        "name": layer_title(layer),
        "cat": clean(layer.op_type),
        "args": {
            key: clean(value) if isinstance(value, str) else value
            for key in _ARGUMENTS
            if (value := row[key]) is not None
        },
    }


def _metadata(what: str, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PROCESS, "tid": track, "name": what, "args": {"name": name}}
