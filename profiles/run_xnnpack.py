"""Per-operator and end-to-end times of .tflite files on LiteRT with XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.litert_capi import (
    EVENT_BUILTIN_OP,
    EVENT_RUNTIME,
    EVENT_XNNPACK_OP,
    CompiledModel,
    KernelMode,
    ProfilerEvent,
)
from mnv4_deploy.profiles.litert_library import litert_version
from mnv4_deploy.profiles.timing import example_input, round_robin, time_run_us
from mnv4_deploy.records import OpKind, OpProfile, OpTiming, WallTimes

Inputs = Sequence[NDArray[Any]]

_KINDS: dict[int, OpKind] = {
    EVENT_XNNPACK_OP: "xnnpack",
    EVENT_BUILTIN_OP: "builtin",
    EVENT_RUNTIME: "runtime",
}
# The runtime's own event around all operators: it would count every one of them twice.
_ENCLOSING_TAG = "Invoke"


def runtime_name() -> str:
    return f"ai-edge-litert {litert_version()}"


def profile_ops(
    path: str | Path,
    *,
    threads: int = 1,
    warmup: int = 5,
    runs: int = 50,
    inputs: Inputs | None = None,
    kernel_mode: KernelMode = "delegate",
    flags: int | None = None,
) -> OpProfile:
    """Run ``path`` and time each operator that ran, in us (the runtime's resolution is 1 us).

    ``inputs`` are fed in the order of the model's signature; None feeds
    :func:`~mnv4_deploy.profiles.timing.example_input`. The times without the profiler come from
    a second compiled model, because XNNPACK takes timestamps whenever one is attached.

    Raises ModelFileError for a file LiteRT does not accept, ToolchainError for an untried or
    failing runtime.
    """
    with (
        CompiledModel(path, threads=threads, kernel_mode=kernel_mode, flags=flags) as plain,
        CompiledModel(
            path, threads=threads, kernel_mode=kernel_mode, flags=flags, profiling=True
        ) as profiled,
    ):
        for model in (plain, profiled):
            feed(model, inputs)
            for _ in range(warmup):
                model.run()
        wall_us = tuple(time_run_us(plain.run) for _ in range(runs))
        profiled_wall_us = []
        recorded = []
        for _ in range(runs):
            profiled.start_profiler()
            profiled_wall_us.append(time_run_us(profiled.run))
            recorded.append(operator_events(profiled.stop_profiler()))
    return OpProfile(
        path=str(path),
        runtime=runtime_name(),
        threads=threads,
        ops=_merge(recorded, path),
        wall_us=wall_us,
        profiled_wall_us=tuple(profiled_wall_us),
    )


def time_files(
    paths: Sequence[str | Path],
    *,
    threads: int = 1,
    rounds: int = 20,
    burst: int = 5,
    warmup: int = 5,
    inputs: Mapping[str | Path, Inputs] | None = None,
) -> tuple[WallTimes, ...]:
    """End-to-end times of several files that take turns in this process, profiler off."""
    with ExitStack() as stack:
        models = [stack.enter_context(CompiledModel(path, threads=threads)) for path in paths]
        for path, model in zip(paths, models, strict=True):
            feed(model, (inputs or {}).get(path))
        samples = round_robin(
            [model.run for model in models], rounds=rounds, burst=burst, warmup=warmup
        )
    return tuple(
        WallTimes(str(path), threads, per_round)
        for path, per_round in zip(paths, samples, strict=True)
    )


def feed(model: CompiledModel, inputs: Inputs | None = None) -> None:
    """Set every input of ``model``: the given arrays, or example inputs."""
    if inputs is None:
        inputs = [example_input(spec.shape, spec.dtype) for spec in model.inputs]
    if len(inputs) != len(model.inputs):
        raise ValueError(f"the model has {len(model.inputs)} inputs, not {len(inputs)}")
    for index, array in enumerate(inputs):
        model.set_input(index, array)


def operator_events(events: Sequence[ProfilerEvent]) -> tuple[ProfilerEvent, ...]:
    """The events that are operators or separate runtime work, in order of execution."""
    return tuple(e for e in events if e.type in _KINDS and e.tag != _ENCLOSING_TAG)


def partition_numbers(events: Sequence[ProfilerEvent]) -> list[int | None]:
    """For each event the delegated partition it ran in, None outside XNNPACK.

    XNNPACK numbers its operators from 0 in every partition, so a number that does not grow, or
    an operator of another kind in between, is a border.
    """
    numbers: list[int | None] = []
    partition = -1
    previous: int | None = None
    for event in events:
        if event.type != EVENT_XNNPACK_OP:
            previous = None
            numbers.append(None)
            continue
        if previous is None or event.index <= previous:
            partition += 1
        previous = event.index
        numbers.append(partition)
    return numbers


def _merge(
    recorded: Sequence[tuple[ProfilerEvent, ...]], path: str | Path
) -> tuple[OpTiming, ...]:
    first = recorded[0]
    identity = [(e.tag, e.type, e.index) for e in first]
    if any([(e.tag, e.type, e.index) for e in run] != identity for run in recorded[1:]):
        raise ToolchainError(
            f"{path} runs other operators from run to run (control flow), so their times cannot"
            " be averaged: profile a file without loops."
        )
    timings = []
    for position, (event, partition) in enumerate(
        zip(first, partition_numbers(first), strict=True)
    ):
        kind = _KINDS[event.type]
        timings.append(
            OpTiming(
                tag=event.tag,
                kind=kind,
                samples_us=tuple(float(run[position].elapsed_us) for run in recorded),
                partition=partition,
                op_index=event.index if kind == "builtin" and event.subgraph == 0 else None,
            )
        )
    return tuple(timings)
