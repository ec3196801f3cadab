"""The ONNX files of an export: float32, float16, int8."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
from torch import nn

from mnv4_deploy.exporters import quantize_onnx, to_onnx
from mnv4_deploy.exporters.file_job import FileJob
from mnv4_deploy.exporters.ranges import check_method


def write_float(module: nn.Module, job: FileJob) -> None:
    """Write the float32 file of a rewritten ``module`` and, if asked for, the float16 one."""
    bake = (job.spec.mean, job.spec.std) if job.request.bake_preprocess else None
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in job.description("fp32").items()
    }
    to_onnx.export_onnx(
        module,
        job.path("onnx", "fp32"),
        input_shape=job.input_shape,
        dynamic_batch=job.request.dynamic_batch,
        metadata=metadata,
        bake_preprocess=bake,
    )
    if job.request.fp16:
        to_onnx.cast_onnx_to_fp16(job.path("onnx", "fp32"), job.path("onnx", "fp16"))


def write_int8(job: FileJob) -> None:
    """Write the int8 file of the float32 one."""
    batches: Iterable[npt.NDArray[Any]]
    if job.request.bake_preprocess:
        batches = job.calibration_pixels()
    else:
        batches = (batch.transpose(0, 3, 1, 2) for batch in job.calibration_inputs())
    quantize_onnx.quantize_onnx(
        job.path("onnx", "fp32"),
        job.path("onnx", "int8"),
        batches,
        method=check_method(job.request.calibration_method),
        io=job.request.effective_io,
    )
