"""What happens to files: changes of bytes, and of what the format checks as a whole."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
_SNIPPETS = (b"\0", b"\n", b"\x1b[31m", b"\xff\xfe", b"[/]", b'"', b"{", b"-1", b"1e999", b"NaN")


def damaged(path: Path, content: bytes, generator: random.Random) -> bytes:
    """Half of the time within what the format checks as a whole: fields, members, values."""
    inner = {
        ".onnx": _onnx_damaged,
        ".pt": _zip_damaged,
        ".npz": _zip_damaged,
        ".json": _json_damaged,
    }
    change = inner.get(path.suffix, mutated)
    if generator.random() < 0.5 or not content.startswith((b"PK", b"{", b"\x08")):
        change = mutated
    return change(content, generator)


def _zip_damaged(content: bytes, generator: random.Random) -> bytes:
    """One member is damaged, with sums that fit."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        chosen = generator.choice(old.namelist())
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, mutated(data, generator) if info.filename == chosen else data)
    return stream.getvalue()


def _json_damaged(content: bytes, generator: random.Random) -> bytes:
    """Some value becomes one of another type."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                collect(value[key])

    collect(document)
    where, key = generator.choice(places)
    odd: tuple[Any, ...] = (None, -1, 0, 1 << 70, float("nan"), float("inf"), "", "\ud800", [], {})
    where[key] = generator.choice((*odd, "\x1b[31m", [[]], "x" * 5000))
    return json.dumps(document).encode()


def _onnx_damaged(content: bytes, generator: random.Random) -> bytes:
    """One to three fields get another value, or go, wherever in the model they are."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(generator.choice((1, 1, 2, 3))):
        message = generator.choice(list(_messages(model)))
        fields = [field for field, _ in message.ListFields()]
        if fields:
            _change(message, generator.choice(fields), generator)
    changed: bytes = model.SerializeToString()
    return changed


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(part)


def _change(message: Any, field: Any, generator: random.Random) -> None:
    value = getattr(message, field.name)
    repeated = hasattr(value, "extend")
    if generator.random() < 0.2 or (field.message_type is not None and not repeated):
        message.ClearField(field.name)
        return
    at = generator.randrange(len(value)) if repeated else 0
    if field.message_type is not None:
        if generator.random() < 0.5:
            del value[at]
        else:
            value.add().CopyFrom(value[at])
        return
    old = value[at] if repeated else value
    if isinstance(old, bytes):
        new: Any = mutated(old, generator)
    elif isinstance(old, str):
        new = generator.choice(
            ("", "x", "image", "logits", f"{old}\x1b[2J", old[:-1], "Conv", "If")
        )
    elif isinstance(old, float):
        new = generator.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    else:
        wide = (1 << 40, -(1 << 62), (1 << 63) - 1) if field.type == field.TYPE_INT64 else ()
        new = generator.choice((0, 1, -1, 2, 7, 99, 1 << 20, (1 << 31) - 1, *wide))
    try:
        if repeated:
            value[at] = new
        else:
            setattr(message, field.name, new)
    except (ValueError, TypeError):  # an enumeration that has no such number
        message.ClearField(field.name)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """``content`` with one to four changes: of bits, numbers, lengths, order, or its end."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.randrange(len(data) + 1) if data else 0
        match generator.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << generator.randrange(8)
            case 2 if data:
                data[at % len(data)] = generator.randrange(256)
            case 3:
                width = generator.choice((1, 2, 4, 8))
                number = generator.choice(_NUMBERS) & ((1 << 8 * width) - 1)
                data[at : at + width] = number.to_bytes(width, "little")
            case 4:
                del data[at : at + generator.choice((1, 2, 8, 64))]
            case 5:
                data[at:at] = data[at : at + generator.choice((1, 8, 64))]
            case 6:
                data[at:at] = generator.choice(_SNIPPETS)
            case 7 if generator.random() < 0.3:
                del data[at:]
            case _:
                other = generator.randrange(len(data) + 1)
                data[at : at + 4] = data[other : other + 4]
    return bytes(data)
