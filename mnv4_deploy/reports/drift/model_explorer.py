"""SQNR as node data of Model Explorer (google-ai-edge/model-explorer).

Its ``GraphNodeData`` holds one figure a node, so there is a file for each figure.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator
from mnv4_deploy.reports.profile.model_explorer import node_id

Figure = Literal["isolated", "accumulated"]
_NAMES: dict[Figure, str] = {
    "isolated": "SQNR isolated (dB)",
    "accumulated": "SQNR accumulated (dB)",
}
# In rising order; above the last a node stays white. A gradient would stretch to the 200 dB of
# layers that do not differ, and show all others alike.
_THRESHOLDS = (
    {"value": 10, "bgColor": "#d7191c", "textColor": "#ffffff"},
    {"value": 20, "bgColor": "#fdae61", "textColor": "#1f1f1f"},
    {"value": 30, "bgColor": "#ffffbf", "textColor": "#1f1f1f"},
)
# Conversions and an activation can stand between a layer's operator and its output.
_STEPS = 6


def node_data(layers: LayersDrift, graph: ModelGraph, figure: Figure) -> dict[str, Any]:
    """SQNR in dB by node of the candidate's ``graph``, as JSON for "Add per-node data".

    It stands at the operator that does a layer's work. Layers that are not in the graph, or do
    not have the figure, have no value.
    """
    makers: defaultdict[str, list[Operator]] = defaultdict(list)
    producer: dict[int, Operator] = {}
    for op in graph.ops:
        for tensor in op.outputs:
            makers[graph.tensors[tensor].name].append(op)
            producer[tensor] = op
    results = {}
    for layer in layers.layers:
        agreement = layer.isolated if figure == "isolated" else layer.accumulated
        found = _operator(layer, makers.get(layer.tensor, []), producer)
        if found is not None and agreement is not None:
            results[node_id(graph.format, found)] = {"value": agreement.sqnr_db}
    return {
        "name": _NAMES[figure],
        "results": results,
        "thresholds": [dict(threshold) for threshold in _THRESHOLDS],
        # Decibels do not add up.
        "hideAggregatedStats": ["sum"],
    }


def _operator(
    layer: LayerDrift, makers: list[Operator], producer: dict[int, Operator]
) -> Operator | None:
    """The operator of the layer's kind that ends in its output; else the one that makes it."""
    for op in makers:
        step: Operator | None = op
        for _ in range(_STEPS):
            if step is None or step.kind == layer.kind:
                break
            step = producer.get(step.inputs[0]) if step.inputs else None
        else:
            step = None
        if step is not None:
            return step
    return makers[0] if makers else None
