"""The normalisation that TFLite Metadata prescribes for an image input.

The buffer's layout is that of ``metadata_schema.fbs`` (tflite-support, MediaPipe). Its offsets
are untrusted, so this runs in a child process like all reading of model files.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

METADATA_NAME = b"TFLITE_METADATA"
# Field numbers and an enum value of metadata_schema.fbs.
_MODEL_SUBGRAPHS, _SUBGRAPH_INPUTS, _TENSOR_PROCESS_UNITS = 3, 2, 4
_UNIT_TYPE, _UNIT_OPTIONS, _NORMALIZATION, _MEAN, _STD = 0, 1, 1, 0, 1
_HOSTILE = (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError)


def read_normalization(path: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of 0..255 pixels, one or three numbers each, or None.

    None for a file without TFLite Metadata, without normalisation in it, or with damaged one.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = Path(path).read_bytes()
    try:
        model = schema.Model.GetRootAs(data, 0)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == METADATA_NAME:
                return _normalization(bytes(model.Buffers(entry.Buffer()).DataAsNumpy()))
    except _HOSTILE:
        return None
    return None


def _normalization(buffer: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    from flatbuffers.table import Table

    root = Table(buffer, int.from_bytes(buffer[:4], "little"))
    (source, *_) = _tables(_tables(root, _MODEL_SUBGRAPHS)[0], _SUBGRAPH_INPUTS)
    for unit in _tables(source, _TENSOR_PROCESS_UNITS):
        kind = unit.Offset(_slot(_UNIT_TYPE))
        if kind and buffer[unit.Pos + kind] == _NORMALIZATION:
            options = Table(buffer, unit.Indirect(unit.Pos + unit.Offset(_slot(_UNIT_OPTIONS))))
            return _floats(options, _MEAN), _floats(options, _STD)
    return None


def _slot(field: int) -> int:
    """Where a vtable has a field's offset: after its own size and the table's."""
    return 4 + 2 * field


def _tables(table: Any, field: int) -> list[Any]:
    from flatbuffers.table import Table

    offset = table.Offset(_slot(field))
    if not offset:
        return []
    start = table.Vector(offset)
    count = min(table.VectorLen(offset), len(table.Bytes) // 4)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]


def _floats(table: Any, field: int) -> tuple[float, ...]:
    offset = table.Offset(_slot(field))
    if not offset:
        return ()
    count = min(table.VectorLen(offset), 4)
    return struct.unpack_from(f"<{count}f", table.Bytes, table.Vector(offset))
