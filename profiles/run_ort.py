"""Per-node and end-to-end times of .onnx files on onnxruntime, and the graph it really runs."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.timing import example_input, round_robin, time_run_us
from mnv4_deploy.records import OpProfile, OpTiming, WallTimes

Inputs = Mapping[str, NDArray[Any]]

_ELEMENT_TYPES = {"float": "float32", "double": "float64"}
_LOG_FATAL = 4
_KERNEL_SUFFIX = "_kernel_time"


def import_onnxruntime() -> Any:
    """The onnxruntime module; ToolchainError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolchainError(
            "Running an .onnx file needs onnxruntime: run pip install 'mnv4-deploy[onnx]'."
        ) from error
    return onnxruntime


def runtime_name() -> str:
    return f"onnxruntime {import_onnxruntime().__version__}"


def open_session(
    path: str | Path,
    *,
    threads: int = 1,
    profile_prefix: Path | None = None,
    optimized_path: Path | None = None,
    traceable: bool = False,
) -> Any:
    """A CPU session with all graph optimisations, as an application gets it by default.

    ``traceable`` leaves out the changes that rename tensors without deciding what is fused:
    memory layout, and int8 to uint8 on processors that multiply uint8 faster.
    Raises ModelFileError where onnxruntime does not accept the file.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    if traceable:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        first_line = str(error).strip().partition("\n")[0]
        raise ModelFileError(
            f"onnxruntime {ort.__version__} cannot load {path}: {first_line}"
        ) from error


def example_inputs(session: Any) -> dict[str, NDArray[Any]]:
    """Example inputs; dynamic dimensions become 1."""
    feeds = {}
    for spec in session.get_inputs():
        element = spec.type.removeprefix("tensor(").removesuffix(")")
        if element in (spec.type, "string"):
            raise ModelFileError(
                f"Input {spec.name} is a {spec.type}, which cannot be made up: give inputs."
            )
        shape = [n if isinstance(n, int) and n > 0 else 1 for n in spec.shape]
        feeds[spec.name] = example_input(shape, _ELEMENT_TYPES.get(element, element))
    return feeds


def profile_nodes(
    path: str | Path,
    *,
    threads: int = 1,
    warmup: int = 5,
    runs: int = 50,
    inputs: Inputs | None = None,
) -> OpProfile:
    """Run ``path`` and time each node of the optimised graph, in us.

    Tag is the operator type, ``name`` the node's name. Raises ModelFileError for a file
    onnxruntime does not accept, ToolchainError where its profile cannot be read.
    """
    plain = open_session(path, threads=threads)
    feeds = dict(inputs) if inputs is not None else example_inputs(plain)
    for _ in range(warmup):
        plain.run(None, feeds)
    wall_us = tuple(time_run_us(lambda: plain.run(None, feeds)) for _ in range(runs))
    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder:
        profiled = open_session(path, threads=threads, profile_prefix=Path(folder) / "ort")
        for _ in range(warmup):
            profiled.run(None, feeds)
        profiled_us = tuple(time_run_us(lambda: profiled.run(None, feeds)) for _ in range(runs))
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    return OpProfile(
        path=str(path),
        runtime=runtime_name(),
        threads=threads,
        ops=_node_timings(events, runs, path),
        wall_us=wall_us,
        profiled_wall_us=profiled_us,
    )


def _node_timings(
    events: Sequence[Mapping[str, Any]], runs: int, path: str | Path
) -> tuple[OpTiming, ...]:
    """The last ``runs`` kernel times of each node, in order of execution."""
    samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL_SUFFIX):
            key = (name.removesuffix(_KERNEL_SUFFIX), str(event["args"]["op_name"]))
            samples[key].append(float(event["dur"]))
    if not samples:
        raise ToolchainError(f"onnxruntime wrote no node times for {path}: try another version.")
    short = [name for (name, _), times in samples.items() if len(times) < runs]
    if short:
        raise ToolchainError(
            f"Node {short[0]} of {path} did not run every time (control flow), so its times cannot"
            " be averaged: profile a file without conditions."
        )
    return tuple(
        OpTiming(tag=kind, kind="onnxruntime", samples_us=tuple(times[-runs:]), name=name)
        for (name, kind), times in samples.items()
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
    given = inputs or {}
    calls = []
    for path in paths:
        session = open_session(path, threads=threads)
        feeds = dict(given[path]) if path in given else example_inputs(session)
        calls.append(lambda session=session, feeds=feeds: session.run(None, feeds))
    samples = round_robin(calls, rounds=rounds, burst=burst, warmup=warmup)
    return tuple(
        WallTimes(str(path), threads, per_round)
        for path, per_round in zip(paths, samples, strict=True)
    )


def optimized_graph(path: str | Path, *, traceable: bool = False) -> Any:
    """The ``onnx.ModelProto`` that onnxruntime really runs for ``path`` on this machine.

    ``traceable``: the same before its last steps, with the file's tensor names still in it.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder:
        target = Path(folder) / "optimized.onnx"
        open_session(path, optimized_path=target, traceable=traceable)
        return onnx.load(target)
