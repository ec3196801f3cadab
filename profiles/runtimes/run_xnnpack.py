"""Per-operator and end-to-end times of .tflite files on LiteRT with XNNPACK."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.graph.given_inputs import shapes_with
from mnv4_deploy.profiles.graph.read_tflite import read_tflite
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.records.timing import Backend, OpTiming
from mnv4_deploy.profiles.runtimes.errors import memory_for
from mnv4_deploy.profiles.runtimes.litert_capi import (
    EVENT_BUILTIN_OP,
    EVENT_RUNTIME,
    EVENT_XNNPACK_OP,
    CompiledModel,
    ProfilerEvent,
)
from mnv4_deploy.profiles.runtimes.litert_library import litert_version
from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values
from mnv4_deploy.profiles.runtimes.timing import time_run_us

Inputs = Sequence[NDArray[Any]]

_BACKENDS: dict[int, Backend] = {
    EVENT_XNNPACK_OP: "xnnpack",
    EVENT_BUILTIN_OP: "builtin",
    EVENT_RUNTIME: "runtime",
}
# The runtime's own event around all operators: it would count every one of them twice.
_ENCLOSING_TAG = "Invoke"
_ITEM_BYTES = {"float32": 4, "int32": 4, "float16": 2, "int16": 2, "int64": 8, "float64": 8}
# XNNPACK divides the nanoseconds between the ends of two operators by 1000 and drops the rest
# (xnn_get_elapsed_time in runtime.c): n us stand for anything from n to n + 1. Events of LiteRT
# are differences of two truncated clocks, which are right on average.
_XNNPACK_TRUNCATION_US = 0.5


def runtime_name() -> str:
    return f"ai-edge-litert {litert_version()}"


class XnnpackRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of a .tflite file.

    Operator times are resolved to 1 us; those of XNNPACK are given as the middle of the
    microsecond they lie in. The profiler costs a fixed time a run, outside the operators.

    Raises ModelFileError for a file LiteRT does not accept, UnsupportedError for inputs that
    cannot be fed or a shape that does not fit, MemoryError for a file that needs more memory
    than there is, ToolchainError for an untried or failing runtime.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        given: GivenInputs | None = None,
    ) -> None:
        self._path = Path(path)
        self._threads = threads
        self._given = given or {}
        graph = read_tflite(self._path)
        ranks = {graph.tensors[i].name: len(graph.tensors[i].shape) for i in graph.inputs}
        self._shapes = _input_shapes(graph, shapes_with(shapes or {}, self._given, ranks))
        self._least_bytes = _least_bytes(graph, self._shapes)
        self._profiled: CompiledModel | None = None
        self._recorded: list[tuple[ProfilerEvent, ...]] = []
        self.runtime = runtime_name()
        self.times_operators = True
        self._plain = self._open(profiling=False)
        self.measured = self._path
        self.notes: tuple[str, ...] = ()
        self.run = self._plain.run

    def _open(self, *, profiling: bool) -> CompiledModel:
        """A model that has run once, for not every operator fails before it runs."""
        try:
            model = CompiledModel(
                self._path, threads=self._threads, profiling=profiling, shapes=self._shapes
            )
        except (ModelFileError, ToolchainError) as error:
            # LiteRT calls a lack of memory a runtime failure, like most others.
            if memory_for(self._least_bytes):
                raise
            raise MemoryError(f"{self._path}: {error}") from error
        try:
            feed(model, given=self._given)
            model.run()
        except ToolchainError as error:
            model.close()
            raise ModelFileError(
                f"{self.runtime} cannot run {self._path}: it is damaged, or not for inputs that"
                " are made up."
            ) from error
        except BaseException:
            model.close()
            raise
        return model

    def run_profiled(self, *, record: bool) -> float:
        if self._profiled is None:
            self._profiled = self._open(profiling=True)
        self._profiled.start_profiler()
        with _no_file_opened():
            wall_us = time_run_us(self._profiled.run)
        events = self._profiled.stop_profiler()
        if record:
            self._recorded.append(operator_events(events))
        return wall_us

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:  # noqa: ARG002
        return merge(self._recorded, self._path)

    def close(self) -> None:
        self._plain.close()
        if self._profiled is not None:
            self._profiled.close()


def _input_shapes(
    graph: ModelGraph, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The resolved shape of every input, by tensor name."""
    inputs = [graph.tensors[i] for i in graph.inputs]
    check_names(shapes, [tensor.name for tensor in inputs])
    only = len(inputs) == 1
    return {t.name: resolve_shape(t.name, t.declared, shapes, only=only) for t in inputs}


def _least_bytes(graph: ModelGraph, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Memory that running ``graph`` takes at least: its inputs, and what its largest operator
    reads and writes."""

    def size(index: int) -> int:
        tensor = graph.tensors[index]
        shape = shapes.get(tensor.name, tensor.shape)
        item = int(_ITEM_BYTES.get(tensor.dtype, 1))
        return 0 if tensor.constant else math.prod(max(1, n) for n in shape) * item

    largest = max(
        (sum(map(size, {*op.inputs, *op.outputs} - {-1})) for op in graph.ops), default=0
    )
    return largest + sum(map(size, {*graph.inputs, *graph.outputs}))


@contextmanager
def _no_file_opened() -> Iterator[None]:
    """Keep this process from opening files.

    Around each of its own events LiteRT's profiler reads /proc/self/status for memory figures
    that nobody asked for: six times 20 to 40 us in every run, more than the profiler needs for
    all the rest. It does without where the file cannot be opened.
    """
    try:
        import resource
    except ImportError:  # not on Windows, where it reads no file either
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def feed(
    model: CompiledModel, inputs: Inputs | None = None, given: GivenInputs | None = None
) -> None:
    """Set every input of ``model``: the arrays in ``inputs``, or example inputs with the values
    in ``given``."""
    if inputs is None:
        specs = [InputSpec(spec.name, tuple(spec.shape), spec.dtype) for spec in model.inputs]
        inputs = input_values(specs, given or {})
    if len(inputs) != len(model.inputs):
        raise ValueError(f"the model has {len(model.inputs)} inputs, not {len(inputs)}")
    for index, array in enumerate(inputs):
        model.set_input(index, array)


def operator_events(events: Sequence[ProfilerEvent]) -> tuple[ProfilerEvent, ...]:
    """The events that are operators or separate runtime work, in order of execution."""
    return tuple(e for e in events if e.type in _BACKENDS and e.tag != _ENCLOSING_TAG)


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


def merge(recorded: Sequence[tuple[ProfilerEvent, ...]], path: str | Path) -> tuple[OpTiming, ...]:
    """The events of several runs of ``path``, which must be the same but for their times."""
    if not recorded:
        return ()
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
        backend = _BACKENDS[event.type]
        rest_us = _XNNPACK_TRUNCATION_US if backend == "xnnpack" else 0.0
        timings.append(
            OpTiming(
                tag=event.tag,
                backend=backend,
                samples_us=tuple(run[position].elapsed_us + rest_us for run in recorded),
                partition=partition,
                op_index=event.index if backend == "builtin" and event.subgraph == 0 else None,
            )
        )
    return tuple(timings)
