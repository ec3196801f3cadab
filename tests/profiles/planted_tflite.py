"""Planted .tflite graphs, run on the real runtime and joined with its events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.join.xnnpack import join_xnnpack
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.records.timing import Backend, OpTiming
from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_RUNTIME,
    EVENT_XNNPACK_OP,
    CompiledModel,
    ProfilerEvent,
)
from mnv4_deploy.profiles.runtimes.litert.run_xnnpack import feed
from mnv4_deploy.profiles.runtimes.litert.xnnpack_events import operator_events, partition_numbers

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

BACKENDS: dict[int, Backend] = {
    EVENT_BUILTIN_OP: "builtin",
    EVENT_RUNTIME: "runtime",
    EVENT_XNNPACK_OP: "xnnpack",
}
Row = tuple[tuple[str, ...], tuple[str, ...]]  # kinds of the file, kernels


def record(path: Path, runs: int) -> list[tuple[ProfilerEvent, ...]]:
    """The events of several runs, as LiteRT's profiler gives them."""
    with CompiledModel(path, profiling=True) as model:
        feed(model)
        model.run()
        recorded = []
        for _ in range(runs):
            model.start_profiler()
            model.run()
            recorded.append(operator_events(model.stop_profiler()))
    return recorded


def measure(path: Path, runs: int) -> list[OpTiming]:
    """What the runtime says it ran."""
    recorded = record(path, runs)
    return [
        OpTiming(
            tag=event.tag,
            backend=BACKENDS[event.type],
            samples_us=tuple(float(run[at].elapsed_us) for run in recorded),
            partition=partition,
            op_index=event.index if event.type == EVENT_BUILTIN_OP else None,
        )
        for at, (event, partition) in enumerate(
            zip(recorded[0], partition_numbers(recorded[0]), strict=True)
        )
    ]


class Joined:
    """The layers of a file that really ran, checked for what must hold of every file."""

    def __init__(self, path: Path, runs: int = 1) -> None:
        self.graph = read_tflite(path)
        self.timings = measure(path, runs)
        self.layers = join_xnnpack(self.graph, self.timings)
        check_conserved(self.graph, self.timings, self.layers)

    @property
    def rows(self) -> list[Row]:
        return [
            (
                tuple(self.graph.ops[i].kind for i in layer.op_indices),
                tuple(self.timings[i].tag.split(" (")[0] for i in layer.timing_indices),
            )
            for layer in self.layers
            if layer.backend != "runtime"
        ]

    def of(self, index: int) -> Layer:
        return next(layer for layer in self.layers if index in layer.op_indices)

    def time_us(self, layer: Layer) -> float:
        return sum(self.timings[i].median_us for i in layer.timing_indices)


def check_conserved(
    graph: ModelGraph, timings: Sequence[OpTiming], layers: Sequence[Layer]
) -> None:
    assert sorted(i for layer in layers for i in layer.timing_indices) == list(range(len(timings)))
    assert sorted(i for layer in layers for i in layer.op_indices) == list(range(len(graph.ops)))
    assert [layer.index for layer in layers] == list(range(len(layers)))
    first = [layer.timing_indices[0] for layer in layers if layer.timing_indices]
    assert first == sorted(first)
    for layer in layers:
        assert all(timings[i].partition == layer.partition for i in layer.timing_indices)
        assert all(timings[i].backend == layer.backend for i in layer.timing_indices)


def run(b: TfliteBuilder, folder: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Joined:
    return Joined(b.write(folder / "model.tflite", inputs, outputs))


def quantized(dtype: str) -> dict[str, Any]:
    return {"scale": 0.1} if dtype == "int8" else {}


def tensor(b: TfliteBuilder, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
    return b.tensor(name, shape, dtype, **quantized(dtype))


def integers(b: TfliteBuilder, values: Any) -> int:
    array = np.array(values, np.int32)
    return b.tensor(f"const{len(b.graph.tensors)}", array.shape, "int32", data=array)


def conv(
    b: TfliteBuilder,
    source: int,
    name: str,
    *,
    kernel: int = 3,
    width: int = 8,
    same: bool = False,
    depthwise: bool = False,
    dtype: str = "float32",
) -> int:
    """A convolution with stride 1 and its output tensor."""
    _, height, wide, channels = b.graph.tensors[source].shape
    out = channels if depthwise else width
    shape = (1, kernel, kernel, channels) if depthwise else (width, kernel, kernel, channels)
    rng = np.random.default_rng(len(b.graph.tensors))
    if dtype == "int8":
        weights = rng.integers(-9, 9, shape).astype(np.int8)
        w = b.tensor(f"{name}.w", shape, "int8", data=weights, scale=[0.01] * out)
        b.graph.tensors[w].quantization.quantizedDimension = 3 if depthwise else 0
        zeros, scale = np.zeros(out, np.int32), [0.001] * out
        bias = b.tensor(f"{name}.b", (out,), "int32", data=zeros, scale=scale)
    else:
        floats = rng.standard_normal(shape).astype(np.float32)
        w = b.tensor(f"{name}.w", shape, data=floats)
        bias = b.tensor(f"{name}.b", (out,), data=np.zeros(out, np.float32))
    lost = 0 if same else kernel - 1
    result = tensor(b, name, (1, height - lost, wide - lost, out), dtype)
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    values = {"depthMultiplier": 1} if depthwise else {}
    padding = schema.Padding.SAME if same else schema.Padding.VALID
    b.op(
        kind,
        (source, w, bias),
        (result,),
        options,
        strideW=1,
        strideH=1,
        padding=padding,
        **values,
    )
    return result


def pad(b: TfliteBuilder, source: int, name: str, dtype: str = "float32") -> int:
    _, height, wide, channels = b.graph.tensors[source].shape
    out = tensor(b, name, (1, height + 2, wide + 2, channels), dtype)
    b.op("PAD", (source, integers(b, [[0, 0], [1, 1], [1, 1], [0, 0]])), (out,))
    return out


def unary(b: TfliteBuilder, kind: str, source: int, name: str, dtype: str = "float32") -> int:
    out = tensor(b, name, b.graph.tensors[source].shape, dtype)
    b.op(kind, (source,), (out,))
    return out


def add(b: TfliteBuilder, left: int, right: int, name: str, activation: int = 0) -> int:
    out = tensor(b, name, b.graph.tensors[left].shape)
    b.op("ADD", (left, right), (out,), "AddOptions", fusedActivationFunction=activation)
    return out


def cumulative(b: TfliteBuilder, source: int, name: str) -> int:
    """An operator that XNNPACK has not."""
    out = tensor(b, name, b.graph.tensors[source].shape)
    b.op("CUMSUM", (source, integers(b, 3)), (out,), "CumsumOptions")
    return out
