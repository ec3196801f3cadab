"""The files of one model in one format, and what is known of them without timing.

Runs in a child process of its own, whose memory goes back to the system. What is found is kept
beside the files, under a name that changes with the code that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from build_pairs import DTYPES, Dtype, Maker, Subject, digest, make, makers, reference_of

from mnv4_deploy.exporters import expected_outputs, verify
from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.images.sets import select
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.measure.rounds import time_files
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.sessions.outputs import Outputs, paired
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.rows import output_columns, output_figures

_REASON_LENGTH = 160
_INSPECTION_S = 600.0


@dataclass(frozen=True)
class FileRecord:
    """One file, or ``failure`` in one line where there is none.

    ``outside`` counts the operators that XNNPACK left alone by kind, None for ONNX. float32
    files have the worst relative ``error`` over the images, ``against`` "PyTorch" or, where its
    float32 is off itself, "PyTorch in float64"; ``close`` says whether it is within the tolerance.
    int8 files have the median SQNR against the float32 file of the same side. ``run_s`` is a
    rough time of one run, to plan with.
    """

    dtype: Dtype
    path: str = ""
    failure: str = ""
    partitions: int | None = None
    outside: dict[str, int] | None = None
    error: float | None = None
    against: str = ""
    close: bool | None = None
    sqnr_db: float | None = None
    run_s: float = 0.0


@dataclass(frozen=True)
class SideRecord:
    """Stock in one form of the attention, or ours (``label``)."""

    label: str
    form: str
    files: dict[Dtype, FileRecord]


def kept(maker: Maker, subject: Subject, cache: Path) -> SideRecord | None:
    """What an earlier run found, if its files are still there."""
    path = _record_path(maker, subject, cache)
    if not path.exists():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    files = {dtype: FileRecord(**raw["files"][dtype]) for dtype in DTYPES}
    if any(file.path and not Path(file.path).exists() for file in files.values()):
        return None
    return SideRecord(raw["label"], raw["form"], files)


def build_sides(labels: Sequence[str], subject: Subject, cache: Path) -> None:
    """Make, run and inspect the files of some sides, and keep what is found of each."""
    import torch

    torch.set_num_threads(1)  # other models are built on the other cores
    for maker in makers(subject.model, subject.format):
        if maker.label in labels:
            keep(maker, subject, cache, _built(maker, subject, cache))


def failed(maker: Maker, reason: str) -> SideRecord:
    """A side without files."""
    files = {dtype: FileRecord(dtype, failure=reason) for dtype in DTYPES}
    return SideRecord(maker.label, maker.form, files)


def keep(maker: Maker, subject: Subject, cache: Path, record: SideRecord) -> None:
    path = _record_path(maker, subject, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    unfinished.replace(path)


def _built(maker: Maker, subject: Subject, cache: Path) -> SideRecord:
    made = make(maker, subject, cache)
    files: dict[Dtype, FileRecord] = {}
    fp32: Outputs | None = None
    for dtype in DTYPES:
        if dtype in made.failures:
            files[dtype] = FileRecord(dtype, failure=one_line(made.failures[dtype]))
            continue
        try:
            files[dtype], outputs = _examined(dtype, made.paths[dtype], subject, fp32)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            files[dtype] = FileRecord(dtype, failure=f"does not run: {one_line(error)}")
            continue
        if dtype == "float32":
            fp32 = outputs
    return SideRecord(maker.label, maker.form, files)


def one_line(error: Exception) -> str:
    """The kind of an error and the beginning of its message."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}…"


def _record_path(maker: Maker, subject: Subject, cache: Path) -> Path:
    sources = (__file__, verify.__file__, expected_outputs.__file__)
    code = digest(tuple(map(Path, sources)))
    return cache / f"{maker.stem(subject)}-{code}.json"


def _examined(
    dtype: Dtype, path: Path, subject: Subject, fp32: Outputs | None
) -> tuple[FileRecord, Outputs]:
    runner = open_image_runner(path, reference_of(subject).preprocessing)
    outputs: Outputs = runner.outputs(_images(subject))
    # As it will be timed: a file that makes the runtime crash must do so here.
    (times,) = time_files([path], rounds=1, warmup=1)
    facts = inspect_file(path, timeout_s=_INSPECTION_S)
    outside: dict[str, int] | None = None
    if subject.format == "tflite":
        outside = {}
        for operator in facts.not_delegated:
            outside[operator.kind] = outside.get(operator.kind, 0) + 1
    deviation = None
    if dtype == "float32":
        deviation = _expected(subject).compare(path.name, outputs, "float32")
    sqnr_db = None
    if dtype == "int8" and fp32 is not None:
        with np.errstate(all="ignore"):  # garbage is a result as well
            columns = output_columns(fp32, paired(fp32, outputs))
            sqnr_db = output_figures(columns).median_sqnr_db
    record = FileRecord(
        dtype=dtype,
        path=str(path),
        partitions=facts.partitions,
        outside=outside,
        error=deviation.max_relative_error if deviation else None,
        against=deviation.against if deviation else "",
        close=deviation.ok if deviation else None,
        sqnr_db=sqnr_db,
        run_s=times.median_us / 1e6,
    )
    return record, outputs


@lru_cache(maxsize=1)
def _images(subject: Subject) -> Pixels:
    """The images that files are compared on: as many as calibrate them, and none of those."""
    reference = reference_of(subject)
    found = CLASSIFICATION.find_images("bundled", "evaluation", reference)
    return select(found, subject.images).pixels(reference.preprocessing)


@lru_cache(maxsize=1)
def _expected(subject: Subject) -> ExpectedOutputs:
    reference = reference_of(subject)
    return ExpectedOutputs(reference.module, _images(subject), reference.preprocessing)
