"""A runner without models, whose images are small text files that say what they do."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.errors import WeightsError
from mnv4_deploy.images.records import Dataset, DatasetImage, SkippedImage
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.rows import ImageRows


def make_job(folder: Path, *, log: str = "log", milliseconds: float = 0) -> ShardJob:
    """Both subjects are files in ``folder``; shards that run are appended to ``folder/log``."""
    subjects = []
    for name in ("reference", "candidate"):
        path = folder / f"{name}.onnx"
        path.write_text(name)
        subjects.append(
            ModelRef(
                kind="onnx",
                name=name,
                path=str(path),
                notes=(str(folder / log), str(milliseconds)),
                preprocessing=Preprocessing(8, 8),
                preprocessing_from="options",
                labels=(),
                num_classes=5,
                sha256=hashlib.sha256(name.encode()).hexdigest(),
                size_bytes=len(name),
            )
        )
    return ShardJob(CLASSIFICATION, *subjects)


def make_dataset(folder: Path, count: int, special: dict[int, str] | None = None) -> Dataset:
    """``special`` has the content of images that do something else than to be read."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        path = folder / f"{number:05}.txt"
        path.write_text((special or {}).get(number, f"image {number}"))
        images.append(DatasetImage(str(path), path.name, number % 5))
    return Dataset("made", str(folder), tuple(images))


def gates(images: Iterable[int], opened: Path) -> dict[int, str]:
    """For ``special``: whoever comes to one of ``images`` waits there until ``opened`` exists."""
    return dict.fromkeys(images, f"gate {opened}")


def log_of(job: ShardJob) -> str:
    """What the runner is told on the side: where to note what it did, and how slowly to do it."""
    return job.reference.notes[0]


def ran(job: ShardJob) -> list[int]:
    """The shards that were run, in the order they began, from the log."""
    log = Path(log_of(job))
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def pids(job: ShardJob) -> list[int]:
    """The processes that ran them."""
    return pids_in(Path(log_of(job)))


def pids_in(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


class FakeRunner:
    def __init__(self, job: ShardJob) -> None:
        for subject in (job.reference, job.candidate):
            if Path(subject.path).read_text() != subject.name:
                raise WeightsError(f"{subject.path} is not {subject.name}.")
        self.log = Path(log_of(job))
        self.seconds = float(job.reference.notes[1]) / 1000

    def run(self, shard: Shard) -> ShardResult:
        with self.log.open("a") as file:
            file.write(f"{shard.index} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")
        rows, skipped = [], []
        for index, image in enumerate(shard.images, shard.start):
            time.sleep(self.seconds)
            try:
                content = Path(image.path).read_bytes()
            except OSError as error:
                skipped.append(SkippedImage(index, image.name, str(error.strerror)))
                continue
            match content:
                case b"kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case b"abort":
                    os.abort()
                case b"abort once":
                    Path(image.path).write_bytes(b"meanwhile")
                    os.abort()
                case b"deploy error":
                    raise WeightsError("the weights are wrong.")
                case b"memory":
                    raise MemoryError
                case b"bug":
                    raise ZeroDivisionError("a bug")
                case _ if content.startswith((b"wait", b"gate ")):
                    self._wait(content.decode())
                case b"bad":
                    skipped.append(SkippedImage(index, image.name, "it is bad"))
                    continue
            rows.append((index, image.truth, hashlib.sha256(content).digest()))
        return ShardResult(shard.index, _results(rows), tuple(skipped))

    def _wait(self, content: str) -> None:
        """For a second process, or until the file exists that a gate names."""
        opened = Path(content.removeprefix("gate "))
        while not (len(set(pids_in(self.log))) == 2 if content == "wait" else opened.exists()):
            time.sleep(0.02)


def _results(rows: list[tuple[int, int, bytes]]) -> ImageRows:
    hashes = np.array([list(row[2]) for row in rows], np.uint8).reshape(-1, 32)
    numbers = hashes.astype(np.float64)
    return ImageRows(
        index=np.array([row[0] for row in rows], np.int64),
        sha256=hashes,
        columns={
            "label": np.array([row[1] for row in rows], np.int32),
            "reference_top": hashes[:, :5].astype(np.int32),
            "signal": numbers.sum(1),
            "noise": np.sqrt(numbers.sum(1)),
            "cosine": np.cos(numbers[:, 0]),
        },
    )
