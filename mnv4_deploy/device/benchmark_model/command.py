"""Command lines of LiteRT's benchmark_model.

Options are those of ``tflite/tools/benchmark/README.md``; which of them a build has is read from
its own ``--help``, for builds of many years are in use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.errors import UnsupportedError

ProfileForm = Literal["proto", "csv", "text", ""]

# Flags::Usage in tflite/tools/command_line_flags.cc: tab, "--name=default", padding, tab, type.
_OPTION = re.compile(r"^\t--(\w+)=", re.MULTILINE)
# Events of one run that the tool's profiler keeps; it drops those that do not fit its 1024.
_PROFILED_EVENTS = 65536
_SEPARATORS = (",", ":")


@dataclass(frozen=True)
class Plan:
    """One invocation: ``runs`` runs of ``graph``, but no longer than ``max_seconds``.

    ``inputs`` are names and shapes of all inputs of the model, in its order; empty to leave them
    as they are in the file.
    """

    binary: str
    graph: str
    threads: int
    warmup: int
    runs: int
    max_seconds: float
    cpus: tuple[int, ...] | None = None
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()


def parse_help(text: str) -> frozenset[str]:
    """The names of the options in what ``--help`` prints."""
    return frozenset(_OPTION.findall(text))


def profile_form(options: frozenset[str]) -> ProfileForm:
    """The form that tells most of those that the build has; "" where it has no profiler."""
    if "enable_op_profiling" not in options:
        return ""
    if "op_profiling_output_mode" in options:
        return "proto"
    return "csv" if "profiling_output_csv_file" in options else "text"


def plain_command(plan: Plan, options: frozenset[str]) -> list[str]:
    """Without profiler. Raises UnsupportedError for what the build cannot do."""
    if "use_xnnpack" not in options:
        raise UnsupportedError(
            f"{plan.binary} is built without XNNPACK: give one of the published builds of"
            " benchmark_model."
        )
    wanted = {
        "graph": plan.graph,
        "num_threads": plan.threads,
        "use_xnnpack": "true",
        "warmup_runs": plan.warmup,
        "num_runs": plan.runs,
        # Zero, because otherwise the tool goes on for half a second and a second.
        "warmup_min_secs": 0,
        "min_secs": 0,
        "max_secs": f"{plan.max_seconds:g}",
    }
    flags = [f"--{name}={value}" for name, value in wanted.items() if name in options]
    pinned = ["taskset", cpu_mask(plan.cpus)] if plan.cpus else []
    return [*pinned, plan.binary, *flags, *_input_flags(plan.inputs)]


def profiled_command(plan: Plan, options: frozenset[str], output: str) -> list[str]:
    """With profiler; the profile goes to the file ``output``, but for the form "text"."""
    form = profile_form(options)
    flags = ["--enable_op_profiling=true"]
    if "max_profiling_buffer_entries" in options:
        flags.append(f"--max_profiling_buffer_entries={_PROFILED_EVENTS}")
    if form == "proto":
        flags += ["--op_profiling_output_mode=proto", f"--op_profiling_output_file={output}"]
    elif form == "csv":
        flags.append(f"--profiling_output_csv_file={output}")
    return [*plain_command(plan, options), *flags]


def cpu_mask(cpus: Sequence[int]) -> str:
    """The CPUs as Android's taskset takes them: a hexadecimal mask without prefix."""
    return f"{sum(1 << cpu for cpu in set(cpus)):x}"


def _input_flags(inputs: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    if not inputs:
        return []
    for name, _ in inputs:
        if any(separator in name for separator in _SEPARATORS):
            raise UnsupportedError(
                f"benchmark_model cannot be told the shape of the input {name!r}, for its name"
                " has a comma or a colon: give a model with fixed shapes."
            )
    shapes = ":".join(",".join(map(str, shape)) for _, shape in inputs)
    names = ",".join(name for name, _ in inputs)
    return [f"--input_layer={names}", f"--input_layer_shape={shapes}"]
