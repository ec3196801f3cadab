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
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.inputs import ONE_THREAD, GivenInputs, RunSettings
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.errors import memory_for
from mnv4_deploy.profiles.runtimes.litert.capi import CompiledModel, ProfilerEvent
from mnv4_deploy.profiles.runtimes.litert.library import litert_version
from mnv4_deploy.profiles.runtimes.litert.xnnpack_events import (
    correction_notes,
    correction_of,
    merge,
    operator_events,
)
from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values
from mnv4_deploy.profiles.runtimes.timing import time_run_us

Inputs = Sequence[NDArray[Any]]

_ITEM_BYTES = {"float32": 4, "int32": 4, "float16": 2, "int16": 2, "int64": 8, "float64": 8}


def runtime_name() -> str:
    return f"ai-edge-litert {litert_version()}"


class XnnpackRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of a .tflite file.

    Operator times are resolved to 1 us and corrected by the runs without profiler
    (``xnnpack_events.py``). The profiler costs a fixed time a run, outside the operators.

    Raises ModelFileError for a file LiteRT does not accept, UnsupportedError for inputs that
    cannot be fed or a shape that does not fit, MemoryError for a file that needs more memory
    than there is, ToolchainError for an untried or failing runtime.
    """

    def __init__(self, path: str | Path, settings: RunSettings = ONE_THREAD) -> None:
        self._path = Path(path)
        self._settings = settings
        graph = read_tflite(self._path, settings.signature)
        self._subgraph = graph.subgraph
        self._signature = signature_number(graph, settings.signature) or 0
        self._enclosing = frozenset(op.index for op in graph.ops if op.calls)
        ranks = {graph.tensors[i].name: len(graph.tensors[i].shape) for i in graph.inputs}
        self._shapes = _input_shapes(graph, shapes_with(settings.shapes, settings.given, ranks))
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
                self._path,
                threads=self._settings.threads,
                profiling=profiling,
                signature=self._signature,
                shapes=self._shapes,
            )
        except (ModelFileError, ToolchainError) as error:
            # LiteRT calls a lack of memory a runtime failure, like most others.
            if memory_for(self._least_bytes):
                raise
            raise MemoryError(f"{self._path}: {error}") from error
        try:
            feed(model, given=self._settings.given)
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
            self._recorded.append(operator_events(events, self._subgraph))
        return wall_us

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:
        found = merge(self._recorded, self._path, plain_us, self._enclosing)
        correction = correction_of(self._recorded, plain_us, self._enclosing)
        self.notes = correction_notes(self._recorded, correction, plain_us)
        return found

    def close(self) -> None:
        self._plain.close()
        if self._profiled is not None:
            self._profiled.close()


def signature_number(graph: ModelGraph, signature: str) -> int | None:
    """The number by which LiteRT knows ``signature`` of a file, "" for one of ``graph``.

    A file without signatures has number 0 for its first graph; None where there is none.
    """
    for number, known in enumerate(graph.signatures):
        if known.name == signature or (not signature and known.subgraph == graph.subgraph):
            return number
    return None if graph.signatures else 0


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
