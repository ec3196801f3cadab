"""Profiles made up for tests: small, with every kind of layer, and figures known by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mnv4_deploy.profiles.records.graph import ModelGraph, OpCost, Operator, Tensor
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel
from mnv4_deploy.profiles.records.profile import (
    Bound,
    Conditions,
    Finding,
    Layer,
    Measurement,
    ModelProfile,
    Trust,
)
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming


@dataclass
class Spec:
    """One layer and the one or more operators of the file behind it."""

    op_type: str
    module: str = ""
    samples_us: tuple[float, ...] = (10.0, 12.0, 11.0)
    cost: OpCost | None = None
    name: str = ""
    compute: str = "int8"
    backend: str = "xnnpack"
    partition: int | None = 0
    file_op_types: tuple[str, ...] | None = None
    weights: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    kernel: str = "GEMM"
    bound: Bound | None = None
    refusal: str | None = None


def roof(limit: str, us: float, *, level: str = "", won_us: float = 0.0, percent=50.0) -> Bound:
    return Bound(limit, level, us, us / 2, 0.5, us, percent, won_us)


SPECS = (
    Spec(
        "BUFFERS",
        backend="runtime",
        partition=None,
        compute="none",
        file_op_types=(),
        kernel="buffer registration",
        samples_us=(5.0, 6.0, 7.0),
    ),
    Spec(
        "CONV_2D",
        "conv_stem",
        (250.0, 260.0, 255.0),
        OpCost(7_077_888, 0, 864, 49_152, 73_728),
        weights=(32, 3, 3, 3),
        bound=roof("compute", 60.0, won_us=195.0),
    ),
    Spec(
        "DEPTHWISE_CONV_2D",
        "blocks.0.0.dw_start",
        (60.0, 62.0, 61.0),
        OpCost(663_552, 0, 288, 73_728, 73_728),
        weights=(1, 3, 3, 32),
        bound=roof("memory", 12.0, level="L2", won_us=49.0),
    ),
    Spec(
        "CONV_2D",
        "blocks.0.0.pw_proj",
        (99.0, 98.0, 100.0),
        OpCost(2_359_296, 0, 1_024, 73_728, 73_728),
        weights=(32, 1, 1, 32),
        bound=roof("compute", 40.0, won_us=59.0),
    ),
    Spec(
        "ADD",
        "blocks.0.0",
        (2.0, 2.0, 3.0),
        OpCost(0, 73_728, 0, 147_456, 73_728),
        bound=roof("overhead", 1.0),
    ),
    Spec(
        "SOFTMAX",
        "blocks.1.1.attn",
        (84.0, 80.0, 88.0),
        OpCost(0, 60_000, 0, 9_216, 9_216),
        backend="builtin",
        partition=None,
        kernel="SOFTMAX",
        bound=roof("unknown", 4.0, won_us=80.0),
        refusal="int8 is not supported",
    ),
    Spec(
        "BATCH_MATMUL",
        "blocks.1.1.attn",
        (19.0, 18.0, 20.0),
        OpCost(1_179_648, 0, 0, 36_864, 9_216),
        partition=1,
        bound=roof("memory", 9.0, level="L1", won_us=10.0),
    ),
    Spec("RESHAPE", "blocks.1.1.attn", (), OpCost(), partition=1, bound=roof("unknown", 0.0)),
    Spec(
        "FULLY_CONNECTED",
        "classifier",
        (40.0, 41.0, 42.0),
        OpCost(1_280_000, 0, 1_280_000, 1_280, 1_000),
        partition=1,
        file_op_types=("DEQUANTIZE", "FULLY_CONNECTED", "QUANTIZE"),
        weights=(1000, 1280),
        bound=roof("memory", 30.0, level="DRAM", won_us=11.0),
    ),
    Spec(
        "CUSTOM_THING",
        "postprocess",
        (7.0, 7.0, 7.0),
        None,
        backend="builtin",
        partition=None,
        bound=roof("unknown", 0.0),
    ),
)

MACHINE = Machine(
    cpu="Example CPU with 2 cores",
    cores=2,
    isa=("avx2", "avx512_vnni"),
    caches={"L1d": 32768, "L2": 1 << 20},
    measured_on="2026-01-02",
    method="best of 5 rounds",
    versions={"ai-edge-litert": "2.3.0"},
    ceilings=(
        Ceilings(
            threads=1,
            peak_macs_per_s={
                "xnnpack": {"int8": 180e9, "float32": 50e9},
                "independent": {"int8": 200e9, "float32": 55e9},
            },
            memory=(
                MemoryLevel("L1", 32768, 200e9),
                MemoryLevel("L2", 1 << 20, 90e9),
                MemoryLevel("L3", 1 << 25, 40e9),
                MemoryLevel("DRAM", None, 15e9),
            ),
            op_overhead_us={"xnnpack": 0.5},
            spin_us=1000.0,
            clock_ghz=3.7,
        ),
    ),
    limits_macs_per_s={"int8": 230e9},
)


def make_profile(
    specs: tuple[Spec, ...] = SPECS,
    *,
    machine: Machine | None = MACHINE,
    path: str = "models/hybrid-m-int8.tflite",
    format: str = "tflite",
    **trust: Any,
) -> ModelProfile:
    """A profile with a layer for each of ``specs``; bounds only with a machine."""
    tensors: list[Tensor] = []
    ops: list[Operator] = []
    joined: list[Layer] = []
    layers: list[Layer] = []
    timings: list[OpTiming] = []
    for index, spec in enumerate(specs):
        op_types = (spec.op_type,) if spec.file_op_types is None else spec.file_op_types
        indices = []
        for op_type in op_types:
            tensors += [
                Tensor(f"in{len(ops)}", (1, 8, 8, 4), "int8"),
                Tensor(f"w{len(ops)}", spec.weights, "int8", constant=True),
            ]
            at = len(tensors)
            main = op_type == spec.op_type
            name = (spec.name or f"op{len(ops)}") if main else f"op{len(ops)}"
            ops.append(
                Operator(
                    len(ops),
                    op_type,
                    name,
                    (at - 2, at - 1) if spec.weights else (at - 2,),
                    (at - 2,),
                    spec.attributes if main else {},
                )
            )
            indices.append(ops[-1].index)
        timed: tuple[int, ...] = ()
        if spec.samples_us:
            timed = (len(timings),)
            timings.append(
                OpTiming(spec.kernel, spec.backend, spec.samples_us, "", spec.partition)
            )
        name = spec.name or (f"op{indices[0]}" if indices else "")
        joined.append(
            Layer(
                spec.op_type,
                name,
                spec.module,
                spec.compute,
                spec.backend,
                spec.partition,
                tuple(indices),
                timed,
                index,
            )
        )
        layers.append(
            replace(
                joined[-1],
                file_op_types=op_types,
                kernels=(spec.kernel,) if spec.samples_us else (),
                output_shape=(1, 8, 8, 4),
                samples_us=spec.samples_us,
                cost=spec.cost,
                refusal=spec.refusal,
                statistic="p50",
                bound=(spec.bound or roof("unknown", 0.0)) if machine else None,
            )
        )
    total = sum(layer.latency_us for layer in layers)
    rounds = ((total * 1.02, total * 1.03), (total * 1.01, total * 1.02))
    facts = {
        "wall_us": total * 1.02,
        "profiled_wall_us": total * 1.04,
        "overhead_percent": 2.0,
        "layers_us": total,
        "unattributed_us": total * 0.02,
        "sum_percent": 98.0,
        "spread_percent": 1.5,
        "runs": 3,
        "warnings": ("The machine was noisy: close other programs.",),
    }
    measurement = Measurement(
        path=path,
        format=format,
        runtime="ai-edge-litert 2.3.0",
        size_bytes=10_949_650,
        sha256="ab" * 32,
        threads=1,
        cpus=(0, 1),
        graph=ModelGraph(format, tuple(tensors), tuple(ops), (0,), (1,)),
        profile=OpProfile(path, "ai-edge-litert 2.3.0", 1, tuple(timings)),
        layers=tuple(joined),
        rounds_us=rounds,
        profiled_rounds_us=rounds,
        conditions=Conditions((1000.0, 1001.0), 0.1, None),
        refusals={5: "int8 is not supported"},
        notes=("Inputs are random numbers.",),
    )
    return ModelProfile(
        measurement=measurement,
        layers=tuple(layers),
        findings=(
            Finding(
                "fragmenting op",
                "1 SOFTMAX outside XNNPACK (0.084 ms)",
                "XNNPACK does not take it: keep softmax in float.",
                80.0,
                (5,),
            ),
        )
        if machine and len(specs) > 5
        else (),
        trust=Trust(**{**facts, **trust}),
        statistic="p50",
        machine=machine,
        unknown_op_types=tuple(
            sorted(
                {layer.op_type for layer in layers if layer.cost is None and layer.file_op_types}
            )
        ),
    )


def with_names(profile: ModelProfile, name: str) -> ModelProfile:
    """``profile`` with ``name`` wherever a file can plant one."""
    layers = tuple(
        replace(
            layer,
            name=name,
            module=name,
            op_type=name,
            kernels=(name,),
            refusal=name,
            compute=name,
        )
        for layer in profile.layers
    )
    measurement = replace(profile.measurement, path=name, notes=(name,))
    findings = (Finding(name, name, name, 1.0, (0,)),)
    return replace(
        profile,
        layers=layers,
        measurement=measurement,
        findings=findings,
        unknown_op_types=(name,),
    )
