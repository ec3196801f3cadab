"""Stock files and ours of one model, built from the same weights and calibration images."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from stock_attention import AttentionForm
from stock_onnx import build_stock_onnx
from stock_tflite import build_stock_tflite
from torch import nn

import mnv4_deploy.exporters
import mnv4_deploy.models
from mnv4_deploy.exporters.quantize_onnx import quantize_onnx
from mnv4_deploy.exporters.quantize_tflite import quantize_tflite
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.to_onnx import export_onnx
from mnv4_deploy.exporters.to_tflite import export_tflite
from mnv4_deploy.models.images import bundled_calibration, select
from mnv4_deploy.models.mobile_mqa import MultiQueryAttention
from mnv4_deploy.models.weights import ReferenceModel, find_bundle, load_reference

Batches = list[npt.NDArray[np.float32]]
Dtype = Literal["float32", "int8"]
FORMATS = ("tflite", "onnx")
DTYPES: tuple[Dtype, ...] = ("float32", "int8")


@dataclass(frozen=True)
class Pair:
    """Files of one model in one dtype. ``stock`` has the candidates by attention form."""

    model: str
    format: str
    dtype: Dtype
    stock: dict[str, Path]
    ours: Path


def build_our_tflite(
    module: nn.Module,
    fp32_path: Path,
    int8_path: Path,
    *,
    input_shape: tuple[int, int, int],
    calibration: Batches,
) -> None:
    """``average`` is the calibration that comes closest to the stock tool's moving average."""
    rewritten = rewrite(module, "tflite", input_shape[1:])
    export_tflite(rewritten.module, fp32_path, input_shape=input_shape)
    quantize_tflite(fp32_path, int8_path, calibration, recipe=recipe("xnnpack"), method="average")


def build_our_onnx(
    module: nn.Module,
    fp32_path: Path,
    int8_path: Path,
    *,
    input_shape: tuple[int, int, int],
    calibration: Batches,
) -> None:
    rewritten = rewrite(module, "onnx", input_shape[1:])
    export_onnx(rewritten.module, fp32_path, input_shape=input_shape)
    quantize_onnx(fp32_path, int8_path, calibration, method="average")


def build_pairs(
    model: str, format_: str, size: tuple[int, int], images: int, cache: Path
) -> tuple[Pair, ...]:
    """The float32 and the int8 pair; files already in ``cache`` are used as they are."""
    reference = load_reference(model, "bundled" if find_bundle(model) else "random:0", size=size)
    calibration = _calibration(reference, images, nchw=format_ == "onnx")
    has_attention = any(isinstance(m, MultiQueryAttention) for m in reference.module.modules())
    shape = (1, *size)

    def files(label: str, build: Callable[[Path, Path], None], sources: list[Path]) -> list[Path]:
        stem = f"{model}-{size[0]}x{size[1]}-{images}-{label}-{_digest(sources)}"
        paths = [cache / f"{stem}-{dtype}.{format_}" for dtype in DTYPES]
        if not all(path.exists() for path in paths):
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                made = [Path(scratch) / path.name for path in paths]
                build(*made)
                for source, path in zip(made, paths, strict=True):
                    source.rename(path)
        return paths

    here = Path(__file__).parent
    models = _sources(mnv4_deploy.models)
    stock: dict[str, list[Path]] = {}
    if format_ == "tflite":
        forms: tuple[AttentionForm, ...] = ("matmul", "sdpa") if has_attention else ("matmul",)
        for form in forms:
            stock[form] = files(
                f"stock-{form}",
                partial(
                    build_stock_tflite,
                    reference.module,
                    form=form,
                    input_shape=shape,
                    calibration=calibration,
                ),
                [*models, here / "stock_tflite.py", here / "stock_attention.py"],
            )
    else:
        stock["matmul"] = files(
            "stock",
            lambda fp32, int8: build_stock_onnx(
                reference.module, fp32, int8, input_shape=shape, calibration=calibration
            ),
            [*models, here / "stock_onnx.py", here / "stock_attention.py"],
        )
    build_ours = build_our_tflite if format_ == "tflite" else build_our_onnx
    ours = files(
        "ours",
        lambda fp32, int8: build_ours(
            reference.module, fp32, int8, input_shape=shape, calibration=calibration
        ),
        [*models, *_sources(mnv4_deploy.exporters)],
    )
    return tuple(
        Pair(
            model,
            format_,
            dtype,
            {form if has_attention else "": paths[i] for form, paths in stock.items()},
            ours[i],
        )
        for i, dtype in enumerate(DTYPES)
    )


def _calibration(reference: ReferenceModel, images: int, *, nchw: bool) -> Batches:
    chosen = select(bundled_calibration(reference), images)
    batches = chosen.batches(reference.preprocessing, 1)
    return [np.ascontiguousarray(b.transpose(0, 3, 1, 2)) if nchw else b for b in batches]


def _sources(package: object) -> list[Path]:
    (folder,) = package.__path__  # type: ignore[attr-defined]
    return sorted(Path(folder).rglob("*.py"))


def _digest(sources: list[Path]) -> str:
    """A cached file must not outlive the code that made it."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
