"""What a TFLite file says about itself: our own JSON, TFLite Metadata, and the label file.

TFLite Metadata is the record by which Android's and MediaPipe's image classifiers know colour
space, normalisation and labels, so that an app needs no code for them. The layout is that of
``metadata_schema.fbs`` (tflite-support, MediaPipe), written field by field because no package
that carries its generated code installs beside the exporter.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile

LABELS_FILE = "labels.txt"
METADATA_NAME = "TFLITE_METADATA"
_FILE_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
# Field numbers and enum values of metadata_schema.fbs.
_IMAGE_PROPERTIES, _RGB = 2, 1
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2


def describe(file: TfliteFile, facts: Mapping[str, object]) -> None:
    """Store ``facts`` as JSON under the metadata name ``mnv4_deploy``."""
    add_metadata(file, "mnv4_deploy", json.dumps(facts, sort_keys=True).encode())
    file.model.description = b"Made by mnv4-deploy"


def add_metadata(file: TfliteFile, name: str, data: bytes) -> None:
    buffer = file.schema.BufferT()
    buffer.data = data
    file.model.buffers.append(buffer)
    entry = file.schema.MetadataT()
    entry.name = name.encode()
    entry.buffer = len(file.model.buffers) - 1
    file.model.metadata = [*(file.model.metadata or []), entry]


def append_labels(path: Path, labels: tuple[str, ...]) -> None:
    """Pack ``labels.txt`` behind the model, where TFLite Metadata keeps its associated files."""
    if labels:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            entry = zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, "\n".join(labels) + "\n")


def image_classifier_metadata(
    *,
    name: str,
    description: str,
    input_name: str,
    mean: Sequence[float],
    std: Sequence[float],
    output_names: Sequence[str],
    has_labels: bool,
) -> bytes:
    """The metadata buffer. ``mean`` and ``std`` are of 0..255 pixels, one a colour."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    writer = _Writer(builder)
    image = writer.table(2, {0: ("Int8", _RGB)})
    content = writer.table(3, {0: ("Uint8", _IMAGE_PROPERTIES), 1: image})
    options = writer.table(2, {0: writer.floats(mean), 1: writer.floats(std)})
    unit = writer.table(2, {0: ("Uint8", _NORMALIZATION_OPTIONS), 1: options})
    source = writer.table(7, {0: writer.text(input_name), 3: content, 4: writer.tables([unit])})
    results = []
    for output in output_names:
        fields: dict[int, Any] = {0: writer.text(output)}
        if has_labels:
            file = writer.table(5, {0: writer.text(LABELS_FILE), 2: ("Int8", _TENSOR_AXIS_LABELS)})
            fields[6] = writer.tables([file])
        results.append(writer.table(7, fields))
    graph = writer.table(10, {2: writer.tables([source]), 3: writer.tables(results)})
    model = writer.table(
        8,
        {
            0: writer.text(name),
            1: writer.text(description),
            3: writer.tables([graph]),
            7: writer.text(_PARSER_VERSION),
        },
    )
    builder.Finish(model, file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    """Tables bottom-up: whatever a table points to is written before it."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def text(self, value: str) -> int:
        offset: int = self.builder.CreateString(value)
        return offset

    def floats(self, values: Sequence[float]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        offset: int = self.builder.EndVector()
        return offset

    def tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        vector: int = self.builder.EndVector()
        return vector

    def table(self, size: int, fields: dict[int, int | tuple[str, int]]) -> int:
        """A table of ``size`` fields; a value is an offset, or ``(scalar type, number)``."""
        self.builder.StartObject(size)
        for number, value in fields.items():
            if isinstance(value, tuple):
                getattr(self.builder, f"Prepend{value[0]}Slot")(number, value[1], 0)
            else:
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
        offset: int = self.builder.EndObject()
        return offset
