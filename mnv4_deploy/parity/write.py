"""The files of a parity check: all of them or none."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mnv4_deploy.outputs import staged, write_manifest
from mnv4_deploy.parity.records import Difference, LayerParity, ParityResult
from mnv4_deploy.profiles.records.plain import to_plain
from mnv4_deploy.text import cell_text

SCHEMA_VERSION = 2
MANIFEST = "parity.json"
LAYERS = "parity-layers.csv"
NAMES = (MANIFEST, LAYERS)
_DIFFERENCE = ("elements", "differing", "max_codes", "max_error", "max_relative_error", "sqnr_db")
COLUMNS = (
    *("device", "index", "module", "kind", "compute", "tensor", "shape", "step", "inputs_equal"),
    *("verdict", *_DIFFERENCE),
    *(f"own_{name}" for name in ("verdict", *_DIFFERENCE)),
)


def parity_to_dict(result: ParityResult) -> dict[str, Any]:
    """``result`` as plain JSON; what JSON has no number for (equal tensors' SQNR) is None."""
    plain: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **to_plain(result)}
    for entry, device in zip(plain["devices"], result.devices, strict=True):
        entry["own"] = device.own
    return plain


def write_outputs(result: ParityResult, out: Path, *, overwrite: bool) -> tuple[Path, ...]:
    """Write ``NAMES`` into the folder ``out``.

    Raises OutputError where ``out`` cannot take the files.
    """
    with staged(out, overwrite=overwrite, manifest=MANIFEST) as folder:
        with (folder / LAYERS).open("w", encoding="utf-8", newline="") as stream:
            write_csv(result, stream)
        write_manifest(folder, parity_to_dict(result), name=MANIFEST, indent=1)
    return tuple(out / name for name in NAMES)


def write_csv(result: ParityResult, stream: TextIO) -> None:
    """One row for each device and layer; the columns "own_..." are of equal inputs alone.

    Open files with ``newline=""`` and UTF-8.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for device in result.devices:
        for layer in device.layers:
            row = [device.device, *_cells(layer)]
            writer.writerow([cell_text(c) if isinstance(c, str) else c for c in row])


def _cells(layer: LayerParity) -> Iterator[str | int | float | None]:
    yield from (layer.index, layer.module, layer.kind, layer.compute, layer.tensor)
    yield "x".join(map(str, layer.shape))
    yield from (layer.step, int(layer.inputs_equal))
    for difference in (layer.difference, layer.on_equal_inputs):
        yield from _figures(difference)


def _figures(difference: Difference | None) -> Iterator[str | int | float | None]:
    yield None if difference is None else difference.verdict
    for name in _DIFFERENCE:
        yield None if difference is None else getattr(difference, name)
