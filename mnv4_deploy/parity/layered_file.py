"""What only a difference makes necessary: a file's layers, and why one of them differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.parity.layer_tally import Evidence
from mnv4_deploy.parity.layers import LayersPlan, tflite_plan
from mnv4_deploy.parity.records import LayerParity
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph

if TYPE_CHECKING:
    from mnv4_deploy.parity.run import Explain


class LayeredFile:
    """A file whose layers can be looked at. Copies of it go to ``folder``."""

    def __init__(self, path: Path, graph: ModelGraph, facts: FileFacts, folder: Path) -> None:
        self._path, self._graph, self._facts, self._folder = path, graph, facts, folder
        self._plan: LayersPlan | None = None

    def plan(self) -> LayersPlan:
        """Made once. Raises as ``tflite_plan`` and ``onnx_plan``."""
        if self._plan is None:
            self._plan = self._new_plan()
        return self._plan

    def _new_plan(self) -> LayersPlan:
        if self._graph.format == "tflite":
            return tflite_plan(self._path, self._graph, self._facts)
        from mnv4_deploy.parity.onnx_layers import onnx_plan

        return onnx_plan(self._path, self._graph, self._facts, self._folder)

    def isolate(self, plan: LayersPlan, given: Sequence[int]) -> Path:
        """See :func:`mnv4_deploy.parity.isolate.isolated_copy`."""
        from mnv4_deploy.parity.isolate import isolated_copy

        return isolated_copy(plan, self._graph, given, self._folder)

    def explainer(self, here: DeviceFacts, there: DeviceFacts) -> Explain:
        """See :func:`mnv4_deploy.parity.explain.explain`."""

        def explain(evidence: Evidence, layer: LayerParity) -> str:
            from mnv4_deploy.parity.explain import explain as explain_layer

            return explain_layer(evidence, layer, self._path, self._graph, here, there)

        return explain
