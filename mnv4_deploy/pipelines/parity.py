"""The stages of ``parity``: the file, the inputs, each device in turn, files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.parity.records import DeviceParity, ParityRequest, ParityResult
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.progress import Progress

if TYPE_CHECKING:
    from mnv4_deploy.profiles.records.files import FileFacts
    from mnv4_deploy.profiles.records.graph import ModelGraph


def parity(request: ParityRequest, progress: Progress) -> ParityResult:
    """Run the same tensors through a file here and on each device, and compare.

    With ``request.out`` the result is also written there. Raises InputError for a file, inputs
    or options that cannot be used, ToolchainError for a runtime that fails or a device that is
    lost; then nothing is written. Outputs that differ are no error: see ``ParityResult.failed``.
    """
    from mnv4_deploy.device.open import open_device
    from mnv4_deploy.parity.inputs import open_inputs
    from mnv4_deploy.parity.layered_file import LayeredFile
    from mnv4_deploy.parity.layers import computes_in_integers
    from mnv4_deploy.parity.run import compare_device
    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    _check(request)
    path = Path(request.path).absolute()
    with progress.stage("Look at the file"):
        facts = inspect_file(path)
    devices: list[DeviceParity] = []
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        with progress.stage("Prepare the inputs"):
            given, path = path, _accepted(path, facts, folder)
            inputs, graph = open_inputs(
                request, facts, lambda shapes: _graph(path, shapes, request)
            )
        for note in (*(() if path == given else facts.notes), *inputs.notes):
            progress.note(note)
        here = stack.enter_context(open_device("local"))
        file = LayeredFile(path, graph, facts, folder)
        runtime = ""
        for name in request.devices:
            with progress.stage(f"Compare with {name}"):
                with open_device(name, request.options, progress.note) as there:
                    explain = file.explainer(here.facts, there.facts)
                    found, runtime = compare_device(
                        here, there, path, facts, inputs, file.plan, explain, file.isolate
                    )
                devices.append(found)
        quantized = computes_in_integers(graph, facts)
        result = ParityResult(
            path=request.path,
            sha256=facts.sha256,
            runtime=runtime,
            here=here.facts,
            inputs=inputs.title,
            count=inputs.count,
            quantized=quantized,
            devices=tuple(devices),
            failed=any(_failed(device, request, quantized=quantized) for device in devices),
        )
    if request.out is not None:
        from mnv4_deploy.parity.write import write_outputs

        with progress.stage("Write the result"):
            write_outputs(result, request.out, overwrite=request.overwrite)
    return result


def _accepted(path: Path, facts: FileFacts, folder: Path) -> Path:
    """``path``, or a copy in which no two nodes have one name, which onnxruntime refuses."""
    if facts.format != "onnx":
        return path
    from mnv4_deploy.profiles.graph.onnx.renamed import copy_without_shared_names
    from mnv4_deploy.profiles.isolated import run_isolated

    return run_isolated(copy_without_shared_names, path, folder / "renamed", subject=str(path))


def _graph(
    path: Path, shapes: Mapping[str, tuple[int, ...]], request: ParityRequest
) -> ModelGraph:
    """In a child process: an .onnx file is run for it."""
    from mnv4_deploy.profiles.graph.read import read_graph_of
    from mnv4_deploy.profiles.isolated import run_isolated

    return run_isolated(read_graph_of, str(path), dict(shapes), request.inputs, subject=str(path))


def _check(request: ParityRequest) -> None:
    from mnv4_deploy.outputs import check_free
    from mnv4_deploy.parity.differences import VERDICTS

    if not request.devices:
        raise UnsupportedError("Parity compares this machine with a device: give --device.")
    if request.tolerance not in VERDICTS[:-1]:
        raise UnsupportedError(
            f"There is no tolerance {request.tolerance!r}: give {', '.join(VERDICTS[:-1])}."
        )
    if request.out is not None:
        from mnv4_deploy.parity.write import MANIFEST, NAMES

        check_free(request.out, overwrite=request.overwrite, names=NAMES, manifest=MANIFEST)


def _failed(device: DeviceParity, request: ParityRequest, *, quantized: bool) -> bool:
    from mnv4_deploy.parity.differences import within

    return not within(device.outputs.verdict, "exact" if quantized else request.tolerance)
