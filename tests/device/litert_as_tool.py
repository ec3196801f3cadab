"""A device whose benchmark_model is LiteRT on this machine, printing as the tool does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mnv4_deploy.device.android.shell import Completed
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.runtimes.litert.capi import CompiledModel, ProfilerEvent
from mnv4_deploy.profiles.runtimes.litert.run_xnnpack import feed
from mnv4_deploy.profiles.runtimes.timing import time_run_us
from tests.device.tool_output import USAGE, log, proto, report, summarize
from tests.profiles.planted_tflite import record

BINARY = "/data/local/tmp/benchmark_model"


def output_names(path: Path) -> list[list[str]]:
    """By operator of the file."""
    graph = read_tflite(path)
    return [[graph.tensors[i].name for i in op.outputs] for op in graph.ops]


class LocalShell:
    """An AndroidShell over the folder ``home``; ``commands`` are those that were run.

    ``failing`` answers every run of the tool in its place; ``files`` are those of ``cat``.
    ``new``: lines as newer builds print them.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.new = True
        self.commands: list[list[str]] = []
        self.recorded: list[list[tuple[ProfilerEvent, ...]]] = []
        self.failing: Completed | None = None
        self.files: dict[str, str] = {}

    @property
    def folder(self) -> str:
        return str(self.home)

    def push(self, local: Path, remote: str) -> None:
        shutil.copyfile(local, remote)

    def pull(self, remote: str) -> bytes:
        return Path(remote).read_bytes()

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        if argv[0] == "cat":
            known = [self.files[name] for name in argv[1:] if name in self.files]
            return Completed(int(len(known) != len(argv) - 1), "".join(known), "")
        self.commands.append(list(argv))
        command = list(argv[2:] if argv[0] == "taskset" else argv)
        assert command[0] == BINARY
        assert timeout_s >= 30
        if self.failing is not None:
            return self.failing
        if command[1:] == ["--help"]:
            return Completed(1, "", USAGE)
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])
        return Completed(0, self._benchmark(flags), "")

    def _benchmark(self, flags: dict[str, str]) -> str:
        path, count = Path(flags["graph"]), int(flags["num_runs"])
        shapes = {}
        if "input_layer" in flags:
            texts = flags["input_layer_shape"].split(":")
            for name, text in zip(flags["input_layer"].split(","), texts, strict=True):
                shapes[name] = tuple(map(int, text.split(",")))
        with CompiledModel(path, threads=int(flags["num_threads"]), shapes=shapes) as model:
            feed(model)
            warm = [round(time_run_us(model.run)) for _ in range(int(flags["warmup_runs"]))]
            times = [round(time_run_us(model.run)) for _ in range(count)]
        text = log(warm, times, prefix="INFO: " if self.new else "", new=self.new)
        if flags.get("enable_op_profiling") != "true":
            return text
        self.recorded.append(record(path, count))
        details = summarize(self.recorded[-1], output_names(path))
        if flags.get("op_profiling_output_mode") == "proto":
            Path(flags["op_profiling_output_file"]).write_bytes(proto(details, count))
        elif "profiling_output_csv_file" in flags:
            file = Path(flags["profiling_output_csv_file"])
            file.write_text(report(details, count, csv=True), encoding="utf-8")
        else:
            text += report(details, count, csv=False)
        return text
