"""What benchmark_model prints about a run as a whole.

The lines are those of BenchmarkModel::Run and BenchmarkLoggingListener (LiteRT's
``tflite/tools/benchmark/benchmark_model.cc``) with Stat::OutputToStream (TensorFlow's
``xla/tsl/util/stats_calculator.h``); newer tools put "INFO: " before each.
"""

from __future__ import annotations

import math
import re

from mnv4_deploy.device.benchmark_model.records import RunLog, Stat, not_understood
from mnv4_deploy.errors import ToolchainError

_COUNT = re.compile(r"^(?:INFO: )?(?P<stat>count=.*)$", re.MULTILINE)
_PAIR = re.compile(r"(\w+)=([-+\w.]+)")
_SUMMARY = re.compile(
    r"^(?:INFO: )?Inference timings in us: Init: (?P<init>[\d.e+]+), .*"
    r"Inference \(avg\): (?P<avg>[\d.e+]+)",
    re.MULTILINE,
)
_MEMORY = re.compile(r"[Mm]emory footprint.*\(MB\): init=[\d.e+-]+ overall=(?P<mb>[\d.e+-]+)")
_NOT_DELEGATED = re.compile(r"Though \w+ delegate is explicitly applied, the model graph will not")
_WARMUP_AND_RUNS = 2


def parse_log(text: str) -> RunLog:
    """Times of the warm-up and of the runs; ToolchainError where they are missing or damaged."""
    summary = _SUMMARY.search(text)
    stats = [match["stat"] for match in _COUNT.finditer(text)][:_WARMUP_AND_RUNS]
    if summary is None or not stats:
        raise ToolchainError(
            "benchmark_model ended without giving times: use a published build of the tool."
        )
    inference = _stat(stats[-1])
    if inference is None:
        raise ToolchainError("benchmark_model ran the model not once: give it more time.")
    memory = _MEMORY.search(text)
    try:
        return RunLog(
            init_us=float(summary["init"]),
            warmup=_stat(stats[0]) if len(stats) == _WARMUP_AND_RUNS else None,
            inference=inference,
            memory_mb=float(memory["mb"]) if memory else None,
            not_delegated=bool(_NOT_DELEGATED.search(text)),
        )
    except ValueError:
        raise not_understood(summary[0]) from None


def _stat(line: str) -> Stat | None:
    """ "count=50 first=… curr=… min=… …"; only "curr" where all are the same; None for no run."""
    try:
        values = {name: float(text) for name, text in _PAIR.findall(line)}
        if values["count"] == 0:
            return None
        last = values["curr"]
        stat = Stat(
            count=int(values["count"]),
            first=values.get("first", last),
            last=last,
            min=values.get("min", last),
            max=values.get("max", last),
            avg=values.get("avg", last),
            std=values.get("std", 0.0),
            p5=values.get("p5"),
            median=values.get("median"),
            p95=values.get("p95"),
        )
    except (KeyError, ValueError, OverflowError):
        raise not_understood(line) from None
    if not (math.isfinite(stat.avg) and 0 <= stat.min <= stat.max):
        raise not_understood(line)
    return stat
