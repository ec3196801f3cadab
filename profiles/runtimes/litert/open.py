"""The runner for a .tflite file: LiteRT's profiler where it takes the file, else the interpreter.

Only LiteRT's compiled models can be profiled, and they take fewer files than its interpreter.
"""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.graph.tflite.dynamic import sizes_come_from_data
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.inputs import ONE_THREAD, RunSettings
from mnv4_deploy.profiles.runtimes.litert.run_interpreter import InterpreterRunner
from mnv4_deploy.profiles.runtimes.litert.run_xnnpack import XnnpackRunner, signature_number

_WITHOUT_NUMBERS = ("string", "resource", "variant")
_GREW = "sizes of outputs are known only after a run"


def open_litert(
    path: str | Path, settings: RunSettings = ONE_THREAD
) -> XnnpackRunner | InterpreterRunner:
    """A runner for ``path`` that times operators if any can.

    Raises ModelFileError for a file that neither takes, UnsupportedError for inputs that cannot
    be made up, and for a shape or signature that does not fit, MemoryError for a file that needs
    more memory than there is, ToolchainError where the runtime is missing or untried.
    """
    graph = read_tflite(Path(path), settings.signature)
    _check_inputs(path, graph)
    reason = _why_not_profiled(graph, settings.signature)
    if not reason and sizes_come_from_data(graph):
        reason = _after_a_run(path, settings, graph.subgraph)
    if not reason:
        try:
            return XnnpackRunner(path, settings)
        except (ModelFileError, UnsupportedError) as error:
            said = str(error)
            reason = said.partition(f"{path} (")[2].rpartition("): ")[0] or said.rstrip(".")
    return open_end_to_end(path, settings, reason=reason)


def open_end_to_end(
    path: str | Path, settings: RunSettings = ONE_THREAD, *, reason: str = ""
) -> InterpreterRunner:
    """A runner for ``path`` on the interpreter; ``reason`` is why LiteRT's profiler is not used.

    Raises as :func:`open_litert` does.
    """
    graph = read_tflite(Path(path), settings.signature)
    _check_inputs(path, graph)
    return InterpreterRunner(
        path,
        settings,
        subgraph=graph.subgraph,
        why=f"LiteRT's profiler cannot take this file ({reason}), so the interpreter ran it: times"
        " are end to end.",
    )


def _after_a_run(path: str | Path, settings: RunSettings, subgraph: int) -> str:
    """Why ``path`` cannot be profiled, where a run shows it: a compiled model makes room for its
    outputs before it runs, and crashes where that was too little."""
    try:
        runner = InterpreterRunner(path, settings, subgraph=subgraph)
    except ModelFileError:  # the compiled model may know other operators
        return ""
    runner.close()
    return _GREW if runner.grew else ""


def _why_not_profiled(graph: ModelGraph, signature: str) -> str:
    """What a compiled model refuses, or crashes on, although the interpreter runs it."""
    if any(tensor.variable for tensor in graph.tensors):
        return "it has tensors that keep their values from run to run"
    if signature_number(graph, signature) is None:
        return "no signature leads to its first graph"
    if not graph.signatures and any(
        _share_a_name(graph, s) for s in (graph.inputs, graph.outputs)
    ):
        return "two inputs or outputs have one name"
    texts = [graph.tensors[i] for i in graph.outputs if graph.tensors[i].dtype in _WITHOUT_NUMBERS]
    if texts:
        return f"an output holds {texts[0].dtype}"
    return ""


def _share_a_name(graph: ModelGraph, side: tuple[int, ...]) -> bool:
    tensors = set(side)
    return len({graph.tensors[i].name for i in tensors}) < len(tensors)


def _check_inputs(path: str | Path, graph: ModelGraph) -> None:
    for tensor in (graph.tensors[i] for i in graph.inputs):
        if tensor.dtype in _WITHOUT_NUMBERS:
            raise UnsupportedError(
                f"{path} has an input of type {tensor.dtype} ({tensor.name}), which cannot be made"
                " up: give a model with numeric inputs."
            )
