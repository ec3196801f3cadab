"""What the other machine can ask for, by the kind of the message."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.agent import setup
from mnv4_deploy.profiles.agent.facts import RUNTIMES
from mnv4_deploy.profiles.agent.protocol import Message
from mnv4_deploy.profiles.agent.sessions import TensorChild
from mnv4_deploy.profiles.agent.state import read_state
from mnv4_deploy.profiles.agent.store import Store
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.machine.ceilings import measure_machine
from mnv4_deploy.profiles.measure.measure import time_here
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest

# Besides the time limit: loading, and one run each of what is slow on a small board.
_STARTUP_S = 600.0
_TIMEOUT_PER_SECOND = 6.0
_MACHINE_TIMEOUT_S = 1800.0


class Operations:
    """Answers messages one at a time; ``note`` tells the user of progress."""

    def __init__(
        self,
        folder: Path,
        facts: DeviceFacts,
        place: setup.Place,
        note: Callable[[str], None],
    ) -> None:
        self._facts = facts
        self._place = place
        self._note = note
        self._store = Store(folder)
        self._sessions: dict[int, TensorChild] = {}
        self._handlers: Mapping[str, Callable[[Message], Message | None]] = {
            "file": self._file,
            "piece": self._piece,
            "file end": self._file_end,
            "state": self._state,
            "time": self._time,
            "machine": self._machine,
            "open": self._open,
            "run": self._run,
            "close": self._close,
            "setup": self._setup,
            "remove setup": self._remove_setup,
        }

    def answer(self, message: Message) -> Message | None:
        """None for messages that want no answer. Raises DeployError, and KeyError, TypeError or
        ValueError for a message that is not as it should be."""
        if message.kind not in self._handlers:
            raise ToolchainError("The agent on the device does not know what it is asked for.")
        return self._handlers[message.kind](message)

    def _file(self, message: Message) -> Message:
        body = message.body
        self._store.begin(
            str(body["key"]), str(body["name"]), int(body["size"]), str(body["sha256"])
        )
        return _done()

    def _piece(self, message: Message) -> None:
        self._store.add(message.payload)

    def _file_end(self, message: Message) -> Message:  # noqa: ARG002
        return _done(path=str(self._store.finish()))

    def _state(self, message: Message) -> Message:  # noqa: ARG002
        return _done(state=to_plain(read_state()))

    def _time(self, message: Message) -> Message:
        if self._facts.emulator:
            raise UnsupportedError(
                f"{self._facts.emulator} emulates the processor of this device, so its times mean"
                " nothing: use parity or drift, which compare numbers."
            )
        self._needs_runtime()
        requests = from_plain(tuple[MeasureRequest, ...], message.body["requests"])
        files = run_isolated(
            time_here,
            requests,
            timeout_s=sum(_STARTUP_S + _TIMEOUT_PER_SECOND * r.max_seconds for r in requests),
            subject=" or ".join(request.path for request in requests),
        )
        return _done(files=to_plain(files))

    def _machine(self, message: Message) -> Message:
        self._needs_runtime()
        kit, threads = str(message.body["kit"]), int(message.body["threads"])
        machine = run_isolated(measure_machine, [threads], kit, timeout_s=_MACHINE_TIMEOUT_S)
        return _done(machine=to_plain(machine))

    def _open(self, message: Message) -> Message:
        self._needs_runtime()
        session = TensorChild({"path": message.body["path"], "tensors": message.body["tensors"]})
        number = max(self._sessions, default=0) + 1
        self._sessions[number] = session
        return _done(session=number, **session.opened.body)

    def _run(self, message: Message) -> Message:
        session = self._sessions.get(int(message.body["session"]))
        if session is None:
            raise ToolchainError("The model was closed on the device.")
        return session.ask(message)

    def _close(self, message: Message) -> Message:
        session = self._sessions.pop(int(message.body["session"]), None)
        if session is not None:
            session.close()
        return _done()

    def _setup(self, message: Message) -> Message:  # noqa: ARG002
        return _done(folder=str(setup.make(self._place, self._note)))

    def _remove_setup(self, message: Message) -> Message:  # noqa: ARG002
        return _done(removed=setup.remove(self._place))

    def _needs_runtime(self) -> None:
        if not self._facts.runtimes:
            raise UnsupportedError(
                f"{sys.executable} on the device has neither {', '.join(RUNTIMES[:-1])} nor"
                f" {RUNTIMES[-1]}: give --setup, or install one of them there."
            )


def _done(**body: Any) -> Message:
    return Message("done", body)
