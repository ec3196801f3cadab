"""A device in this process: the runner that an agent runs, without a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner

FACTS = DeviceFacts(
    title="Board <b>5</b>",
    system="Debian 12",
    architecture="aarch64",
    cpu="Cortex-A76",
    runtimes={"ai-edge-litert": "2.1.6", "onnxruntime": "1.27.0"},
    fingerprint="cortex-a76 one",
)
Array = np.ndarray[Any, Any]


@dataclass
class FakeDevice:
    """``runs_left`` inferences until the connection is lost, ``crashes_at`` the one (counted
    from 0) at which the runtime crashes; ``changed`` is what the processor makes of an output of
    the file of that name; ``before`` is called before every inference, ``runtime`` is another
    than the one at work."""

    facts: DeviceFacts = FACTS
    runs_left: int = 1 << 30
    crashes_at: int = -1
    changed: Callable[[str, Array], Array] = lambda _, output: output
    before: Callable[[], None] = lambda: None
    runtime: str = ""
    address: DeviceAddress = field(
        default_factory=lambda: DeviceAddress("ssh", "board", "ssh://board")
    )
    runs: int = 0
    opened: list[str] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)
    closed: bool = False

    def open(self, path: Path, tensors: Sequence[int] | None = None) -> FakeSession:
        self._check()
        self.opened.append(path.name)
        self.sessions.append(FakeSession(self, path, tensors))
        return self.sessions[-1]

    def _check(self) -> None:
        if self.closed or self.runs_left <= 0:
            raise ToolchainError("ssh://board was lost: look after the network.")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeSession:
    def __init__(self, device: FakeDevice, path: Path, tensors: Sequence[int] | None) -> None:
        self._device, self._name = device, path.name
        self._runner = TensorRunner(str(path), tensors)
        self.runtime, self.inputs = device.runtime or self._runner.runtime, self._runner.inputs
        self.closed = False

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        device = self._device
        device._check()
        device.before()
        number, device.runs, device.runs_left = device.runs, device.runs + 1, device.runs_left - 1
        if number == device.crashes_at:
            raise ModelFileError(f"{self._name} made its runtime crash (SIGSEGV).")
        return tuple(device.changed(self._name, output) for output in self._runner.run(inputs))

    def close(self) -> None:
        self.closed = True
