"""The cells of the accuracy table: files are built, run and timed, and what came of it is kept.

Everything of a network is below one folder whose name has the numbers of images; what is there
is not made again. Delete the folder after a change of the code.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stock_onnx import build_stock_onnx
from stock_tflite import build_stock_tflite

from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.images import sets as images
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models import weights
from mnv4_deploy.models.weights import ReferenceModel, load_reference
from mnv4_deploy.pipelines import export as pipeline
from mnv4_deploy.profiles.measure.rounds import time_files
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

# Options of quantize_static. Without any, activations are int8 and weights per tensor; uint8
# activations run faster, but saturate on x86 processors without VNNI. None stands for those.
_STOCK_ONNX: dict[str, dict[str, Any] | None] = {
    "stock, defaults": {},
    "stock, per channel": {"per_channel": True},
    "stock, per channel uint8": None,
}
STOCK: dict[Format, tuple[str, ...]] = {"tflite": ("stock",), "onnx": tuple(_STOCK_ONNX)}
OURS = ("ours", "ours, max drop")
FLOAT = "fp32"


@dataclass(frozen=True)
class Cell:
    """One file. ``top1`` and ``agreement`` (with float32 of the format) are percentages.

    ``exact_top1`` is that with exact sums, where a processor may saturate them (int8 .onnx);
    ``trial`` is what the budget chose, "" for the others.
    """

    top1: float
    agreement: float
    exact_top1: float
    size_bytes: int
    trial: str = ""


@dataclass(frozen=True)
class Times:
    """Of one file: median, and by stock file the median over rounds of the ratio to it."""

    median_us: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Network:
    """A trained network, its images, and the folder that keeps what is made of it.

    ``photographs`` is a folder with ``labels.csv`` (columns ``file`` and ``imagenet_index``),
    None for the bundled images.
    """

    model: str
    weights: str
    photographs: Path | None
    calibration_images: int
    evaluation_images: int
    seed: int
    max_drop: float
    out: Path

    @cached_property
    def folder(self) -> Path:
        counts = f"{self.evaluation_images}-{self.calibration_images}"
        folder = self.out / f"{self.model}-{counts}-seed{self.seed}-drop{self.max_drop:g}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def reference(self) -> ReferenceModel:
        return _load_uncropped(self.model, self.weights)

    @cached_property
    def sources(self) -> tuple[str, str]:
        """``--calib`` and ``--eval``."""
        if self.photographs is None:
            return "bundled", "bundled"
        return tuple(  # type: ignore[return-value]
            str(self._linked(part, rows)) for part, rows in self._split().items()
        )

    def _split(self) -> dict[str, list[dict[str, str]]]:
        assert self.photographs is not None
        with (self.photographs / "labels.csv").open(encoding="utf-8", newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
        random.Random(self.seed).shuffle(rows)
        ends = self.calibration_images, self.calibration_images + self.evaluation_images
        if len(rows) < ends[1]:
            raise SystemExit(f"{self.photographs} has {len(rows)} images, {ends[1]} are needed.")
        return {"calibration": rows[: ends[0]], "evaluation": rows[slice(*ends)]}

    def _linked(self, part: str, rows: Sequence[dict[str, str]]) -> Path:
        """A folder with a subfolder for each class, which is what an export takes."""
        assert self.photographs is not None
        for row in rows:
            wordnet_id = weights.read_labels(1000)[int(row["imagenet_index"])][0]
            link = self.folder / part / wordnet_id / Path(row["file"]).name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((self.photographs / row["file"]).resolve())
        return self.folder / part

    def calibration(self, format_: Format) -> Iterator[npt.NDArray[np.float32]]:
        """The images that an export selects, in its order."""
        spec, source = self.reference.preprocessing, self.sources[0]
        found = CLASSIFICATION.find_images(source, "calibration", self.reference)
        for image in images.select(found, self.calibration_images).pixels(spec):
            batch = normalize(image[None], spec)
            yield np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if format_ == "onnx" else batch

    @cached_property
    def evaluation(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Pixels ``[N, H, W, 3]`` and classes ``[N]``."""
        source = self.sources[1]
        found = CLASSIFICATION.find_images(source, "evaluation", self.reference)
        chosen = images.select(found, self.evaluation_images)
        pixels = chosen.pixels(self.reference.preprocessing)
        return pixels, np.array(chosen.truth, np.int64)

    # Files

    def file(self, format_: Format, variant: str) -> tuple[Path, str]:
        """The file of a variant, built if it is not there, and the budget's choice."""
        folder = self.folder / f"{format_}, {variant}"
        if variant in STOCK[format_]:
            return self._stock(folder, format_, variant), ""
        if variant == FLOAT:
            return self._ours(self.folder / f"{format_}, ours", format_, None)[0], ""
        limit = self.max_drop if variant == OURS[1] else None
        path, trial = self._ours(folder, format_, limit)
        return path.with_name(path.name.replace("-fp32.", "-int8.")), trial

    def _stock(self, folder: Path, format_: Format, variant: str) -> Path:
        path = folder / f"int8.{format_}"
        if path.exists():
            return path
        folder.mkdir(exist_ok=True)
        spec, part = self.reference.preprocessing, path.with_suffix(".part")
        shape = (1, spec.height, spec.width)
        floats = folder / f"fp32.{format_}"
        calibration = list(self.calibration(format_))
        module = self.reference.module
        if format_ == "tflite":
            build_stock_tflite(
                module, floats, part, form="matmul", input_shape=shape, calibration=calibration
            )
        else:
            build_stock_onnx(
                module,
                floats,
                part,
                input_shape=shape,
                calibration=calibration,
                options=_STOCK_ONNX[variant],
            )
        return part.rename(path)

    def _ours(self, folder: Path, format_: Format, max_drop: float | None) -> tuple[Path, str]:
        """The float32 file of an export, which publishes all of its files or none."""
        calibration, evaluation = self.sources
        request = ExportRequest(
            model=self.model,
            out=folder,
            weights=self.weights,
            formats=(format_,),
            int8=True,
            io="int8" if format_ == "tflite" else None,  # as stock files have it
            calibration=calibration,
            calibration_images=self.calibration_images,
            evaluation=evaluation,
            evaluation_images=self.evaluation_images,
            crop_pct=1.0,  # the photographs are square crops already
            max_drop=max_drop,
        )
        kept = folder / "trial.txt"
        if not kept.exists():
            result = pipeline.export(replace(request, overwrite=folder.exists()))
            chosen = [search.chosen.name for search in result.searches]
            kept.write_text("".join(chosen), encoding="utf-8")
        return folder / request.file_name(format_, "fp32"), kept.read_text(encoding="utf-8")

    # Measurements

    def cell(self, format_: Format, variant: str) -> Cell:
        kept = self.folder / f"{format_}, {variant}.json"
        if kept.exists():
            return Cell(**json.loads(kept.read_text(encoding="utf-8")))
        path, trial = self.file(format_, variant)
        truth = self.evaluation[1]
        predicted = self._predicted(path)
        exactly = self._predicted(path, exact=True) if format_ == "onnx" else predicted
        expected = self._predicted(self.file(format_, FLOAT)[0])
        cell = Cell(
            top1=100 * float(np.mean(predicted == truth)),
            agreement=100 * float(np.mean(predicted == expected)),
            exact_top1=100 * float(np.mean(exactly == truth)),
            size_bytes=path.stat().st_size,
            trial=trial,
        )
        kept.write_text(json.dumps(asdict(cell)), encoding="utf-8")
        return cell

    def _predicted(self, path: Path, *, exact: bool = False) -> npt.NDArray[np.int64]:
        kept = path.with_suffix(f"{'.exact' if exact else ''}.classes.npy")
        if not kept.exists():
            runner = open_image_runner(path, self.reference.preprocessing, fused=not exact)
            (outputs,) = runner.outputs(self.evaluation[0]).values()
            np.save(kept, outputs.argmax(1))
        classes: npt.NDArray[np.int64] = np.load(kept)
        return classes

    def times(self, format_: Format, rounds: int) -> dict[str, Times]:
        """All int8 files of a format, one core, in turns."""
        variants = (*STOCK[format_], *OURS)
        kept = self.folder / f"{format_}, times.json"
        if not kept.exists():
            found = time_files([self.file(format_, v)[0] for v in variants], rounds=rounds)
            stock = found[: len(STOCK[format_])]
            rows = [
                asdict(Times(times.median_us, tuple(times.ratio_to(s) for s in stock)))
                for times in found
            ]
            kept.write_text(json.dumps(dict(zip(variants, rows, strict=True))), encoding="utf-8")
        rows_by_variant = json.loads(kept.read_text(encoding="utf-8"))
        return {v: Times(r["median_us"], tuple(r["ratios"])) for v, r in rows_by_variant.items()}


def _load_uncropped(*args: Any, **options: Any) -> ReferenceModel:
    """The photographs are square crops already: the model sees the whole image."""
    reference = load_reference(*args, **options)
    return replace(reference, preprocessing=replace(reference.preprocessing, crop_pct=1.0))
