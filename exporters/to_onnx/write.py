"""The ONNX files of an export: float32, float16, int8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import nn

from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.ranges import check_method
from mnv4_deploy.exporters.records import Int8Choice
from mnv4_deploy.exporters.to_onnx import quantize
from mnv4_deploy.exporters.to_onnx.convert import cast_onnx_to_fp16, export_onnx


def convert(module: nn.Module, job: FileJob, path: Path) -> None:
    """Write a rewritten ``module`` in float32 to ``path``."""
    bake = (job.spec.mean, job.spec.std) if job.request.bake_preprocess else None
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in job.description("fp32").items()
    }
    export_onnx(
        module,
        path,
        input_shape=job.input_shape,
        dynamic_batch=job.request.dynamic_batch,
        metadata=metadata,
        outputs=job.reference.outputs,
        bake_preprocess=bake,
    )


def write_float(source: Path, path: Path, job: FileJob) -> None:
    """Give ``source``, a file that ``convert`` made, also the name ``path``."""
    del job
    try:
        path.hardlink_to(source)
    except OSError:  # not every file system has links
        shutil.copyfile(source, path)


def write_half(job: FileJob) -> None:
    """Write the float16 file of the float32 one."""
    cast_onnx_to_fp16(job.path("onnx", "fp32"), job.path("onnx", "fp16"))


def write_int8(source: Path, path: Path, job: FileJob, choice: Int8Choice) -> None:
    """Write the int8 form of ``source``, a file that ``convert`` made, to ``path``."""
    batches: Iterable[npt.NDArray[Any]]
    if job.request.bake_preprocess:
        batches = job.calibration_pixels()
    else:
        batches = (batch.transpose(0, 3, 1, 2) for batch in job.calibration_inputs())
    quantize.quantize_onnx(
        source,
        path,
        batches,
        method=check_method(choice.method),
        weights=job.request.targets.weights("onnx"),
        io=job.request.effective_io,
        float_modules=job.float_modules.get("onnx", ()),
        float_layers=choice.float_layers,
        whole_range=job.whole_range,
    )


def float_reasons(job: FileJob, choice: Int8Choice) -> dict[str, str]:
    """Why nodes of the int8 file in place are float, by their names: the quantizer's reasons."""
    return quantize.float_reasons(
        job.path("onnx", "fp32"),
        job.path("onnx", "int8"),
        io=job.request.effective_io,
        float_modules=job.float_modules.get("onnx", ()),
        float_layers=choice.float_layers,
    )
