"""Messages between this machine and the agent on a device: a line of JSON, then raw arrays.

A message is ``{"kind": ..., "body": {...}, "arrays": [{"dtype", "shape"}, ...], "bytes": n}`` on
a line of its own, followed by the n bytes of its arrays, or of a file. Bodies are plain JSON
(:mod:`mnv4_deploy.profiles.records.plain`): nothing that arrives is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_LINE_BYTES = 256 << 20
_MAX_PAYLOAD_BYTES = 4 << 30
_ARRAY_TYPES = frozenset(
    {
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64"),
    }
)


class ProtocolError(ValueError):
    """The other side sent something that is no message."""


@dataclass(frozen=True)
class Message:
    """``payload`` are the raw bytes behind the line: a file's, or those of ``arrays``."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    array_types: tuple[tuple[str, tuple[int, ...]], ...] = ()
    payload: bytes = b""

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays of the message; ProtocolError where payload and shapes do not agree."""
        import numpy as np

        found: list[NDArray[Any]] = []
        start = 0
        for dtype, shape in self.array_types:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if start + size > len(self.payload):
                raise ProtocolError("a message is shorter than its arrays")
            found.append(
                np.frombuffer(self.payload, np.dtype(dtype), math.prod(shape), start)
                .reshape(shape)
                .copy()
            )
            start += size
        return tuple(found)


def write_message(
    stream: IO[bytes],
    kind: str,
    body: Mapping[str, Any] | None = None,
    *,
    arrays: Sequence[NDArray[np.generic]] = (),
    payload: bytes = b"",
) -> None:
    """Send a message and flush; give either ``arrays`` or ``payload``.

    Raises OSError (BrokenPipeError) where the other side is gone.
    """
    blocks = [array.tobytes() for array in arrays] if arrays else [payload]
    line = {
        "kind": kind,
        "body": dict(body or {}),
        "arrays": [{"dtype": a.dtype.name, "shape": list(a.shape)} for a in arrays],
        "bytes": sum(map(len, blocks)),
    }
    stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
    for block in blocks:
        stream.write(block)
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message; None at the end of the stream.

    Raises ProtocolError for anything else than a message, and for half of one.
    """
    line = stream.readline(_MAX_LINE_BYTES)
    if not line:
        return None
    try:
        if not line.endswith(b"\n"):
            raise ValueError("half a line")
        head = json.loads(line)
        size = int(head["bytes"])
        types = tuple((str(a["dtype"]), tuple(int(n) for n in a["shape"])) for a in head["arrays"])
        message = Message(str(head["kind"]), dict(head["body"]), types)
        bad = [
            dtype
            for dtype, shape in types
            if dtype not in _ARRAY_TYPES or min(shape, default=0) < 0
        ]
        if bad or not 0 <= size <= _MAX_PAYLOAD_BYTES:
            raise ValueError("an array or a size that cannot be")
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"no message: {line[:120]!r} ({error})") from error
    payload = _exactly(stream, size)
    return Message(message.kind, message.body, types, payload)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    while left:
        part = stream.read(left)
        if not part:
            raise ProtocolError("the stream ended within a message")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
