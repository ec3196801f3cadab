"""A device that runs our agent: a Linux machine over ssh, or this one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from mnv4_deploy.device.device import TensorSession
from mnv4_deploy.device.linux.connection import SILENCE_S, Connection
from mnv4_deploy.device.linux.files import SentFile, SentModel, model_files, pieces
from mnv4_deploy.device.linux.start import start_agent
from mnv4_deploy.errors import DeployError, ToolchainError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.machine.remote import pack_bytes
from mnv4_deploy.profiles.records.device import (
    DeviceAddress,
    DeviceFacts,
    DeviceOptions,
    DeviceState,
)
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile

T = TypeVar("T")
Array = NDArray[Any]
Note = Callable[[str], None]


def open_agent(
    address: DeviceAddress, options: DeviceOptions, note: Note, silence_s: float = SILENCE_S
) -> AgentDevice:
    """Start an agent and wait for its facts; raises as
    :func:`mnv4_deploy.device.open.open_device`. ``silence_s``: after how long without a word
    either side takes the other for gone."""
    if options.setup:
        connection, facts = start_agent(address, options, note, silence_s, private=False)
        with AgentDevice(address, facts, connection) as device:
            device.setup()
    private = options.setup or (address.scheme == "ssh" and not options.python)
    connection, facts = start_agent(address, options, note, silence_s, private=private)
    return AgentDevice(address, facts, connection)


class AgentDevice:
    """A :class:`mnv4_deploy.device.device.Device` over a connection to an agent."""

    def __init__(self, address: DeviceAddress, facts: DeviceFacts, connection: Connection) -> None:
        self.address = address
        self.facts = facts
        self._connection = connection
        self._sent: dict[str, str] = {}

    def state(self) -> DeviceState:
        return self._record(DeviceState, self._connection.request("state").body, "state")

    def time(self, requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
        sent = [self._send(Path(request.path)) for request in requests]
        moved = [replace(r, path=path) for r, path in zip(requests, sent, strict=True)]
        there = {path: r.path for r, path in zip(requests, sent, strict=True)}
        answer = self._ask("time", {"requests": to_plain(moved)}, there)
        timed = self._record(tuple[TimedFile, ...], answer, "files")
        if len(timed) != len(requests):
            raise ToolchainError(f"{self.address.text} sent times of other files.")
        return tuple(
            replace(
                file,
                profile=replace(file.profile, path=request.path),
                notes=tuple(_renamed(text, there) for text in file.notes),
            )
            for file, request in zip(timed, requests, strict=True)
        )

    def machine(self, threads: int) -> Machine:
        kit = ""  # enough to be told that there is no runtime
        if self.facts.runtimes:
            # A compiler is at work: in a child it cannot take this process along.
            kit = self._send_bytes(run_isolated(pack_bytes, self.facts))
        answer = self._connection.request("machine", {"kit": kit, "threads": threads}).body
        return self._record(Machine, answer, "machine")

    def open(self, path: Path, tensors: Sequence[int] | None = None) -> TensorSession:
        there = self._send(path)
        names = {there: str(path)}
        wanted = None if tensors is None else [int(index) for index in tensors]
        answer = self._ask("open", {"path": there, "tensors": wanted}, names)
        return _AgentSession(
            self,
            names,
            number=self._record(int, answer, "session"),
            runtime=self._record(str, answer, "runtime"),
            inputs=self._record(tuple[TensorFacts, ...], answer, "inputs"),
        )

    def setup(self) -> None:
        """Make the private environment there; raises as profiles/agent/setup.py."""
        self._connection.request("setup")

    def remove_setup(self) -> bool:
        """Take the private environment away; whether there was one."""
        return self._record(bool, self._connection.request("remove setup").body, "removed")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self,
        kind: str,
        body: Mapping[str, Any],
        names: Mapping[str, str],
    ) -> Mapping[str, Any]:
        """Ask about files, whose ``names`` there are replaced by those here in errors."""
        try:
            return self._connection.request(kind, body).body
        except DeployError as error:
            raise type(error)(_renamed(str(error), names)) from error

    def _send(self, path: Path) -> str:
        """The path on the device of the file ``path``, which is sent if it is not there yet."""
        model = model_files(path)
        if model.key not in self._sent:
            self._sent[model.key] = self._send_model(model)
        return self._sent[model.key]

    def _send_model(self, model: SentModel) -> str:
        remote = ""
        for file in model.files:
            remote = self._send_file(model.key, file)
        return remote

    def _send_file(self, key: str, file: SentFile) -> str:
        body = {"key": key, "name": file.name, "size": file.size_bytes, "sha256": file.sha256}
        self._connection.request("file", body)
        for piece in pieces(file):
            self._connection.tell("piece", payload=piece)
        return self._record(str, self._connection.request("file end").body, "path")

    def _send_bytes(self, data: bytes) -> str:
        with scratch_folder() as folder:
            path = folder / "kit"
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            return self._send_file(digest, SentFile(path, path.name, len(data), digest))

    def _record(self, kind: type[T], body: Mapping[str, Any], name: str) -> T:
        """A record that the device sent; ToolchainError for anything else."""
        try:
            return from_plain(kind, body[name])
        except (KeyError, ValueError) as error:
            raise ToolchainError(
                f"{self.address.text} sent an answer of an unknown form: {name}."
            ) from error

    def _run(self, number: int, inputs: Sequence[Array]) -> tuple[Array, ...]:
        try:
            answer = self._connection.request("run", {"session": number}, arrays=inputs)
            return answer.arrays()
        except ValueError as error:
            raise ToolchainError(f"{self.address.text} sent tensors that are none.") from error

    def _close_session(self, number: int) -> None:
        self._connection.request("close", {"session": number})


class _AgentSession:
    def __init__(
        self,
        device: AgentDevice,
        names: Mapping[str, str],
        *,
        number: int,
        runtime: str,
        inputs: tuple[TensorFacts, ...],
    ) -> None:
        self._device, self._names, self._number = device, names, number
        self._open = True
        self.runtime = runtime
        self.inputs = inputs

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        try:
            return self._device._run(self._number, inputs)
        except DeployError as error:
            raise type(error)(_renamed(str(error), self._names)) from error

    def close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(DeployError):  # a device that is lost has freed it
                self._device._close_session(self._number)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """``text`` of the device with the names that its files have here."""
    for there, here in names.items():
        text = text.replace(there, here)
    return text
