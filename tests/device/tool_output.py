"""What benchmark_model would print and write, made from events of LiteRT's own profiler.

Written from the tool's C++ sources, not from the parsers: StatsCalculator (TensorFlow's
``xla/tsl/util/stats_calculator.{h,cc}``), ProfileSummarizer and the formatters (LiteRT's
``tflite/profiling/``), BenchmarkModel (``tflite/tools/benchmark/benchmark_model.cc``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_XNNPACK_OP,
    ProfilerEvent,
)

USAGE = """ERROR: usage: benchmark_model <flags>
Flags:
\t--num_runs=50                  \tint32\toptional\texpected number of runs
\t--min_secs=1                   \tfloat\toptional\tminimum number of seconds to rerun for
\t--max_secs=150                 \tfloat\toptional\tmaximum number of seconds to rerun for
\t--num_threads=-1               \tint32\toptional\tnumber of threads
\t--warmup_runs=1                \tint32\toptional\tminimum number of runs performed
\t--warmup_min_secs=0.5          \tfloat\toptional\tminimum number of seconds to rerun for
\t--graph=                       \tstring\toptional\tgraph file name
\t--input_layer=                 \tstring\toptional\tinput layer names
\t--input_layer_shape=           \tstring\toptional\tinput layer shape
\t--enable_op_profiling=false    \tbool\toptional\tenable op profiling
\t--max_profiling_buffer_entries=1024\tint32\toptional\tmax initial profiling buffer entries
\t--profiling_output_csv_file=   \tstring\toptional\tFile path to export profile data as CSV
\t--op_profiling_output_mode=stdout\tstring\toptional\tOutput mode: 'stdout', 'csv' and 'proto'
\t--op_profiling_output_file=    \tstring\toptional\tOutput file for op profiling results.
\t--use_xnnpack=true             \tbool\toptional\texplicitly apply the XNNPACK delegate
"""


@dataclass
class Stat:
    """tsl::Stat<int64_t>."""

    values: list[int] = field(default_factory=list)

    @property
    def avg(self) -> float:
        return sum(self.values) / len(self.values)

    def line(self, percentiles: bool) -> str:
        if not self.values:
            return "count=0"
        text = f"count={len(self.values)}"
        if min(self.values) == max(self.values):
            text += f" curr={self.values[-1]}"
            text += "(all same)" if len(self.values) > 1 else ""
        else:
            variance = sum(v * v for v in self.values) / len(self.values) - self.avg**2
            text += f" first={self.values[0]} curr={self.values[-1]} min={min(self.values)}"
            text += f" max={max(self.values)} avg={_general(self.avg)}"
            text += f" std={int(math.sqrt(int(variance)))}"
        if percentiles:
            ranked = sorted(self.values)
            p5, p50, p95 = (ranked[len(ranked) * p // 100] for p in (5, 50, 95))
            text += f" p5={p5} median={p50} p95={p95}"
        return text


@dataclass
class Detail:
    name: str
    type: str
    run_order: int
    elapsed: Stat = field(default_factory=Stat)
    times_called: int = 0


def summarize(
    runs: Sequence[Sequence[ProfilerEvent]], outputs: Sequence[Sequence[str]]
) -> dict[str, Detail]:
    """ProfileSummarizer::ProcessProfiles of each run; ``outputs`` are names by operator."""
    details: dict[str, Detail] = {}
    for events in runs:
        for place, event in enumerate(events):
            if event.type == EVENT_XNNPACK_OP:
                kind, name = event.tag, f"Delegate/{event.tag}:{event.index}"
            elif event.type == EVENT_BUILTIN_OP:
                kind = event.tag
                name = f"[{', '.join(outputs[event.index])}]:{event.index}"
            else:
                kind, name = event.tag, f"{event.tag}/0"
            detail = details.setdefault(name, Detail(name, kind, place))
            detail.elapsed.values.append(event.elapsed_us)
            detail.times_called += 1
    return details


def in_printed_order(details: dict[str, Detail]) -> list[Detail]:
    """OrderNodesByMetric(BY_RUN_ORDER): the largest text first, of numbers set to the right."""
    keyed = [(f"{len(details) - d.run_order:>20}", d) for d in details.values()]
    return [d for _, d in sorted(keyed, key=lambda pair: pair[0], reverse=True)]


def report(details: dict[str, Detail], runs: int, *, csv: bool) -> str:
    """HandleOutput of the default and of the CSV formatter."""
    loading = {"AllocateTensors/0": Detail("AllocateTensors/0", "AllocateTensors", 0)}
    loading["AllocateTensors/0"].elapsed.values.append(102)
    loading["AllocateTensors/0"].times_called = 1
    return (
        "Profiling Info for Benchmark Initialization:\n"
        + _summary(loading, 1, csv=csv)
        + "\n\nOperator-wise Profiling Info for Regular Benchmark Runs:\n"
        + _summary(details, runs, csv=csv)
        + "\n\n"
    )


def _summary(details: dict[str, Detail], runs: int, *, csv: bool) -> str:
    by_time = sorted(details.values(), key=lambda d: d.elapsed.avg, reverse=True)
    total = sum(sum(d.elapsed.values) for d in details.values())
    text = _table("Run Order", in_printed_order(details), runs, total, csv=csv)
    text += _table("Top by Computation Time", by_time[:10], runs, total, csv=csv)
    text += f"Number of nodes executed: {len(details)}\n"
    text += "=" * 30 + " Summary by node type " + "=" * 30 + "\n"
    heading = "\t".join(["", "[Node type]", "[count]", "[avg ms]", "[avg %]"])
    text += "node type, count, avg_ms, avg %\n" if csv else heading + "\n"
    text += "\nTimings (microseconds): count=1 curr=1\nMemory (bytes): count=0\n"
    return text + f"{len(details)} nodes observed\n"


def _table(title: str, rows: Sequence[Detail], runs: int, total: int, *, csv: bool) -> str:
    line = "=" * 30
    text = f"{line} {title} {line}\n"
    widths = (40, 9, 9, 8, 8, 10, 9)
    if csv:
        text += "node type, first, avg_ms, %, cdf%, mem KB, times called, name\n"
    else:
        names = ("node type", "first", "avg ms", "%", "cdf%", "mem KB", "times called")
        text += "".join(f"\t{f'[{n}]':>{w}}" for n, w in zip(names, widths, strict=True))
        text += "\t[Name]\n"
    done = 0
    for d in rows:
        spent = sum(d.elapsed.values)
        done += spent
        first, avg = d.elapsed.values[0] / 1000, d.elapsed.avg / 1000
        share, cumulated = 100 * spent / total, 100 * done / total
        calls = d.times_called // runs
        if csv:
            numbers = ", ".join(map(_general, (first, avg)))
            percents = f"{_general(share)}%, {_general(cumulated)}%"
            name = d.name.replace(",", "\t")
            text += f"{d.type}, {numbers}, {percents}, 0, {calls}, {name}\n"
        else:
            text += f"\t{d.type:>40}\t{first:9.3f}\t{avg:9.3f}\t{share:7.3f}%\t{cumulated:7.3f}%"
            text += f"\t{0:10.3f}\t{calls:9d}\t{d.name}\n"
    return text + "\n"


def _general(value: float) -> str:
    """A double as C++ streams print it by default: six digits."""
    return f"{value:.6g}"


def log(warmup: Sequence[int], inference: Sequence[int], *, prefix: str, new: bool) -> str:
    """BenchmarkModel::Run and BenchmarkLoggingListener::OnBenchmarkEnd."""
    stats = [Stat(list(warmup)), Stat(list(inference))]
    lines = ["STARTING!", "Loaded model model.tflite", "Initialized session in 1.5ms."]
    for stat in stats:
        lines.append("Running benchmark for at least 1 iterations and at least 0 seconds but")
        lines += [f"{stat.line(percentiles=new)}\n"]
    lines.append(
        f"Inference timings in us: Init: 1500, First inference: {warmup[0]},"
        f" Warmup (avg): {_general(stats[0].avg)}, Inference (avg): {_general(stats[1].avg)}"
    )
    lines.append("Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
    return "".join(f"{prefix}{line}\n" for line in lines)


def proto(details: dict[str, Detail], runs: int) -> bytes:
    """BenchmarkProfilingData, by protobuf's own encoder."""
    messages = proto_messages()
    data = messages["BenchmarkProfilingData"]()
    data.model_name = "model"
    _fill(data.init_profile.subgraph_profiles.add(), summarize([], []), 1)
    loading = Detail("AllocateTensors/0", "AllocateTensors", 0, Stat([102]), 1)
    _fill(data.init_profile.subgraph_profiles.add(), {loading.name: loading}, 1)
    graph = data.runtime_profile.subgraph_profiles.add()
    graph.subgraph_name, graph.subgraph_index = "main", 0
    _fill(graph, details, runs)
    return data.SerializeToString()  # type: ignore[no-any-return]


