"""Drift at ImageNet's scale: memory stays flat, a killed run resumes, a cluster agrees.

    python benchmarks/imagenet_scale.py --images 50000 --model-dir out/hybrid-m --format tflite

Makes seeded JPEG images in a folder a class, then compares an export's fp32 and int8 files on
them

1. in one worker process, with the memory of all processes noted as images are done,
2. in a worker a CPU, killed (kill -9) half-way and given again,
3. on a local Dask cluster of two worker processes, of which one is killed half-way,

and exits with 1 unless all three give the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from mnv4_deploy.drift.model_ref import check_pair, open_model_ref
from mnv4_deploy.drift.records import ShardJob
from mnv4_deploy.drift.run import run_images
from mnv4_deploy.images.dataset import make_dataset
from mnv4_deploy.progress import Progress
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

_TENTHS = 10
console = Console(width=100)


@dataclass(frozen=True)
class Sample:
    """Memory of the command and of its worker processes when ``images`` were done."""

    images: int
    parent_mb: float
    workers_mb: float


@dataclass(frozen=True)
class Finished:
    """What a run reported, and what was seen of it from outside."""

    facts: dict[str, Any]
    samples: tuple[Sample, ...] = ()


def main() -> None:
    options = _options()
    if options.result:
        _run(options)
        return
    with tempfile.TemporaryDirectory(prefix="imagenet-scale-") as scratch:
        folder = Path(scratch)
        photos = Path(options.data) if options.data else folder / "images"
        started = time.perf_counter()
        make_images(photos, options)
        console.print(f"{options.images} images in {time.perf_counter() - started:.0f} s")
        alone = _watched(_command(options, photos, folder / "alone", workers=1), options.images)
        show_memory(alone.samples)
        resumed = _killed_and_resumed(options, photos, folder / "resumed")
        clustered = _on_cluster(options, photos, folder / "cluster")
    runs = {"1 process": alone, "all CPUs, resumed": resumed, "cluster": clustered}
    show(runs)
    if len({run.facts["sha256"] for run in runs.values()}) > 1:
        sys.exit("The runs do not agree.")
    if not resumed.facts["resumed"]:
        sys.exit("The killed run was not resumed: did mnv4-deploy change meanwhile?")


def make_images(folder: Path, options: argparse.Namespace) -> None:
    """Smooth random pictures, so that JPEG has something to do; image N is always the same."""
    subject = _subject(options, "fp32")
    names = subject.labels or tuple(f"{c:04}" for c in range(subject.num_classes))
    names = tuple(name.split(",")[0].replace("/", "-") for name in names)
    width, height = map(int, options.size.split("x"))
    for name in names[: options.images]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(options.images):
        path = folder / names[number % len(names)] / f"{number:06}.jpg"
        if path.exists():
            continue
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def _subject(options: argparse.Namespace, precision: str) -> ModelRef:
    (path,) = options.model_dir.glob(f"*-{precision}.{options.format}")
    return open_model_ref(str(path))


def _run(options: argparse.Namespace) -> None:
    """One comparison, in a process of its own: this is what is killed."""
    reference, candidate = (_subject(options, precision) for precision in ("fp32", "int8"))
    check_pair(reference, candidate)
    run = run_images(
        ShardJob(CLASSIFICATION, reference, candidate),
        make_dataset(CLASSIFICATION.find_images(options.data, "evaluation", reference)),
        workers=options.workers,
        cluster=options.cluster,
        store=Path(options.store),
        progress=Progress(),
    )
    digest = hashlib.sha256()
    for array in (run.rows.index, run.rows.sha256, *run.rows.columns.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    facts = {
        "images": len(run.rows),
        "skipped": len(run.skipped),
        "resumed": run.resumed_images,
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "workers": run.workers,
        "sha256": digest.hexdigest(),
    }
    Path(options.result).write_text(json.dumps(facts))


def _command(
    options: argparse.Namespace, photos: Path, place: Path, *, workers: int = 0, cluster: str = ""
) -> list[str]:
    place.mkdir(exist_ok=True)
    command = [sys.executable, str(Path(__file__)), "--data", str(photos)]
    command += ["--model-dir", str(options.model_dir), "--format", options.format]
    command += ["--store", str(place / "store"), "--result", str(place / "result.json")]
    command += ["--workers", str(workers)] if workers else []
    return command + (["--cluster", cluster] if cluster else [])


def _watched(
    command: list[str],
    images: int,
    at_half: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Finished:
    """Run it to its end; ``at_half`` is called with it when half of its shards are on disk."""
    place = Path(command[command.index("--result") + 1]).parent
    (place / "result.json").unlink(missing_ok=True)
    samples: list[Sample] = []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(0.05)
            done = _images_done(place / "store", images)
            if done * _TENTHS // images > len(samples):
                with contextlib.suppress(psutil.Error):
                    samples.append(_sample(process.pid, done))
            if at_half and done * 2 >= images:
                at_half(process)
                console.print(f"killed with {done} of {images} images done")
                at_half = None
    result = place / "result.json"
    return Finished(json.loads(result.read_text()) if result.exists() else {}, tuple(samples))


def _images_done(store: Path, images: int) -> int:
    from mnv4_deploy.drift.shards import shard_size

    return min(images, len(list(store.glob("*/*.npz"))) * shard_size(images))


def _sample(pid: int, images: int) -> Sample:
    parent = psutil.Process(pid)
    workers = sum(child.memory_info().rss for child in parent.children(recursive=True))
    return Sample(images, parent.memory_info().rss / 1e6, workers / 1e6)


def _killed_and_resumed(options: argparse.Namespace, photos: Path, place: Path) -> Finished:
    command = _command(options, photos, place)
    killed = _watched(command, options.images, lambda process: process.send_signal(signal.SIGKILL))
    if killed.facts:
        sys.exit("The run ended before it could be killed: give more --images.")
    return _watched(command, options.images)


def _on_cluster(options: argparse.Namespace, photos: Path, place: Path) -> Finished:
    with _cluster(place) as (address, workers):
        command = _command(options, photos, place, cluster=address)
        return _watched(command, options.images, lambda _process: workers[0].kill())


@contextlib.contextmanager
def _cluster(place: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    place.mkdir(exist_ok=True)
    file = place / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*dask, *arguments, *local], stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("scheduler", "--port", "0", "--scheduler-file", str(file))
        while not file.exists():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
        own = ["--no-nanny", "--nthreads", threads, "--local-directory", str(place)]
        yield address, [start("worker", address, *own) for _ in range(2)]


def show_memory(samples: tuple[Sample, ...]) -> None:
    table = Table(title="Memory of one command with one worker process")
    for column in ("images done", "command, MB", "worker, MB"):
        table.add_column(column, justify="right")
    for sample in samples:
        table.add_row(str(sample.images), f"{sample.parent_mb:.0f}", f"{sample.workers_mb:.0f}")
    console.print(table)


def show(runs: dict[str, Finished]) -> None:
    table = Table(title="The same images, three ways")
    table.add_column("run", no_wrap=True)
    for column in ("images", "resumed", "workers", "s", "images/s"):
        table.add_column(column, justify="right")
    table.add_column("sha256", no_wrap=True)
    for name, run in runs.items():
        facts = run.facts
        counts = [str(facts[key]) for key in ("images", "resumed", "workers")]
        rates = [f"{facts['seconds']:.1f}", f"{facts['images_per_second']:.1f}"]
        table.add_row(name, *counts, *rates, facts["sha256"][:12])
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", default="160x120", help="WIDTHxHEIGHT of the images")
    parser.add_argument("--model-dir", type=Path, required=True, help="what export wrote")
    parser.add_argument("--format", choices=("onnx", "tflite"), default="onnx")
    parser.add_argument("--data", default="", help="keep the images in this folder")
    # What follows is for the processes that this one starts.
    parser.add_argument("--result", default="", help=argparse.SUPPRESS)
    parser.add_argument("--store", default="", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cluster", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
