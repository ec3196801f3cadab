"""The agent: answers one machine until it goes, and leaves nothing behind.

Standard library only; what needs more runs in children. It ends with the connection, with a
signal, and when nothing was heard for too long, whichever comes first.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from mnv4_deploy.errors import DeployError, ModelFileError, OutputError, ToolchainError
from mnv4_deploy.profiles.agent import setup
from mnv4_deploy.profiles.agent.facts import read_facts
from mnv4_deploy.profiles.agent.operations import Operations
from mnv4_deploy.profiles.agent.protocol import Message, ProtocolError, read_message
from mnv4_deploy.profiles.agent.streams import (
    Sender,
    WatchedInput,
    error_body,
    private_streams,
)
from mnv4_deploy.profiles.files.own import remove, remove_abandoned
from mnv4_deploy.profiles.records.plain import to_plain

_BUSY_EVERY_S = 2.0
_CHILDREN_END_S = 2.0
# Pieces of a file wait here; more than a few would fill the memory of a small board.
_WAITING = 4


class Supervisor:
    """``silence_s``: how long the other side may say nothing before it passes for gone."""

    def __init__(self, folder: Path, silence_s: float, place: setup.Place) -> None:
        self._place = place
        self._folder = folder
        self._silence_s = silence_s
        source, target = private_streams()
        self._input = WatchedInput(source)
        self._sender = Sender(os.fdopen(target, "wb"))
        self._queue: queue.Queue[Message] = queue.Queue(_WAITING)
        self._ending = threading.Lock()

    def run(self) -> NoReturn:
        """Serve until the end of the connection."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())
        for task in (self._receive, self._watch, self._show_life):
            threading.Thread(target=task, daemon=True).start()
        try:
            self._serve()
        except (OSError, ValueError):  # nobody listens any more
            pass
        except Exception:
            traceback.print_exc()
        self.end()
        while True:  # another thread is at it
            time.sleep(_CHILDREN_END_S)

    def _serve(self) -> NoReturn:
        remove_abandoned(self._folder.parent)
        facts = read_facts(self._folder)
        self._sender.send("hello", {"facts": to_plain(facts)})
        operations = Operations(self._folder, facts, self._place, self._note)
        while True:
            message = self._queue.get()
            answer = self._answer(operations, message)
            # Work that was ended did not fail.
            if answer is not None and not self._ending.locked():
                self._sender.relay(answer)

    def _answer(self, operations: Operations, message: Message) -> Message | None:
        try:
            return operations.answer(message)
        except DeployError as error:
            return Message("error", error_body(error))
        except MemoryError:
            text = "The device has too little memory: give a smaller model."
            return Message("error", error_body(ModelFileError(text)))
        except OSError as error:
            text = f"The device's disk cannot be used ({error.strerror or error})."
            return Message("error", error_body(OutputError(text)))
        except Exception as error:
            traceback.print_exc()
            last = str(error).strip().rpartition("\n")[2]
            text = f"The agent failed on the device: {type(error).__name__}: {last}"
            return Message("error", error_body(ToolchainError(text)))

    def _note(self, text: str) -> None:
        self._sender.send("note", {"text": text})

    def _receive(self) -> None:
        stream = io.BufferedReader(self._input, 1 << 16)
        try:
            while message := read_message(stream):
                if message.kind != "heartbeat":
                    self._queue.put(message)
        except ProtocolError as error:
            with contextlib.suppress(OSError, ValueError):
                text = f"The agent on the device received {error}."
                self._sender.send("error", error_body(ToolchainError(text)))
        except OSError:
            pass
        self.end()

    def _watch(self) -> None:
        while self._input.silent_s < self._silence_s:
            time.sleep(min(1.0, self._silence_s / 4))
        self.end()

    def _show_life(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                self._sender.send("busy")
                time.sleep(_BUSY_EVERY_S)

    def end(self) -> None:
        """End the children, remove the folder and exit; does nothing while another thread
        does, or the same one when its own signal reaches it."""
        if not self._ending.acquire(blocking=False):
            return
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGTERM)
        _await_children()
        setup.abort(self._place)
        remove(self._folder)
        os._exit(0)


def _await_children() -> None:
    """Until all children have ended, or for as long as that should take. Those that do not obey
    are killed by the system when this process goes (profiles/isolated.py)."""
    deadline = time.monotonic() + _CHILDREN_END_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)


def main() -> None:
    """Arguments: the private folder, and the body of the start message as JSON."""
    # The group is for ending all children at once; a shell may have made one already.
    with contextlib.suppress(OSError):
        os.setsid()
    folder = Path(sys.argv[1])
    body: dict[str, Any] = json.loads(sys.argv[2])
    place = setup.Place.of_user()
    # As in the package's own __init__, which is not on the device.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Runtimes keep things in their user's home.
    os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    Supervisor(folder, float(body["silence_s"]), place).run()