def _fill(graph: Any, details: dict[str, Detail], runs: int) -> None:
    for d in in_printed_order(details):
        op = graph.per_op_profiles.add()
        op.node_type, op.name, op.run_order = d.type, d.name, d.run_order
        op.times_called = d.times_called // runs
        time = op.inference_microseconds
        time.first, time.last = d.elapsed.values[0], d.elapsed.values[-1]
        time.avg, time.sum = int(d.elapsed.avg), sum(d.elapsed.values)
        time.stddev, time.variance = 1.5, 2.25
        time.min, time.max = min(d.elapsed.values), max(d.elapsed.values)
        time.count = len(d.elapsed.values)
        op.mem_kb.first, op.mem_kb.count = -1, len(d.elapsed.values)


def proto_messages() -> dict[str, Any]:
    """The classes of LiteRT's tflite/profiling/proto/profiling_info.proto."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="profiling_info.proto", package="tflite.profiling", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields, start=1):
            many = kind.startswith("*")
            made = message.field.add(name=field_name, number=number)
            made.label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            if kind.strip("*") in _MESSAGES:
                made.type, made.type_name = (
                    kinds.TYPE_MESSAGE,
                    f".tflite.profiling.{kind.strip('*')}",
                )
            else:
                made.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tflite.profiling.{name}")
        )
        for name in _MESSAGES
    }


# Fields are numbered from 1 in this order.
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "BenchmarkProfilingData": (
        ("model_name", "string"),
        ("init_profile", "ModelProfilingData"),
        ("runtime_profile", "ModelProfilingData"),
    ),
    "ModelProfilingData": (
        ("subgraph_profiles", "*SubGraphProfilingData"),
        ("delegate_profiles", "*DelegateProfilingData"),
    ),
    "SubGraphProfilingData": (
        ("subgraph_name", "string"),
        ("subgraph_index", "int32"),
        ("per_op_profiles", "*OpProfileData"),
    ),
    "DelegateProfilingData": (
        ("delegate_name", "string"),
        ("per_op_profiles", "*OpProfileData"),
    ),
    "OpProfilingStat": (
        ("first", "int64"),
        ("last", "int64"),
        ("avg", "int64"),
        ("stddev", "float"),
        ("variance", "float"),
        ("min", "int64"),
        ("max", "int64"),
        ("sum", "int64"),
        ("count", "int64"),
    ),
    "OpProfileData": (
        ("node_type", "string"),
        ("inference_microseconds", "OpProfilingStat"),
        ("mem_kb", "OpProfilingStat"),
        ("times_called", "int64"),
        ("name", "string"),
        ("run_order", "int64"),
    ),
}
