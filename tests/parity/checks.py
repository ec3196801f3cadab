"""Small networks, and a check of one device on them without child processes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv4_deploy.parity.inputs import Inputs
from mnv4_deploy.parity.layered_file import LayeredFile
from mnv4_deploy.parity.records import DeviceParity
from mnv4_deploy.parity.run import compare_device
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.runtimes.timing import example_input
from tests.parity.fake_devices import FakeDevice
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import conv, tensor


def facts_of(path: Path) -> FileFacts:
    from mnv4_deploy.profiles.inspection import inspect_onnx, inspect_tflite

    if path.suffix == ".tflite":
        return inspect_tflite.inspect_here(str(path))
    return inspect_onnx.inspect_here(str(path))


def random_inputs(graph: ModelGraph, count: int = 2) -> Inputs:
    tensors = [graph.tensors[t] for t in graph.inputs]
    return Inputs(
        "random",
        count,
        lambda at: tuple(example_input(t.shape, t.dtype, 10 * at) for t in tensors),
    )


def fixed_inputs(*arrays: np.ndarray[Any, Any]) -> Inputs:
    return Inputs("given", 1, lambda at: arrays)  # noqa: ARG005


def check(
    path: Path, there: FakeDevice, *, inputs: Inputs | None = None, isolate: bool = True
) -> DeviceParity:
    graph, facts = read_graph_of(path), facts_of(path)
    here = FakeDevice("here", architecture="x86_64")
    with tempfile.TemporaryDirectory() as folder:
        file = LayeredFile(path, graph, facts, Path(folder))
        found, _ = compare_device(
            here,  # type: ignore[arg-type]
            there,  # type: ignore[arg-type]
            path,
            facts,
            inputs or random_inputs(graph),
            file.plan,
            file.explainer(here.facts, there.facts),
            file.isolate if isolate else None,
        )
    return found


def convs(
    folder: Path, names: Sequence[str], dtype: str = "int8", activation: int = 0
) -> tuple[Path, dict[str, int]]:
    """Convolutions in a row, the second of three a depthwise one; their tensors by name."""
    b = TfliteBuilder()
    image = current = tensor(b, "image", (1, 8, 8, 4), dtype)
    places = {}
    for at, name in enumerate(names):
        current = places[name] = conv(
            b, current, name, kernel=3, width=4, same=True, depthwise=at == 1, dtype=dtype
        )
        b.graph.tensors[current - 2].name = name  # as exporters call the weights of a module
        b.graph.operators[-1].builtinOptions.fusedActivationFunction = activation
    b.graph.tensors[current].name = "scores"
    return b.write(folder / "convs.tflite", (image,), (current,)), places
