"""Operator times of the protocol buffer that benchmark_model writes.

The message is BenchmarkProfilingData of LiteRT's
``tflite/profiling/proto/profiling_info.proto``, read from its wire format
(https://protobuf.dev/programming-guides/encoding/), so that no library is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable
from mnv4_deploy.errors import ToolchainError

# Field numbers of profiling_info.proto.
_RUNTIME_PROFILE = 3
_SUBGRAPHS, _DELEGATES = 1, 2
_SUBGRAPH_INDEX, _SUBGRAPH_OPS = 2, 3
_DELEGATE_OPS = 2
_OP_TYPE, _OP_TIME, _OP_CALLED, _OP_NAME, _OP_ORDER = 1, 2, 4, 5, 6
_STAT_MIN, _STAT_SUM, _STAT_COUNT = 6, 8, 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 63
_SIGN, _WRAP = 1 << 63, 1 << 64


def parse_proto(data: bytes) -> OpTable:
    """The operators of the runs in the tool's file, with shortest calls and run order.

    Raises ToolchainError for a file that is cut off or is no such message.
    """
    try:
        return _table(_Message(data))
    except (IndexError, ValueError, KeyError) as error:
        raise ToolchainError(
            f"benchmark_model wrote a profile of {len(data)} bytes that is damaged or of another"
            " form: use a published build of the tool."
        ) from error


def _table(data: _Message) -> OpTable:
    runs = list(data.messages(_RUNTIME_PROFILE))
    rows: list[OpRow] = []
    internal: list[OpRow] = []
    subgraphs = False
    for run in runs:
        for graph in run.messages(_SUBGRAPHS):
            ops = [_row(op) for op in graph.messages(_SUBGRAPH_OPS)]
            if graph.number(_SUBGRAPH_INDEX):
                subgraphs = subgraphs or bool(ops)
            else:
                rows += ops
        for delegate in run.messages(_DELEGATES):
            internal += [_row(op) for op in delegate.messages(_DELEGATE_OPS)]
    if not rows:
        raise ValueError("no operators")
    return OpTable(tuple(rows), tuple(internal), subgraphs)


def _row(op: _Message) -> OpRow:
    (time,) = op.messages(_OP_TIME)
    count = time.number(_STAT_COUNT)
    if count < 1:
        raise ValueError("an operator that never ran")
    return OpRow(
        node_type=op.text(_OP_TYPE),
        name=op.text(_OP_NAME),
        # The message has whole us for the average; sum and count give it exactly.
        avg_us=time.number(_STAT_SUM) / count,
        times_called=op.number(_OP_CALLED),
        min_us=float(time.number(_STAT_MIN)),
        run_order=op.number(_OP_ORDER),
    )


@dataclass(frozen=True)
class _Message:
    """A message that was not read yet. ValueError or IndexError for what is none."""

    data: bytes

    def _fields(self) -> Iterator[tuple[int, int | bytes]]:
        at, data = 0, self.data
        while at < len(data):
            key, at = _varint(data, at)
            number, wire_type = key >> 3, key & 7
            if wire_type == _VARINT:
                value, at = _varint(data, at)
                yield number, value
                continue
            if wire_type == _BYTES:
                size, at = _varint(data, at)
            elif wire_type in (_FIXED32, _FIXED64):
                size = 4 if wire_type == _FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire_type}")
            if size > len(data) - at:
                raise ValueError("cut off")
            yield number, data[at : at + size]
            at += size

    def messages(self, number: int) -> Iterator[_Message]:
        for found, value in self._fields():
            if found == number:
                if isinstance(value, int):
                    raise ValueError("a number in place of a message")
                yield _Message(value)

    def number(self, number: int) -> int:
        """The last value of an int64 field, 0 (its default) where it is absent."""
        values = [value for found, value in self._fields() if found == number]
        value = values[-1] if values else 0
        if not isinstance(value, int):
            raise ValueError("bytes in place of a number")
        return value - _WRAP if value >= _SIGN else value

    def text(self, number: int) -> str:
        return b"".join(m.data for m in self.messages(number)).decode("utf-8", "replace")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > _MAX_VARINT_BITS:
            raise ValueError("a number of more than 64 bits")
