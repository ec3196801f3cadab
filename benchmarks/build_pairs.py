"""Stock files and ours of one model, built from the same weights and calibration images."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from stock_attention import AttentionForm, attention_forms
from stock_onnx import export_stock_onnx, quantize_stock_onnx
from stock_tflite import export_stock_tflite, quantize_stock_tflite
from torch import nn

import mnv4_deploy.exporters
import mnv4_deploy.models
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.chains import Rewritten, rewrite
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import select
from mnv4_deploy.models.meta import built
from mnv4_deploy.models.weights import ReferenceModel, find_bundle, load_reference
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

Batches = list[npt.NDArray[np.float32]]
Dtype = Literal["float32", "int8"]
Shape = tuple[int, int, int]
Quantize = Callable[[Path, Batches], None]
FORMATS = ("tflite", "onnx")
DTYPES: tuple[Dtype, ...] = ("float32", "int8")


@dataclass(frozen=True)
class Subject:
    """A model with weights at one size (height, width), in one format.

    ``images`` calibrate its int8 files.
    """

    model: str
    weights: str
    size: tuple[int, int]
    images: int
    format: str


@dataclass(frozen=True)
class Maker:
    """One way to make the files of a subject.

    ``export`` writes the float32 file and returns what makes an int8 file of it. ``form`` is how
    the attention is written, "" where there is but one way; ``sources`` are the code at work.
    """

    label: str
    form: str
    export: Callable[[nn.Module, Path, Shape], Quantize]
    sources: tuple[Path, ...]

    def stem(self, subject: Subject) -> str:
        """The beginning of the names of all files that this makes of ``subject``."""
        size = f"{subject.size[0]}x{subject.size[1]}"
        weights = subject.weights.replace(":", "")
        made = f"{subject.model}-{weights}-{size}-{subject.images}-{subject.format}"
        return f"{made}-{self.label}-{digest(self.sources)}"


@dataclass(frozen=True)
class Made:
    """``failures`` has the error for each file that is not in ``paths``."""

    paths: dict[Dtype, Path]
    failures: dict[Dtype, Exception]


@dataclass(frozen=True)
class Pair:
    """Files of one model in one dtype. ``stock`` has the candidates by attention form."""

    model: str
    format: str
    dtype: Dtype
    stock: dict[str, Path]
    ours: Path


def makers(model: str, format_: str) -> tuple[Maker, ...]:
    """Stock's, one for each usual form of the attention that counts, and ours, the last."""
    here = Path(__file__).parent
    models = _sources(mnv4_deploy.models)
    stock_code = (*models, here / f"stock_{format_}.py", here / "stock_attention.py")
    forms = attention_forms(built(model, 1000))
    if format_ == "onnx":
        stock = [Maker("stock", forms[0] if forms else "", _stock_onnx, stock_code)]
    else:
        stock = [
            Maker(f"stock-{form}", form if forms else "", partial(_stock_tflite, form), stock_code)
            for form in forms or ("matmul",)
        ]
    export = _our_tflite if format_ == "tflite" else _our_onnx
    return *stock, Maker("ours", "", export, (*models, *_sources(mnv4_deploy.exporters)))


def _stock_tflite(form: AttentionForm, module: nn.Module, path: Path, shape: Shape) -> Quantize:
    export_stock_tflite(module, path, form=form, input_shape=shape)
    return partial(quantize_stock_tflite, path)


def _stock_onnx(module: nn.Module, path: Path, shape: Shape) -> Quantize:
    export_stock_onnx(module, path, input_shape=shape)
    return partial(quantize_stock_onnx, path)


def _our_tflite(module: nn.Module, path: Path, shape: Shape) -> Quantize:
    """``average`` is the calibration that comes closest to the stock tool's moving average."""
    rewritten = _rewritten(module, "tflite", shape)
    export_tflite(rewritten.module.float(), path, input_shape=shape)
    return lambda int8_path, calibration: quantize_tflite(
        path,
        int8_path,
        calibration,
        recipe=recipe("xnnpack"),
        method="average",
        float_modules=rewritten.float_modules,
    )


def _our_onnx(module: nn.Module, path: Path, shape: Shape) -> Quantize:
    rewritten = _rewritten(module, "onnx", shape)
    export_onnx(rewritten.module.float(), path, input_shape=shape)

    def quantize(int8_path: Path, calibration: Batches) -> None:
        quantize_onnx(
            path,
            int8_path,
            calibration,
            method="average",
            float_modules=rewritten.float_modules,
        )

    return quantize


def _rewritten(module: nn.Module, format_: str, shape: Shape) -> Rewritten:
    """In float64, as an export does it."""
    return rewrite(copy.deepcopy(module).double(), format_, shape[1:])


def make(maker: Maker, subject: Subject, cache: Path) -> Made:
    """Both files of ``subject``; those in ``cache`` already are used as they are."""
    stem = maker.stem(subject)
    paths: dict[Dtype, Path] = {d: cache / f"{stem}-{d}.{subject.format}" for d in DTYPES}
    if all(path.exists() for path in paths.values()):
        return Made(paths, {})
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = {dtype: Path(scratch) / path.name for dtype, path in paths.items()}
        failures = _try_to_make(maker, subject, made)
        for dtype in failures:
            del paths[dtype]
        for dtype, path in paths.items():
            made[dtype].rename(path)
    return Made(paths, failures)


def _try_to_make(
    maker: Maker, subject: Subject, made: dict[Dtype, Path]
) -> dict[Dtype, Exception]:
    """What a converter or quantizer cannot do is a result; a full disk or memory is not."""
    reference = reference_of(subject)
    try:
        quantize = maker.export(reference.module, made["float32"], (1, *subject.size))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        return {"float32": error, "int8": error}
    try:
        quantize(made["int8"], _calibration(reference, subject))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        return {"int8": error}
    return {}


@lru_cache(maxsize=1)
def reference_of(subject: Subject) -> ReferenceModel:
    return load_reference(subject.model, subject.weights, size=subject.size)


def build_pairs(
    model: str, format_: str, size: tuple[int, int], images: int, cache: Path
) -> tuple[Pair, ...]:
    """The float32 and the int8 pair; files already in ``cache`` are used as they are."""
    weights = "bundled" if find_bundle(model) else "random:0"
    subject = Subject(model, weights, size, images, format_)
    made = [(maker, make(maker, subject, cache)) for maker in makers(model, format_)]
    for _, files in made:
        for error in files.failures.values():
            raise error
    *stock, (_, ours) = made
    return tuple(
        Pair(
            model,
            format_,
            dtype,
            {maker.form: files.paths[dtype] for maker, files in stock},
            ours.paths[dtype],
        )
        for dtype in DTYPES
    )


def _calibration(reference: ReferenceModel, subject: Subject) -> Batches:
    found = CLASSIFICATION.find_images("bundled", "calibration", reference)
    spec = reference.preprocessing
    batches = [
        normalize(image[None], spec) for image in select(found, subject.images).pixels(spec)
    ]
    if subject.format == "tflite":
        return batches
    return [np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) for batch in batches]


def _sources(package: object) -> tuple[Path, ...]:
    (folder,) = package.__path__  # type: ignore[attr-defined]
    return tuple(sorted(Path(folder).rglob("*.py")))


@lru_cache
def digest(sources: tuple[Path, ...]) -> str:
    """A cached file must not outlive the code that made it."""
    found = hashlib.sha256()
    for path in sources:
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
