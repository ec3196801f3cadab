"""The shapes that the tensors of a .tflite file have once its inputs have theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.graph.shapes import Shapes, check_names, resolve_shape
from mnv4_deploy.profiles.graph.tflite.dynamic import sizes_come_from_data
from mnv4_deploy.profiles.graph.tflite.primary import with_first
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.litert.interpreter import (
    allocate,
    installed_runtime,
    open_interpreter,
    set_examples,
)
from mnv4_deploy.profiles.runtimes.native_log import captured_stderr


def resized(path: Path, graph: ModelGraph, shapes: Shapes) -> ModelGraph:
    """``graph``, which was read from ``path``, with every dimension resolved.

    ``shapes`` as in :func:`resolve_shape`. Where an input gets another shape than the file
    allocates, those of the tensors behind it are the interpreter's; where sizes depend on values,
    those of a run on made-up inputs, or the file's where it cannot run. Raises ModelFileError for
    a file that cannot take the shapes or needs some, UnsupportedError for a shape that does not
    fit.
    """
    sources = [graph.tensors[i] for i in graph.inputs]
    check_names(shapes, [tensor.name for tensor in sources])
    only = len(sources) == 1
    wanted = {
        i: resolve_shape(tensor.name, tensor.declared, shapes, only=only)
        for i, tensor in zip(graph.inputs, sources, strict=True)
    }
    changed = {i: shape for i, shape in wanted.items() if shape != graph.tensors[i].shape}
    by_value = sizes_come_from_data(graph)
    if not changed and not by_value:
        return graph
    found = dict(wanted)
    if changed:
        found |= _propagated(path, graph, changed)
    if by_value:
        found |= _after_a_run(path, graph, changed)
    tensors = tuple(
        replace(tensor, shape=found.get(i, tensor.shape)) for i, tensor in enumerate(graph.tensors)
    )
    return replace(graph, tensors=tensors)


def _propagated(
    path: Path, graph: ModelGraph, changed: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """The shape of every tensor, by index, once the inputs ``changed`` have theirs."""
    named = ", ".join(
        f"{graph.tensors[i].name}={'x'.join(map(str, shape))}" for i, shape in changed.items()
    )
    with translated(installed_runtime().name, f"take {named} in", path):
        return _shapes(graph, _allocated(path, graph, changed))


def _after_a_run(
    path: Path, graph: ModelGraph, changed: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    try:
        with captured_stderr(), translated(installed_runtime().name, "run", path):
            interpreter = _allocated(path, graph, changed)
            set_examples(interpreter)
            interpreter.invoke()
            return _shapes(graph, interpreter)
    except (ModelFileError, UnsupportedError):
        return {}


def _allocated(path: Path, graph: ModelGraph, changed: Mapping[int, tuple[int, ...]]) -> Any:
    interpreter = open_interpreter(with_first(path, graph.subgraph), delegate=False)
    allocate(interpreter, changed)
    return interpreter


def _shapes(graph: ModelGraph, interpreter: Any) -> dict[int, tuple[int, ...]]:
    return {
        d["index"]: tuple(1 if n < 0 else int(n) for n in d["shape"])
        for d in interpreter.get_tensor_details()
        if d["index"] < len(graph.tensors) and not graph.tensors[d["index"]].constant
    }
