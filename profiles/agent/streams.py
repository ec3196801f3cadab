"""What both sides of a connection need around its messages: signs of life, and relays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from mnv4_deploy import errors
from mnv4_deploy.errors import DeployError, ToolchainError
from mnv4_deploy.profiles.agent.protocol import Message, write_message


class WatchedInput(io.RawIOBase):
    """Reads a descriptor and remembers when it last gave anything.

    Bytes count, not messages: a large file on a slow line is a sign of life too.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last_s = time.monotonic()
        self.heard = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._descriptor, len(buffer))
        self._last_s = time.monotonic()
        self.heard = True
        buffer[: len(data)] = data
        return len(data)

    @property
    def silent_s(self) -> float:
        """Seconds since something arrived, or since there is this object."""
        return time.monotonic() - self._last_s


class Sender:
    """Messages of several threads on one stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(
        self, kind: str, body: Mapping[str, Any] | None = None, *, payload: bytes = b""
    ) -> None:
        """Raises OSError or ValueError (closed) where the other side is gone."""
        with self._lock:
            write_message(self._stream, kind, body, payload=payload)

    def send_arrays(self, kind: str, body: Mapping[str, Any], arrays: Any) -> None:
        """:meth:`send` with NumPy arrays."""
        with self._lock:
            write_message(self._stream, kind, body, arrays=arrays)

    def relay(self, message: Message) -> None:
        """Send a message as it came, without a look at its arrays."""
        head = {
            "kind": message.kind,
            "body": dict(message.body),
            "arrays": [{"dtype": dtype, "shape": shape} for dtype, shape in message.array_types],
            "bytes": len(message.payload),
        }
        with self._lock:
            self._stream.write(json.dumps(head, allow_nan=False).encode() + b"\n")
            self._stream.write(message.payload)
            self._stream.flush()

    def close(self) -> None:
        """Let the other side read to the end of what was sent; never raises."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()


def error_body(error: BaseException) -> dict[str, str]:
    """An error as it travels: its class's name and its sentence."""
    return {"class": type(error).__name__, "message": str(error)}


def error_from(body: Mapping[str, Any]) -> DeployError:
    """The error that :func:`error_body` described, ToolchainError for a class unknown here."""
    kind = getattr(errors, str(body.get("class", "")), None)
    message = printable(str(body.get("message", "")))
    if isinstance(kind, type) and issubclass(kind, DeployError):
        return kind(message)
    return ToolchainError(message)


def printable(text: str, limit: int = 2000) -> str:
    """One line of another machine's text, without characters that a terminal obeys."""
    kept = "".join(c if c.isprintable() else " " for c in text[:limit])
    return " ".join(kept.split())


def private_streams() -> tuple[int, int]:
    """Descriptors of standard input and output that nobody else in this process knows.

    What native libraries print goes to standard error from here on, and children get an empty
    input: neither can get between the messages.
    """
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, target
