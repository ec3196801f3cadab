"""Joins the times of a file, wherever it ran, with its graph: what the host does of a profile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.files.hashes import sha256_of
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import (
    Layer,
    Measurement,
    MeasureRequest,
    TimedFile,
)
from mnv4_deploy.profiles.records.timing import OpTiming

_ARM = ("aarch64", "arm")


def join_here(
    requests: Sequence[MeasureRequest],
    timed: Sequence[TimedFile],
    measured: Sequence[Path],
    architecture: str,
) -> tuple[Measurement, ...]:
    """:func:`join_timed` of each."""
    return tuple(
        join_timed(request, times, file, architecture)
        for request, times, file in zip(requests, timed, measured, strict=True)
    )


def join_timed(
    request: MeasureRequest, timed: TimedFile, measured: Path, architecture: str = ""
) -> Measurement:
    """``timed`` joined with the graph of ``request.path``, in this process.

    ``measured`` is the file that ran: the request's own, or its copy with a name of its own for
    every node (``graph.onnx.renamed.renamed_copy``). ``architecture`` is that
    of the processor that it ran on ("" for this one), for what onnxruntime makes of a file depends
    on it. Without times of operators there are no layers: which operators the runtime fused cannot
    be told from the file alone. Reads the graph by running the file, so a hostile one belongs in a
    child process.

    Raises ModelFileError for a file that cannot be read, UnsupportedError for shapes that do not
    fit, ToolchainError where a runtime or its packages are missing here, and for times that are
    not those of this file's operators.
    """
    file = Path(request.path)
    graph = read_graph_of(
        file, request.shapes, request.inputs, signature=request.signature, whole=True
    )
    _check(timed, graph, file)
    timings = timed.profile.ops
    if timed.profiled_rounds_us or graph.format == "onnx":
        refusals, notes = _refusals(graph, timings), timed.notes
    else:
        refusals, of_delegate = _asked(file, graph, timed.profile.runtime)
        notes = timed.notes + of_delegate
    return Measurement(
        path=request.path,
        format=format_of(file),
        runtime=timed.profile.runtime,
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
        threads=request.threads,
        cpus=timed.cpus,
        graph=graph,
        profile=replace(timed.profile, path=request.path),
        layers=_join(measured, graph, timings, architecture) if timed.profiled_rounds_us else (),
        rounds_us=timed.rounds_us,
        profiled_rounds_us=timed.profiled_rounds_us,
        cpu_rounds_us=timed.cpu_rounds_us,
        conditions=timed.conditions,
        refusals=refusals,
        notes=notes + _signature_notes(graph),
    )


def _check(timed: TimedFile, graph: ModelGraph, file: Path) -> None:
    """Raise ToolchainError for times that cannot be ``graph``'s: they may come from elsewhere."""
    plain_us = list(chain.from_iterable(timed.rounds_us))
    profiled_us = list(chain.from_iterable(timed.profiled_rounds_us))
    samples = [timing.samples_us for timing in timed.profile.ops]
    indices = [t.op_index for t in timed.profile.ops if t.op_index is not None]
    figures = chain(plain_us, profiled_us, *samples)
    if (
        not plain_us
        or any(not burst for burst in (*timed.rounds_us, *timed.profiled_rounds_us))
        or (samples and not profiled_us)
        or any(len(each) != len(profiled_us) for each in samples)
        or any(not 0 <= index < len(graph.ops) for index in indices)
        or any(not 0 <= us < math.inf for us in figures)
    ):
        raise ToolchainError(
            f"The times of {file} do not belong to its operators and runs: measure it again with"
            " the same version of mnv4-deploy on both sides."
        )


def _join(
    measured: Path, graph: ModelGraph, timings: Sequence[OpTiming], architecture: str
) -> tuple[Layer, ...]:
    if graph.format == "tflite":
        from mnv4_deploy.profiles.join.xnnpack import join_xnnpack

        return join_xnnpack(graph, timings)
    from mnv4_deploy.profiles.join.ort import join_ort
    from mnv4_deploy.profiles.join.ort_trace import trace_ort

    ran = {op.index for op in graph.ops if op.runs}
    trace = trace_ort(measured, ran=ran, arm=architecture.startswith(_ARM))
    return join_ort(graph, timings, trace)


def _asked(file: Path, graph: ModelGraph, runtime: str) -> tuple[dict[int, str], tuple[str, ...]]:
    """Why XNNPACK does not take operators whose times nobody told, and a sentence on how many.

    Asks the interpreter here, where the file ran on the same one.
    """
    from mnv4_deploy.profiles.runtimes.litert.delegation import ask_delegation
    from mnv4_deploy.profiles.runtimes.litert.interpreter import installed_runtime
    from mnv4_deploy.profiles.xnnpack.refusals import explain_refusals, grouped

    if installed_runtime().name != runtime:
        return {}, ()
    try:
        found = ask_delegation(file, graph, {i: graph.tensors[i].shape for i in graph.inputs})
    except ModelFileError:
        return {}, ()
    refusals = explain_refusals(graph, sorted(found.builtin))
    told = grouped((graph.ops[index].kind, reason) for index, reason in refusals.items())
    left = "; ".join(f"{count} {kind} ({reason})" for count, kind, reason in told)
    taken = len(graph.ops) - len(found.builtin)
    parts = f"{found.partitions} partition{'' if found.partitions == 1 else 's'}"
    note = f"XNNPACK takes {taken} of {len(graph.ops)} operators in {parts}"
    return refusals, (f"{note}; outside: {left}." if left else f"{note}.",)


def _signature_notes(graph: ModelGraph) -> tuple[str, ...]:
    if len(graph.signatures) < 2:
        return ()
    names = ", ".join(known.name for known in graph.signatures)
    this = next((s.name for s in graph.signatures if s.subgraph == graph.subgraph), "none of them")
    return (
        f"The file has the signatures {names}, and this is {this}: --signature NAME profiles"
        " another.",
    )


def _refusals(graph: ModelGraph, timings: Sequence[OpTiming]) -> dict[int, str]:
    """Why XNNPACK did not take the operators that ran in built-in kernels, by index."""
    builtin = [t.op_index for t in timings if t.backend == "builtin" and t.op_index is not None]
    if not builtin:
        return {}
    from mnv4_deploy.profiles.xnnpack.refusals import explain_refusals

    return explain_refusals(graph, builtin)
