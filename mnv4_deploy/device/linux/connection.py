"""A conversation with an agent: requests, answers, signs of life, and a clean end."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from numpy.typing import NDArray

from mnv4_deploy.errors import DeployError, ToolchainError
from mnv4_deploy.profiles.agent.bootstrap import MAGIC
from mnv4_deploy.profiles.agent.protocol import Message, ProtocolError, read_message
from mnv4_deploy.profiles.agent.streams import Sender, WatchedInput, error_from, printable

HEARTBEAT_S = 5.0
# What passes for gone on either side: an agent at work says so every two seconds.
SILENCE_S = 60.0
_ANSWERS = ("hello", "done")
_NOISE_BYTES = 1 << 20
_LOG_BYTES = 1 << 16
_END_S = 15.0
_WRITABLE_EVERY_S = 0.2


class Connection:
    """``process`` speaks to an agent on its standard input and output; ``name`` is the user's.

    Threads read, so that a device that says nothing can be told from one that works.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        note: Callable[[str], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._process, self._name, self._note = process, name, note
        self._silence_s = silence_s
        self._input = WatchedInput(process.stdout.fileno())
        self._closed = threading.Event()
        self._sender = Sender(io.BufferedWriter(_WatchedOutput(process.stdin, self._over)))
        self._answers: queue.Queue[Message | DeployError | None] = queue.Queue()
        self._log = bytearray()
        self._lock = threading.RLock()
        self._readers = [
            threading.Thread(target=task, daemon=True) for task in (self._receive, self._keep_log)
        ]
        for thread in self._readers:
            thread.start()

    def start(self, body: Mapping[str, Any], archive: bytes) -> Mapping[str, Any] | None:
        """Send the archive; the body of the agent's hello, None where the process ended first
        (see :meth:`end` and :attr:`log`). Raises what the bootstrap refuses for."""
        with contextlib.suppress(OSError, ValueError):
            self._sender.send("start", body, payload=archive)
        threading.Thread(target=self._beat, daemon=True).start()
        message = self._next()
        return None if message is None else message.body

    def request(
        self,
        kind: str,
        body: Mapping[str, Any] | None = None,
        arrays: Sequence[NDArray[Any]] = (),
    ) -> Message:
        """The agent's answer. Raises what it raised over there, and ToolchainError where the
        connection is lost: nothing more can be asked then."""
        with self._lock:
            self.tell(kind, body, arrays=arrays)
            try:
                answer = self._next()
            except DeployError:
                raise
            except BaseException:  # the answer to come would be taken for another question's
                self.close()
                raise
        if answer is None:
            raise self._lost()
        return answer

    def tell(
        self,
        kind: str,
        body: Mapping[str, Any] | None = None,
        *,
        arrays: Sequence[NDArray[Any]] = (),
        payload: bytes = b"",
    ) -> None:
        """Send what has no answer; ToolchainError where the connection is lost."""
        if self._closed.is_set():
            raise ToolchainError(f"The connection to {self._name} is closed: open it again.")
        try:
            if arrays:
                self._sender.send_arrays(kind, body or {}, arrays)
            else:
                self._sender.send(kind, body, payload=payload)
        except (OSError, ValueError) as error:
            raise self._lost() from error

    def close(self) -> None:
        """End the agent and wait until it has cleaned up; a second call does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        # It waits for a thread that is writing, which gives up soon where the pipe is full.
        closer = threading.Thread(target=self._sender.close, daemon=True)
        closer.start()
        closer.join(1.0)
        for stop in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_END_S)
                break
            except subprocess.TimeoutExpired:
                stop()
        self._process.wait()
        streams = (self._process.stdout, self._process.stderr)
        for thread, stream in zip(self._readers, streams, strict=True):
            # A master connection that OpenSSH keeps open holds on to standard error.
            thread.join(1.0)
            if stream is not None and not thread.is_alive():
                stream.close()

    def end(self) -> int:
        """:meth:`close`; the exit code of the process."""
        self.close()
        return self._process.returncode

    @property
    def log(self) -> str:
        """The end of what the process wrote to standard error."""
        return self._log.decode("utf-8", "replace")

    def _next(self) -> Message | None:
        """The next answer; None where the connection ended, or nothing came for too long."""
        while True:
            try:
                found = self._answers.get(timeout=min(1.0, self._silence_s))
            except queue.Empty:
                if not self._gone():
                    continue
                return None
            if isinstance(found, DeployError):
                raise found
            if found is None:
                self._answers.put(None)  # for the next question
            return found

    def _gone(self) -> bool:
        """Whether the other side has said nothing for too long; before its first word ssh may be
        asking for a passphrase."""
        return self._input.heard and self._input.silent_s >= self._silence_s

    def _over(self) -> bool:
        return self._closed.is_set() or self._gone()

    def _lost(self) -> ToolchainError:
        self.close()
        return ToolchainError(
            f"The connection to {self._name} was lost: nothing of the run is left there once its"
            f" agent notices (at most {SILENCE_S:.0f} s); try again."
        )

    def _receive(self) -> None:
        stream = io.BufferedReader(self._input, 1 << 20)
        try:
            if _skip_noise(stream):
                while message := read_message(stream):
                    self._take(message)
        except ProtocolError as error:
            text = f"{self._name} sent something that is no answer: {printable(str(error), 200)}."
            self._answers.put(ToolchainError(text))
        except (OSError, ValueError):  # closed
            pass
        except RecursionError:
            self._answers.put(ToolchainError(f"{self._name} sent lists of lists without end."))
        self._answers.put(None)

    def _take(self, message: Message) -> None:
        if message.kind == "note":
            self._note(printable(str(message.body.get("text", ""))))
        elif message.kind == "error":
            self._answers.put(error_from(message.body))
        elif message.kind in _ANSWERS:
            self._answers.put(message)
        elif message.kind != "busy":
            raise ProtocolError(f"a message of the kind {message.kind!r}")

    def _keep_log(self) -> None:
        assert self._process.stderr
        with contextlib.suppress(OSError, ValueError):
            while data := self._process.stderr.read1(1 << 12):  # type: ignore[attr-defined]
                self._log += data
                del self._log[:-_LOG_BYTES]

    def _beat(self) -> None:
        beat_s = min(HEARTBEAT_S, self._silence_s / 4)
        with contextlib.suppress(OSError, ValueError):
            while not self._closed.wait(beat_s):
                self._sender.send("heartbeat")


class _WatchedOutput(io.RawIOBase):
    """Writes to a pipe whose reader may stop reading: a process that is halted, or behind a
    network that is gone, leaves it full for ever. ``over`` tells when to wait no longer."""

    def __init__(self, pipe: IO[bytes], over: Callable[[], bool]) -> None:
        self._pipe, self._over = pipe, over
        self._given_up = False
        if hasattr(os, "set_blocking"):  # on Windows since Python 3.12
            os.set_blocking(pipe.fileno(), False)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write some of ``data``; TimeoutError, now and from then on, where that is not to be."""
        while not self._given_up:
            with contextlib.suppress(BlockingIOError):
                return os.write(self._pipe.fileno(), data)
            self._given_up = self._over()
            self._wait()
        raise TimeoutError("nobody reads what is sent")

    def _wait(self) -> None:
        if not hasattr(select, "poll"):
            time.sleep(_WRITABLE_EVERY_S)
            return
        writable = select.poll()
        writable.register(self._pipe.fileno(), select.POLLOUT)
        writable.poll(_WRITABLE_EVERY_S * 1000)

    def close(self) -> None:
        super().close()
        self._pipe.close()


def _skip_noise(stream: IO[bytes]) -> bool:
    """Read up to the agent's first line: login shells print greetings. False where it never
    comes."""
    left = _NOISE_BYTES
    while left > 0:
        line = stream.readline(left)
        if not line or line == MAGIC:
            return bool(line)
        left -= len(line)
    return False
