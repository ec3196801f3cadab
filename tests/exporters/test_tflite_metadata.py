"""TFLite Metadata, read back by field number with a reader that shares nothing with the writer."""

from __future__ import annotations

import struct

import pytest

from mnv4_deploy.exporters.to_tflite.metadata import image_classifier_metadata


class Table:
    """A FlatBuffer table by hand: signed offset to the vtable, unsigned offsets to the rest."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self.vtable = position - struct.unpack_from("<i", data, position)[0]

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def at(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self.data, self.vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, self.vtable + entry)[0]
        return self.position + offset if offset else None

    def byte(self, field: int) -> int:
        at = self.at(field)
        return 0 if at is None else self.data[at]

    def _target(self, field: int) -> int:
        at = self.at(field)
        assert at is not None
        return at + int(struct.unpack_from("<I", self.data, at)[0])

    def table(self, field: int) -> Table:
        return Table(self.data, self._target(field))

    def tables(self, field: int) -> list[Table]:
        start = self._target(field)
        (count,) = struct.unpack_from("<I", self.data, start)
        places = [start + 4 + 4 * i for i in range(count)]
        return [Table(self.data, p + struct.unpack_from("<I", self.data, p)[0]) for p in places]

    def floats(self, field: int) -> tuple[float, ...]:
        start = self._target(field)
        (count,) = struct.unpack_from("<I", self.data, start)
        return struct.unpack_from(f"<{count}f", self.data, start + 4)

    def text(self, field: int) -> str:
        start = self._target(field)
        (count,) = struct.unpack_from("<I", self.data, start)
        return self.data[start + 4 : start + 4 + count].decode()


@pytest.mark.parametrize("has_labels", [True, False])
def test_fields_stand_where_the_schema_says(has_labels):
    data = image_classifier_metadata(
        name="hybrid-m",
        description="about",
        input_name="input",
        mean=[123.5, 116.25, 103.5],
        std=[58.5, 57.0, 57.5],
        output_names=["logits"],
        has_labels=has_labels,
    )
    assert data[4:8] == b"M001"
    model = Table.root(data)
    assert (model.text(0), model.text(1), model.text(7)) == ("hybrid-m", "about", "1.0.0")
    (graph,) = model.tables(3)
    (source,) = graph.tables(2)
    assert source.text(0) == "input"
    assert source.table(3).byte(0) == 2  # content: image properties
    assert source.table(3).table(1).byte(0) == 1  # colour space: RGB
    (unit,) = source.tables(4)
    assert unit.byte(0) == 1  # normalization options
    assert unit.table(1).floats(0) == (123.5, 116.25, 103.5)
    assert unit.table(1).floats(1) == (58.5, 57.0, 57.5)
    (result,) = graph.tables(3)
    assert result.text(0) == "logits"
    if has_labels:
        (file,) = result.tables(6)
        assert (file.text(0), file.byte(2)) == ("labels.txt", 2)  # tensor axis labels
    else:
        assert result.at(6) is None
