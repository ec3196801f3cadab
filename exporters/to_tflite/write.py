"""The TFLite files of an export: float32, float16, int8.

All are made of the converter's own file: it takes floats, 0..1 where preprocessing is baked in,
and has neither metadata nor labels.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from torch import nn

from mnv4_deploy.errors import DeployError, ToolchainError
from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.ranges import check_method
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.records import Int8Choice
from mnv4_deploy.exporters.rewrites.bake_preprocess import BakedPreprocess
from mnv4_deploy.exporters.to_tflite import io_types, metadata
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import cast_tflite_to_fp16, quantize_tflite

# Two runs of ai-edge-quantizer 0.10 in one process get in each other's way (KeyError).
_ONE_AT_A_TIME = threading.Lock()


def convert(module: nn.Module, job: FileJob, path: Path) -> None:
    """Write a rewritten ``module`` in float32 to ``path``."""
    if job.request.bake_preprocess:
        module = BakedPreprocess(module, job.spec)
    export_tflite(module, path, input_shape=job.input_shape, outputs=job.reference.outputs)


def write_float(source: Path, path: Path, job: FileJob) -> None:
    """Write the float32 file of ``source``, a file that ``convert`` made, to ``path``."""
    _finish(source, path, job, "fp32")


def write_half(job: FileJob) -> None:
    """Write the float16 file of the job's source."""
    source, path = job.source("tflite"), job.path("tflite", "fp16")
    cast_tflite_to_fp16(source, path)
    _finish(path, path, job, "fp16")


def write_int8(source: Path, path: Path, job: FileJob, choice: Int8Choice) -> None:
    """Write the int8 form of ``source``, a file that ``convert`` made, to ``path``."""
    baked = job.request.bake_preprocess
    try:
        with _ONE_AT_A_TIME:
            quantize_tflite(
                source,
                path,
                (np.float32(1 / 255) * batch for batch in job.calibration_pixels())
                if baked
                else job.calibration_inputs(),
                recipe=recipe(job.request.targets.tflite),
                method=check_method(choice.method),
                input_range=(0.0, 1.0) if baked else None,
                float_modules=job.float_modules.get("tflite", ()),
                float_layers=choice.float_layers,
                int16_layers=choice.int16_layers,
                whole_range=job.whole_range,
            )
    except (DeployError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ToolchainError(
            f"ai-edge-quantizer could not quantize the model ({error!r})."
        ) from error
    _finish(path, path, job, "int8")


def _finish(source: Path, path: Path, job: FileJob, precision: str) -> None:
    """Write ``source`` to ``path`` with input and output types, metadata and labels."""
    file = TfliteFile(source)
    if precision == "int8":
        target = recipe(job.request.targets.tflite).target
        io = job.request.effective_io
        io_types.set_input(file, "uint8" if job.request.bake_preprocess else io, target)
        io_types.set_outputs(file, io, target)
    elif job.request.bake_preprocess:
        io_types.pixels_in(file)
    metadata.describe(file, job.description(precision))
    # A file that normalises by itself takes pixels as they are.
    baked = job.request.bake_preprocess
    record = metadata.image_classifier_metadata(
        name=job.request.source.name,
        description=job.reference.source.note,
        input_name=file.name(int(file.graph.inputs[0])),
        mean=[0.0 if baked else 255 * mean for mean in job.spec.mean],
        std=[1.0 if baked else 255 * std for std in job.spec.std],
        output_names=[file.name(int(tensor)) for tensor in file.graph.outputs],
        has_labels=bool(job.reference.labels),
    )
    metadata.add_metadata(file, metadata.METADATA_NAME, record)
    file.write(path)
    metadata.append_labels(path, job.reference.labels)
