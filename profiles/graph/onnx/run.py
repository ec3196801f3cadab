"""One run of an .onnx file that tells the shape and element type of every tensor in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.ort.profile_file import read_profile
from mnv4_deploy.profiles.runtimes.ort.session import numpy_name, open_session, runtime_name

_NAME_PREFIX = "mnv4-deploy node "
_KERNEL_SUFFIX = "_kernel_time"

Typed = tuple[tuple[int, ...], str]  # shape and element type


@dataclass(frozen=True)
class NodeRuns:
    """How often a node ran, and its inputs and outputs in the run with the smallest ones.

    ``varies``: they were not the same in all its runs.
    """

    inputs: tuple[Typed, ...]
    outputs: tuple[Typed, ...]
    runs: int = 1
    varies: bool = False

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape, _ in (*self.inputs, *self.outputs))


def run_once(
    path: Path,
    model: Any,
    nodes: Sequence[Any],
    feed: Callable[[Any], Mapping[str, Any]],
    constants: Container[str],
) -> tuple[dict[str, Typed], dict[int, NodeRuns]]:
    """Every tensor of the main graph but the ``constants``, and which of ``nodes`` ran how.

    ``model`` is the ``onnx.ModelProto`` of ``path``, external weights not loaded; its ``nodes``,
    those of the main graph first, are renamed. ``feed`` gives the inputs of a session, by name.
    Values that are no tensors are left out. Raises as
    :func:`mnv4_deploy.profiles.graph.onnx.read.read_onnx`.
    """
    main = model.graph.node
    for index, node in enumerate(nodes):
        node.name = f"{_NAME_PREFIX}{index}"
    seen, found = _run(path, model, feed)
    for index, node in enumerate(main):
        if index in seen:
            for name, typed in observed(node, seen[index], lambda name: name in constants):
                found.setdefault(name, typed)
    # onnxruntime replaces some nodes by the operators they are defined by.
    unseen = [n for node in main for n in node.output if n and n not in found]
    unseen = [name for name in unseen if name not in constants]
    if unseen:
        outputs = len(model.graph.output)
        for name in unseen:
            model.graph.output.add(name=name)
        # Not every value can be an output, nor all of them at once.
        with suppress(ModelFileError, MemoryError):
            found = _run(path, model, feed)[1] | found
        del model.graph.output[outputs:]
    return found, seen


def observed(
    node: Any, seen: NodeRuns, is_constant: Callable[[str], bool]
) -> Iterator[tuple[str, Typed]]:
    """The tensors of ``node`` by name. The profile leaves out absent inputs and outputs, constants
    that were repacked, and values that are no tensors: with one of those its list cannot be
    matched."""
    for names, typed in ((node.output, seen.outputs), (node.input, seen.inputs)):
        present = [name for name in names if name]
        if len(present) > len(typed):
            present = [name for name in present if not is_constant(name)]
        if len(present) == len(typed):
            yield from zip(present, typed, strict=True)


def _run(
    path: Path, model: Any, feed: Callable[[Any], Mapping[str, Any]]
) -> tuple[dict[int, NodeRuns], dict[str, Typed]]:
    """The nodes that ran by number, and the model's own inputs and outputs by name."""
    with scratch_folder() as folder:
        with translated(runtime_name(), "run", path):
            session = open_session(
                model.SerializeToString(),
                threads=0,
                optimize=False,
                profile_prefix=folder / "ort",
                weights_folder=path.absolute().parent,
            )
            feeds = feed(session)
            outputs = session.run(None, feeds)
            profile = Path(session.end_profiling())
        events = read_profile(profile)
    names = [spec.name for spec in session.get_outputs()]
    arrays = {**feeds, **dict(zip(names, outputs, strict=True))}
    seen: dict[int, NodeRuns] = {}
    for index, run in _node_events(events):
        seen[index] = _together(seen[index], run) if index in seen else run
    return seen, {
        name: (tuple(array.shape), str(array.dtype))
        for name, array in arrays.items()
        if hasattr(array, "dtype")
    }


def _together(one: NodeRuns, other: NodeRuns) -> NodeRuns:
    smallest = min(one, other, key=lambda run: run.elements)
    same = (one.inputs, one.outputs) == (other.inputs, other.outputs)
    return replace(smallest, runs=one.runs + other.runs, varies=one.varies or not same)


def _node_events(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, NodeRuns]]:
    for event in events:
        name = str(event["name"])
        index = name.removeprefix(_NAME_PREFIX).removesuffix(_KERNEL_SUFFIX)
        # Nodes that onnxruntime adds carry a suffix to the name of the one they come from.
        if index.isdecimal() and name == f"{_NAME_PREFIX}{index}{_KERNEL_SUFFIX}":
            args = event["args"]
            inputs, outputs = args["input_type_shape"], args["output_type_shape"]
            yield int(index), NodeRuns(_typed(inputs), _typed(outputs))


def _typed(listed: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Typed, ...]:
    return tuple(
        (tuple(shape), numpy_name(dtype)) for entry in listed for dtype, shape in entry.items()
    )
