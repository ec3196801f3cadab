"""Model files that stay loaded, each in a child process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.agent.protocol import Message, read_message
from mnv4_deploy.profiles.agent.streams import Sender, error_from
from mnv4_deploy.profiles.agent.tensor_process import PARENT
from mnv4_deploy.profiles.isolated import child_command, exit_reason

_MODULE = "mnv4_deploy.profiles.agent.tensor_process"
# Loading a large file on a slow board takes minutes; a damaged one may never end.
_TIMEOUT_S = 1800.0
# For a crash to be over and the exit code to be known.
_ENDING_S = 5.0


class TensorChild:
    """One loaded file. A native crash in it is a ModelFileError, not the end of the agent."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._path = str(body["path"])
        self._process = subprocess.Popen(
            child_command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, PARENT: str(os.getpid())},
        )
        assert self._process.stdin is not None
        self._sender = Sender(self._process.stdin)
        try:
            self.opened = self.ask(Message("open", body))
        except BaseException:
            self.close()
            raise

    def ask(self, message: Message) -> Message:
        """The child's answer. Raises what it raised, and ModelFileError where it crashed."""
        assert self._process.stdout is not None
        late = threading.Timer(_TIMEOUT_S, self._process.kill)
        late.daemon = True
        late.start()
        try:
            self._sender.relay(message)
            answer = read_message(self._process.stdout)
        except (OSError, ValueError):  # it is gone, or was while it wrote (ProtocolError)
            answer = None
        finally:
            timed_out = not late.is_alive()
            late.cancel()
        if answer is None:
            raise self._crashed(timed_out)
        if answer.kind == "error":
            raise error_from(answer.body)
        return answer

    def _crashed(self, timed_out: bool) -> ModelFileError:
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if timed_out:
            return ModelFileError(f"{self._path} was not done after {_TIMEOUT_S:g} s.")
        if code == -signal.SIGKILL:  # so the system does where memory runs out
            return ModelFileError(
                f"{self._path} was stopped by the device's system, which does so where memory runs"
                " out: give a smaller model."
            )
        reason = exit_reason(code)
        return ModelFileError(
            f"{self._path} made the runtime of the device crash ({reason}): the file is damaged,"
            " or not one that this runtime can read."
        )

    def close(self) -> None:
        """End the child; a second call does nothing."""
        self._process.kill()
        self._process.wait()
        self._sender.close()
        if self._process.stdout:
            self._process.stdout.close()
