"""Latency as node data of Model Explorer (google-ai-edge/model-explorer).

The format is GraphNodeData of its ``node_data_builder.py``, without a graph's id around it, which
Model Explorer then takes for the graph that is open.
"""

from __future__ import annotations

from typing import Any

from mnv4_deploy.profiles.records.graph import Format, Operator
from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.reports.profile.kinds import main_op

# Only hexadecimal colours are interpolated. Stop 0 is the smallest value, 1 the largest.
_GRADIENT = (
    {"stop": 0, "bgColor": "#ffffff", "textColor": "#1f1f1f"},
    {"stop": 0.5, "bgColor": "#fdae61", "textColor": "#1f1f1f"},
    {"stop": 1, "bgColor": "#d7191c", "textColor": "#ffffff"},
)


def node_data(profile: ModelProfile) -> dict[str, Any]:
    """Latency in us by node, as JSON for "Add per-node data" or ``--node_data_paths``.

    A layer's time stands at its main operator and 0 at the others that ran with it, so that the
    sums Model Explorer shows of groups are true. Operators that no layer covers have no value.
    """
    results: dict[str, dict[str, float]] = {}
    ops, format_ = profile.measurement.graph.ops, profile.measurement.format
    for layer in profile.layers:
        main = main_op(profile, layer)
        if main is None:
            continue
        for index in layer.op_indices:
            results.setdefault(node_id(format_, ops[index]), {"value": 0.0})
        results[node_id(format_, main)]["value"] += layer.latency_us
    return {"name": "Latency (us)", "results": results, "gradient": [dict(s) for s in _GRADIENT]}


def node_id(format_: Format, op: Operator) -> str:
    """What Model Explorer calls ``op`` of a file of this format.

    Its TFLite reader numbers the operators of a graph from 0; the ONNX reader
    (model-explorer-onnx) takes the node's name, and ``<node_N>`` where it has none.
    """
    if format_ == "tflite":
        return str(op.index)
    return op.name or f"<node_{op.index}>"
