"""Every file form of a drift, all of them or none."""

from __future__ import annotations

import json
from pathlib import Path

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.outputs import staged, write_manifest
from mnv4_deploy.reports.drift.drift_json import drift_to_dict
from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.reports.drift.layer_rows import write_csv
from mnv4_deploy.reports.drift.model_explorer import Figure, node_data

MANIFEST = "drift.json"
REPORT = "drift-report.html"
LAYERS = "drift-layers.csv"
OVERLAYS: dict[Figure, str] = {
    "isolated": "drift-model-explorer.json",
    "accumulated": "drift-model-explorer-accumulated.json",
}
NAMES = (MANIFEST, LAYERS, REPORT, *OVERLAYS.values())


def write_outputs(result: DriftResult, out: Path, *, overwrite: bool) -> tuple[Path, ...]:
    """Write what there is of ``NAMES`` into the folder ``out``, and say which files these are.

    Without layers there is no table of them, and without a model file as candidate nothing to
    overlay. Raises OutputError where ``out`` cannot take the files.
    """
    with staged(out, overwrite=overwrite, manifest=MANIFEST) as folder:
        (folder / REPORT).write_text(report_page(result), encoding="utf-8")
        if result.layers is not None:
            with (folder / LAYERS).open("w", encoding="utf-8", newline="") as stream:
                write_csv(result.layers, stream)
            if result.candidate.path:
                _write_overlays(result.layers, result.candidate.path, folder)
        write_manifest(folder, drift_to_dict(result), name=MANIFEST)
        names = [name for name in NAMES if (folder / name).exists()]
    return tuple(out / name for name in names)


def _write_overlays(layers: LayersDrift, candidate: str, folder: Path) -> None:
    from mnv4_deploy.profiles.graph.read import read_graph_of

    graph = read_graph_of(candidate)
    for figure, name in OVERLAYS.items():
        text = json.dumps(node_data(layers, graph, figure), allow_nan=False)
        (folder / name).write_text(text, encoding="utf-8")
