"""Devices in this process, which run files as real ones do and may be given a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner

Opener = Callable[[Path, Sequence[int] | None], Any]
# (tensor, values) -> values: what the device gives instead. The tensor is -1 for an output of a
# plain run.
Fault = Callable[[int, NDArray[Any]], NDArray[Any]]


def run_here(path: Path, tensors: Sequence[int] | None) -> TensorRunner:
    return TensorRunner(str(path), tensors)


class FakeDevice:
    def __init__(
        self, name: str, opener: Opener = run_here, architecture: str = "aarch64"
    ) -> None:
        self.address = DeviceAddress("ssh", name, f"ssh://{name}")
        self.facts = DeviceFacts(
            title=name,
            system="Linux",
            architecture=architecture,
            cpu="a processor",
            runtimes={},
            fingerprint=name,
        )
        self._opener = opener
        self.opened: list[tuple[Path, tuple[int, ...] | None]] = []
        self.closed = 0

    def open(self, path: Path, tensors: Sequence[int] | None = None) -> Any:
        self.opened.append((path, None if tensors is None else tuple(tensors)))
        return self._opener(path, tensors)

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Faulty:
    """A session whose tensors go through ``fault`` on the way.

    A file that takes more than its own input is one in which layers read given values: its
    outputs are tensors of the network, known by their names.
    """

    def __init__(self, path: Path, tensors: Sequence[int] | None, fault: Fault) -> None:
        self._own = run_here(path, tensors)
        self.runtime, self.inputs = self._own.runtime, self._own.inputs
        self._fault = fault
        self._names = tensors
        if tensors is None and any(fact.name.endswith(";given") for fact in self.inputs):
            self._names = read_tflite(path).outputs

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        results = self._own.run(inputs)
        names = self._names or [-1] * len(results)
        return tuple(self._fault(name, value) for name, value in zip(names, results, strict=True))

    def close(self) -> None:
        self._own.close()


def faulty(fault: Fault) -> Opener:
    return lambda path, tensors: Faulty(path, tensors, fault)
