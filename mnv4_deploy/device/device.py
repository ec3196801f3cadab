"""What the commands need of a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts, DeviceState
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile

Array = NDArray[Any]


class TensorSession(Protocol):
    """A model file loaded on a device, for running tensors through it."""

    @property
    def runtime(self) -> str:
        """Name and version, such as "tflite-runtime 2.14.0"."""

    @property
    def inputs(self) -> tuple[TensorFacts, ...]:
        """In the order in which :meth:`run` takes them."""

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """The tensors asked for, raw (codes of quantized ones), of one inference.

        Raises ModelFileError where the runtime fails, ToolchainError where the device is lost.
        """

    def close(self) -> None:
        """Free the model; a second call does nothing."""


class Device(Protocol):
    """A device that answers, until closed. Nothing of a run stays on it after that.

    Every method raises ToolchainError where the connection is lost, UnsupportedError for what
    the device cannot do and OutputError where its disk is full.
    """

    address: DeviceAddress
    facts: DeviceFacts

    def state(self) -> DeviceState:
        """Clocks and heat now."""

    def time(self, requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
        """Time files of this machine over there, in turns.

        .onnx files must have distinct node names (profiles/graph/onnx/renamed.py).
        """

    def machine(self, threads: int) -> Machine:
        """The device's ceilings with ``threads`` threads, measured now."""

    def open(self, path: Path, tensors: Sequence[int] | None = None) -> TensorSession:
        """Load a file of this machine over there.

        ``tensors`` are those of a .tflite file's main graph that each run gives (None: its
        outputs); an .onnx file gives its outputs.
        """

    def close(self) -> None:
        """End everything on the device and remove its files; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
