"""The TFLite files of an export: float32, float16, int8.

The converter's own file stays in the staging folder until all are made of it: it takes floats,
0..1 where preprocessing is baked in, and has neither metadata nor labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from mnv4_deploy.exporters import quantize_tflite, tflite_io, tflite_metadata, to_tflite
from mnv4_deploy.exporters.file_job import FileJob
from mnv4_deploy.exporters.ranges import check_method
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.bake_preprocess import BakedPreprocess
from mnv4_deploy.exporters.tflite_flatbuffer import TfliteFile


def write_float(module: nn.Module, job: FileJob) -> None:
    """Write the float32 file of a rewritten ``module`` and, if asked for, the float16 one."""
    if job.request.bake_preprocess:
        module = BakedPreprocess(module, job.spec)
    raw = _raw(job)
    to_tflite.export_tflite(module, raw, input_shape=job.input_shape)
    _finish(raw, job, "fp32")
    if job.request.fp16:
        half = raw.with_suffix(".fp16")
        quantize_tflite.cast_tflite_to_fp16(raw, half)
        _finish(half, job, "fp16")
        half.unlink()
    if not job.request.int8:
        raw.unlink()


def write_int8(job: FileJob) -> None:
    """Write the int8 file of what ``write_float`` converted."""
    baked = job.request.bake_preprocess
    raw = _raw(job)
    quantized = raw.with_suffix(".int8")
    quantize_tflite.quantize_tflite(
        raw,
        quantized,
        (np.float32(1 / 255) * batch for batch in job.calibration_pixels())
        if baked
        else job.calibration_inputs(),
        recipe=recipe(job.request.target),
        method=check_method(job.request.calibration_method),
        input_range=(0.0, 1.0) if baked else None,
    )
    _finish(quantized, job, "int8")
    quantized.unlink()
    raw.unlink()


def _raw(job: FileJob) -> Path:
    return job.folder / ".raw.tflite"


def _finish(source: Path, job: FileJob, precision: str) -> None:
    """Input and output types, metadata and labels."""
    path = job.path("tflite", precision)
    file = TfliteFile(source)
    if precision == "int8":
        target = recipe(job.request.target).target
        io = job.request.effective_io
        tflite_io.set_input(file, "uint8" if job.request.bake_preprocess else io, target)
        tflite_io.set_outputs(file, io, target)
    elif job.request.bake_preprocess:
        tflite_io.pixels_in(file)
    tflite_metadata.describe(file, job.description(precision))
    # A file that normalises by itself takes pixels as they are.
    baked = job.request.bake_preprocess
    metadata = tflite_metadata.image_classifier_metadata(
        name=job.request.model,
        description=job.reference.source.note,
        input_name=file.name(int(file.graph.inputs[0])),
        mean=[0.0 if baked else 255 * mean for mean in job.spec.mean],
        std=[1.0 if baked else 255 * std for std in job.spec.std],
        output_names=[file.name(int(tensor)) for tensor in file.graph.outputs],
        has_labels=bool(job.reference.labels),
    )
    tflite_metadata.add_metadata(file, tflite_metadata.METADATA_NAME, metadata)
    file.write(path)
    tflite_metadata.append_labels(path, job.reference.labels)
