"""An Android device, on which LiteRT's benchmark_model does the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from mnv4_deploy.device.android.adb_shell import AdbShell
from mnv4_deploy.device.android.facts import parse_free_bytes, read_android_state, read_facts
from mnv4_deploy.device.android.replay import ReplaySession
from mnv4_deploy.device.android.tool import Tool, find_tool, no_tool
from mnv4_deploy.device.android.turns import turns
from mnv4_deploy.device.benchmark_model.ceilings import machine
from mnv4_deploy.device.benchmark_model.run import timed
from mnv4_deploy.errors import ModelFileError, OutputError, UnsupportedError
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.measure.parts import joined
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceState
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile

_TIMEOUT_S = 30.0
# The tool writes its results beside the model.
_SPARE_BYTES = 1 << 20


class AndroidDevice:
    """A :class:`~mnv4_deploy.device.device.Device` over adb; owns ``shell``."""

    def __init__(
        self, address: DeviceAddress, shell: AdbShell, tool: str, note: Callable[[str], None]
    ) -> None:
        self.address = address
        self._shell = shell
        self._note = note
        self._pushed: dict[tuple[Path, int, int], str] = {}
        self._tool = find_tool(shell, tool)
        self.facts = read_facts(shell, self._tool.path if self._tool else "")

    def state(self) -> DeviceState:
        return read_android_state(self._shell)

    def time(self, requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
        for request in requests:
            self._check(request)
        tool = self._tool_or_error()
        graphs = [self._copied(Path(request.path)) for request in requests]
        parts: list[list[TimedFile]] = [[] for _ in requests]
        for index, part in turns(requests):
            found = timed(
                self._shell, part, binary=tool.path, graph=graphs[index], options=tool.options
            )
            # Where nobody chose, the system may use all.
            parts[index].append(replace(found, cpus=found.cpus or self._cpus))
        return tuple(map(joined, parts))

    def machine(self, threads: int) -> Machine:
        tool = self._tool_or_error()
        return machine(self._shell, self.facts, threads, binary=tool.path, options=tool.options)

    def open(self, path: Path, tensors: Sequence[int] | None = None) -> ReplaySession:
        if tensors is not None:
            raise UnsupportedError(
                "An Android device gives the outputs of a model, not the tensors of its layers: "
                "compare layers on a device with Python (ssh)."
            )
        tool = self._tool_or_error()
        graph = self._copied(path)
        version = self.facts.runtimes.get("benchmark_model", "unknown")
        return ReplaySession(self._shell, tool, path, graph, f"benchmark_model {version}")

    def close(self) -> None:
        if not self._shell.close():
            self._note(
                f"{self.address.text} no longer answers: it removes {self._shell.folder} by "
                "itself within two minutes."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def _cpus(self) -> tuple[int, ...]:
        """Those that are online; none where the device does not tell."""
        done = self._shell.run(["cat", "/sys/devices/system/cpu/online"], _TIMEOUT_S)
        return parse_cpus(done.stdout)

    def _tool_or_error(self) -> Tool:
        if self._tool is None:
            raise no_tool()
        return self._tool

    def _check(self, request: MeasureRequest) -> None:
        """As :func:`mnv4_deploy.profiles.measure.checks.check_threads` does for this machine."""
        if request.cpus is not None and not request.cpus:
            raise UnsupportedError("No CPU is given to run on: name at least one.")
        missing = sorted(set(request.cpus or ()) - set(self._cpus)) if self._cpus else []
        if missing:
            raise UnsupportedError(
                f"CPU {missing[0]} is not available: the device has"
                f" {', '.join(map(str, self._cpus))}."
            )
        usable = len(set(request.cpus or self._cpus))
        if request.threads < 1:
            raise UnsupportedError(f"{request.threads} threads are too few: give at least 1.")
        if usable and request.threads > usable:
            raise UnsupportedError(
                f"{request.threads} threads are more than the {usable}"
                f" {'CPU' if usable == 1 else 'CPUs'} to run on: give at most {usable}."
            )

    def _copied(self, path: Path) -> str:
        """The path over there of a model, which gets a name that says nothing of its own."""
        if path.suffix.lower() == ".onnx":
            raise UnsupportedError(
                f"{path} is an .onnx file: Android devices run .tflite files, with LiteRT's "
                "benchmark_model."
            )
        try:
            with open_regular(path) as file:
                found = os.fstat(file.fileno())
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
        content = (path.absolute(), found.st_mtime_ns, found.st_size)
        if content not in self._pushed:
            self._check_room(path, found.st_size)
            remote = f"{self._shell.folder}/model-{len(self._pushed)}.tflite"
            self._shell.push(path, remote)
            self._pushed[content] = remote
        return self._pushed[content]

    def _check_room(self, path: Path, size: int) -> None:
        done = self._shell.run(["df", "-k", self._shell.folder], _TIMEOUT_S)
        free = parse_free_bytes(done.stdout)
        if free and size + _SPARE_BYTES > free:
            raise OutputError(
                f"{path} has {size / 1e6:.1f} MB, but the device only {free / 1e6:.1f} MB free: "
                "remove files there or give a smaller model."
            )


def parse_cpus(text: str) -> tuple[int, ...]:
    """Of a list as the kernel writes it: "0-3,6" (cpumask list format); none for anything else."""
    found: list[int] = []
    try:
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            found.extend(range(int(first), min(int(last or first), 4095) + 1))
    except ValueError:
        return ()
    return tuple(found)
