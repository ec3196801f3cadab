"""One run of an .onnx file that tells the shape and element type of every tensor in it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.open_onnx import numpy_name, open_session, runtime_name
from mnv4_deploy.profiles.runtimes.ort_profile import read_profile
from mnv4_deploy.profiles.runtimes.run_ort import example_inputs

_NAME_PREFIX = "mnv4-deploy node "
_KERNEL_SUFFIX = "_kernel_time"

Typed = tuple[tuple[int, ...], str]  # shape and element type
_Event = tuple[list[Typed], list[Typed]]


def run_once(
    path: Path, model: Any, shapes: Shapes, constants: Container[str]
) -> dict[str, Typed]:
    """Shape and element type of every tensor of the main graph but the ``constants``.

    ``model`` is the ``onnx.ModelProto`` of ``path``, external weights not loaded; its main
    graph's nodes are renamed. Values that are no tensors are left out. Raises as
    :func:`mnv4_deploy.profiles.graph.read_onnx.read_onnx`.
    """
    nodes = list(model.graph.node)
    for index, node in enumerate(nodes):
        node.name = f"{_NAME_PREFIX}{index}"
    seen, found = _run(path, model, shapes)
    for index, node in enumerate(nodes):
        if index in seen:
            for name, typed in _observed(node, *seen[index]):
                found.setdefault(name, typed)
    # onnxruntime replaces some nodes by the operators they are defined by.
    unseen = [n for node in nodes for n in node.output if n and n not in found]
    unseen = [name for name in unseen if name not in constants]
    if unseen:
        outputs = len(model.graph.output)
        for name in unseen:
            model.graph.output.add(name=name)
        # Not every value can be an output, nor all of them at once.
        with suppress(ModelFileError, MemoryError):
            found = _run(path, model, shapes)[1] | found
        del model.graph.output[outputs:]
    return found


def _run(path: Path, model: Any, shapes: Shapes) -> tuple[dict[int, _Event], dict[str, Typed]]:
    """Inputs and outputs of each node that ran, and the model's own by name."""
    with scratch_folder() as folder:
        with translated(runtime_name(), "run", path):
            session = open_session(
                model.SerializeToString(),
                threads=0,
                optimize=False,
                profile_prefix=folder / "ort",
                weights_folder=path.absolute().parent,
            )
            feeds = example_inputs(session, shapes)
            outputs = session.run(None, feeds)
            profile = Path(session.end_profiling())
        events = read_profile(profile)
    names = [spec.name for spec in session.get_outputs()]
    arrays = feeds | dict(zip(names, outputs, strict=True))
    return dict(_node_events(events)), {
        name: (tuple(array.shape), str(array.dtype))
        for name, array in arrays.items()
        if hasattr(array, "dtype")
    }


def _node_events(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, _Event]]:
    for event in events:
        name = str(event["name"])
        index = name.removeprefix(_NAME_PREFIX).removesuffix(_KERNEL_SUFFIX)
        # Nodes that onnxruntime adds carry a suffix to the name of the one they come from.
        if index.isdecimal() and name == f"{_NAME_PREFIX}{index}{_KERNEL_SUFFIX}":
            args = event["args"]
            yield (
                int(index),
                (_typed(args["input_type_shape"]), _typed(args["output_type_shape"])),
            )


def _typed(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[Typed]:
    return [
        (tuple(shape), numpy_name(dtype)) for entry in listed for dtype, shape in entry.items()
    ]


def _observed(node: Any, inputs: list[Typed], outputs: list[Typed]) -> Iterator[tuple[str, Typed]]:
    """The tensors of ``node`` by name. The profile leaves out absent inputs and outputs, and
    values that are no tensors: with one of those its list cannot be matched."""
    for names, typed in ((node.output, outputs), (node.input, inputs)):
        present = [name for name in names if name]
        if len(present) == len(typed):
            yield from zip(present, typed, strict=True)
