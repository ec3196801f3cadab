"""What each stage adds to a layer, and that it leaves alone what the stages before it found."""

from __future__ import annotations

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.records.profile import Conditions, Layer, Measurement
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming
from mnv4_deploy.profiles.roofline.analyse import analyse
from tests.profiles.profile_factory import MACHINE

# ADD (two kernels, with the activation that XNNPACK fused), an unpacked weight that never runs.
TENSORS = (
    Tensor("x", (1, 4, 4, 8), "int8"),
    Tensor("w", (8,), "int8", constant=True),
    Tensor("y", (1, 4, 4, 8), "int8"),
    Tensor("z", (1, 4, 4, 8), "int8"),
)
GRAPH = ModelGraph(
    "tflite",
    TENSORS,
    (
        Operator(0, "DEQUANTIZE", "w", (1,), (1,)),
        Operator(1, "ADD", "y", (0, 1), (2,)),
        Operator(2, "RELU", "z", (2,), (3,)),
    ),
    (0,),
    (3,),
)
TIMINGS = (
    OpTiming("buffers", "runtime", (1.0, 2.0, 1.0)),
    OpTiming("Copy", "xnnpack", (3.0, 2.0, 4.0), partition=0),
    OpTiming("Add", "xnnpack", (30.0, 40.0, 20.0), partition=0),
)
JOINED = (
    Layer("runtime", "buffers", "", "none", "runtime", None, (), (0,), 0),
    Layer("DEQUANTIZE", "w", "", "int8", "xnnpack", None, (0,), (), 1),
    Layer("ADD", "y", "blocks.0", "int8", "xnnpack", 0, (1, 2), (1, 2), 2),
)
ROUNDS = ((35.0, 45.0, 26.0),)
MEASUREMENT = Measurement(
    path="m.tflite",
    format="tflite",
    runtime="r",
    size_bytes=1,
    sha256="",
    threads=1,
    cpus=(0,),
    graph=GRAPH,
    profile=OpProfile("m.tflite", "r", 1, TIMINGS),
    layers=JOINED,
    rounds_us=ROUNDS,
    profiled_rounds_us=ROUNDS,
    conditions=Conditions(()),
    refusals={2: "only for a test"},
)
OF_THE_JOIN = (
    *("op_type", "name", "module", "compute", "backend", "partition"),
    *("op_indices", "timing_indices", "index"),
)


def test_a_later_stage_leaves_what_the_join_found() -> None:
    for machine in (MACHINE, None):
        layers = analyse(MEASUREMENT, machine).layers
        assert len(layers) == len(JOINED)
        for joined, layer in zip(JOINED, layers, strict=True):
            for name in OF_THE_JOIN:
                assert getattr(layer, name) == getattr(joined, name), name


def test_times_and_costs_are_those_of_the_indices() -> None:
    around, dropped, add = analyse(MEASUREMENT, None, "mean").layers
    assert around.samples_us == (1.0, 2.0, 1.0)
    assert (around.file_op_types, around.output_shape, around.cost) == ((), (), None)
    assert (dropped.samples_us, dropped.kernels, dropped.latency_us) == ((), (), 0.0)
    assert add.samples_us == (33.0, 42.0, 24.0)  # run by run, both kernels
    assert add.latency_us == 33.0
    assert (add.kernels, add.file_op_types) == (("Copy", "Add"), ("ADD", "RELU"))
    assert add.output_shape == (1, 4, 4, 8)
    # The input and the result of RELU move; what is between the two does not.
    assert add.cost is not None
    assert (add.cost.weight_bytes, add.cost.activation_bytes) == (8, 2 * 4 * 4 * 8)
    assert (dropped.refusal, add.refusal) == (None, "only for a test")


def test_bounds_are_there_with_ceilings_alone() -> None:
    bounded, bare = analyse(MEASUREMENT, MACHINE), analyse(MEASUREMENT, None)
    assert bounded.bounded and not bare.bounded
    assert all(layer.bound for layer in bounded.layers)
    assert [layer.bound for layer in bare.layers] == [None] * 3
    # 136 + 128 bytes are less than L1: they need at least their way from there.
    add = bounded.layers[2].bound
    assert add is not None and add.memory_us is not None
    assert abs(add.memory_us - 264 / 200e9 * 1e6) < 1e-9
