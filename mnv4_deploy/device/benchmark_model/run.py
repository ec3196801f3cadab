"""Runs benchmark_model on a device and reads what it says."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from mnv4_deploy.device.android.shell import AndroidShell, Completed
from mnv4_deploy.device.benchmark_model.command import (
    Plan,
    ProfileForm,
    parse_help,
    plain_command,
    profile_form,
    profiled_command,
)
from mnv4_deploy.device.benchmark_model.csv_profile import parse_csv
from mnv4_deploy.device.benchmark_model.failures import failure
from mnv4_deploy.device.benchmark_model.proto_profile import parse_proto
from mnv4_deploy.device.benchmark_model.records import OpTable, RunLog
from mnv4_deploy.device.benchmark_model.run_log import parse_log
from mnv4_deploy.device.benchmark_model.text_profile import parse_text
from mnv4_deploy.device.benchmark_model.to_timed import Profiled, to_timed
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile

_ROUNDS = 3
_PROFILE = "profile"
# Loading, warming up and one long run come on top of the time limit.
_STARTUP_S = 60.0
_TIMEOUT_PER_SECOND = 6.0
_HELP_TIMEOUT_S = 30.0


def read_options(shell: AndroidShell, binary: str) -> frozenset[str]:
    """The options that this build of benchmark_model has.

    Raises UnsupportedError for a build for another processor, ToolchainError for what does not
    start or is another program.
    """
    # It ends with code 1 after printing its options, as for a flag that it does not know.
    completed = shell.run([binary, "--help"], _HELP_TIMEOUT_S)
    options = parse_help(completed.stdout + "\n" + completed.stderr)
    if "graph" in options:
        return options
    raise failure(completed, binary, binary) or ToolchainError(
        f"{binary} is not LiteRT's benchmark_model: give a published build of it."
    )


def timed(
    shell: AndroidShell,
    request: MeasureRequest,
    *,
    binary: str,
    graph: str,
    options: frozenset[str],
) -> TimedFile:
    """Time the .tflite file ``request.path``, which is ``graph`` on the device.

    Several invocations without and with profiler, in turns: each has its part of the runs and of
    the time, and gives one sample. ``options`` are those of :func:`read_options`.

    Raises ModelFileError for a file that the tool cannot load or run, UnsupportedError for what
    it cannot be asked, OutputError for a full device, ToolchainError where the tool fails or the
    device is lost.
    """
    _check(request)
    rounds = min(_ROUNDS, request.runs)
    form = profile_form(options)
    plan = Plan(
        binary=binary,
        graph=graph,
        threads=request.threads,
        warmup=max(1, request.warmup),
        runs=-(-request.runs // rounds),
        max_seconds=request.max_seconds / (rounds * (2 if form else 1)),
        cpus=request.cpus,
        inputs=_inputs(request),
    )
    plain: list[RunLog] = []
    profiled: list[Profiled] = []
    for _ in range(rounds):
        plain.append(run_plain(shell, plan, options, request))
        if form:
            profiled.append(run_profiled(shell, plan, options, request))
    return to_timed(request, plain, profiled)


def run_plain(
    shell: AndroidShell, plan: Plan, options: frozenset[str], request: MeasureRequest
) -> RunLog:
    """One invocation without profiler; raises as :func:`timed`."""
    return parse_log(_run(shell, plain_command(plan, options), plan, request).stdout)


def run_profiled(
    shell: AndroidShell, plan: Plan, options: frozenset[str], request: MeasureRequest
) -> Profiled:
    """One invocation with profiler; raises as :func:`timed`."""
    output = posixpath.join(shell.folder, _PROFILE)
    command = profiled_command(plan, options, output)
    completed = _run(shell, command, plan, request)
    table = _read_profile(shell, profile_form(options), completed, output)
    return Profiled(parse_log(completed.stdout), table)


def _run(
    shell: AndroidShell, command: Sequence[str], plan: Plan, request: MeasureRequest
) -> Completed:
    completed = shell.run(command, _STARTUP_S + _TIMEOUT_PER_SECOND * plan.max_seconds)
    if error := failure(completed, request.path, plan.binary):
        raise error
    return completed


def _read_profile(
    shell: AndroidShell, form: ProfileForm, completed: Completed, output: str
) -> OpTable:
    if form == "text":
        return parse_text(completed.stdout)
    data = shell.pull(output)
    return parse_proto(data) if form == "proto" else parse_csv(data.decode("utf-8", "replace"))


def _check(request: MeasureRequest) -> None:
    if request.inputs:
        raise UnsupportedError(
            "LiteRT's benchmark_model takes no values of inputs: leave out --input, or give a"
            " device over ssh."
        )
    if request.threads < 1 or request.runs < 1:
        raise UnsupportedError("Threads and runs must be at least 1.")
    if request.cpus is not None:
        if not request.cpus:
            raise UnsupportedError("No CPU is given to run on: name at least one.")
        if request.threads > len(set(request.cpus)):
            raise UnsupportedError(
                f"{request.threads} threads are more than the CPUs to run on: give at most"
                f" {len(set(request.cpus))}."
            )


def _inputs(request: MeasureRequest) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """All inputs with their shapes where the file leaves one open, else nothing."""
    graph = read_tflite(Path(request.path))
    tensors = [graph.tensors[i] for i in graph.inputs]
    check_names(request.shapes, [tensor.name for tensor in tensors])
    only = len(tensors) == 1
    shapes = [resolve_shape(t.name, t.declared, request.shapes, only=only) for t in tensors]
    if all(t.declared == shape for t, shape in zip(tensors, shapes, strict=True)):
        return ()
    return tuple((t.name, shape) for t, shape in zip(tensors, shapes, strict=True))
