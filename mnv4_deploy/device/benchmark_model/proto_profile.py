"""Operator times of the protocol buffer that benchmark_model writes.

The message is BenchmarkProfilingData of LiteRT's
``tflite/profiling/proto/profiling_info.proto``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable
from mnv4_deploy.errors import ToolchainError, missing_library

# What is read of the messages of profiling_info.proto: name, number and type. Values are
# required, because the tool sets them all. Messages are repeated, so that a second one is seen
# and not merged into the first. Texts are bytes, for a tensor may have any name.
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Data": (("runs", 3, "Model"),),
    "Model": (("subgraphs", 1, "Subgraph"), ("delegates", 2, "Delegate")),
    "Subgraph": (("index", 2, "int32"), ("ops", 3, "Op")),
    "Delegate": (("ops", 2, "Op"),),
    "Op": (
        ("node_type", 1, "bytes"),
        ("times_us", 2, "Stat"),
        ("times_called", 4, "int64"),
        ("name", 5, "bytes"),
        ("run_order", 6, "int64"),
    ),
    "Stat": (("min", 6, "int64"), ("sum", 8, "int64"), ("count", 9, "int64")),
}


def parse_proto(data: bytes) -> OpTable:
    """The operators of the runs in the tool's file, with shortest calls and run order.

    Raises ToolchainError for a file that is cut off or is no such message, and without protobuf.
    """
    message = _message_class()()
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
        _check(message)
        return _table(message)
    except (DecodeError, ValueError) as error:
        raise ToolchainError(
            f"benchmark_model wrote a profile of {len(data)} bytes that is damaged or of another"
            " form: use a published build of the tool."
        ) from error


def _check(message: Any) -> None:
    """ValueError where a field is missing or of another type, which protobuf passes over."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    ours = message.DESCRIPTOR.fields_by_number
    if not message.IsInitialized() or any(
        f.field_number in ours for f in UnknownFieldSet(message)
    ):
        raise ValueError("a field that is not as it should be")
    for field, values in message.ListFields():
        if field.message_type:
            for part in values:
                _check(part)


def _table(data: Any) -> OpTable:
    main: list[OpRow] = []
    others: list[OpRow] = []
    internal: list[OpRow] = []
    for run in data.runs:
        for graph in run.subgraphs:
            (others if graph.index else main).extend(map(_row, graph.ops))
        for delegate in run.delegates:
            internal.extend(map(_row, delegate.ops))
    if not main:
        raise ValueError("no operators")
    return OpTable(tuple(main), tuple(internal), subgraphs=bool(others))


def _row(op: Any) -> OpRow:
    (time,) = op.times_us
    if time.count < 1:
        raise ValueError("an operator that never ran")
    return OpRow(
        node_type=op.node_type.decode("utf-8", "replace"),
        name=op.name.decode("utf-8", "replace"),
        # The message has whole us for the average; sum and count give it exactly.
        avg_us=time.sum / time.count,
        times_called=op.times_called,
        min_us=float(time.min),
        run_order=op.run_order,
    )


@cache
def _message_class() -> Any:
    """The class of "Data", made from ``_FIELDS``; MissingLibraryError without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise missing_library(
            "Reading benchmark_model's profile needs protobuf", "tflite"
        ) from error
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="profiling_info.proto", syntax="proto2")
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = made.field.add(name=name, number=number, label=kinds.LABEL_REQUIRED)
            if kind in _FIELDS:
                field.label, field.type = kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE
                field.type_name = f".{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Data"))
