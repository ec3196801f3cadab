"""Run an exported file on images, whatever its input and output types are.

Images come as 0..255 RGB ``[H, W, 3]`` uint8 and go through the model's own normalisation
(unless the file does that itself); outputs come back as float32, one row an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.exporters.quiet import quiet
from mnv4_deploy.models.images import SelectedImages
from mnv4_deploy.models.preprocessing import normalize
from mnv4_deploy.records import Preprocessing

Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def pixels(images: SelectedImages, spec: Preprocessing) -> Pixels:
    """All images as one ``[N, H, W, 3]`` array."""
    return np.stack(list(images.uint8_arrays(spec)))


def run_tflite(path: Path, images: Pixels, spec: Preprocessing, *, threads: int = 1) -> Outputs:
    """First output of a .tflite file for every image."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    result = interpreter.get_output_details()[0]

    def run(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        output: npt.NDArray[Any] = interpreter.get_tensor(result["index"])
        return _dequantized(output, *result["quantization"])

    dtype = np.dtype(source["dtype"]).name
    batch = int(source["shape"][0])
    return _collect(run, images, spec, batch, dtype, source["quantization"], "NHWC")


def run_onnx(
    path: Path,
    images: Pixels,
    spec: Preprocessing,
    *,
    threads: int = 1,
) -> Outputs:
    """First output of an .onnx file for every image.

    Scale and zero point of 8-bit inputs and outputs are read from the file's metadata
    (``<name>.scale``, ``<name>.zero_point``, see ``onnx_io``).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    metadata = session.get_modelmeta().custom_metadata_map
    result = session.get_outputs()[0].name

    def quantization(name: str) -> tuple[float, int]:
        return float(metadata.get(f"{name}.scale", 0)), int(metadata.get(f"{name}.zero_point", 0))

    def run(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        (output,) = session.run([result], {source.name: batch})
        return _dequantized(output, *quantization(result))

    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}[
        source.type
    ]
    fixed = source.shape[0]
    layout = "NHWC" if source.shape[-1] == 3 else "NCHW"
    batch = fixed if isinstance(fixed, int) else 1
    return _collect(run, images, spec, batch, dtype, quantization(source.name), layout)


def _collect(
    run: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    images: Pixels,
    spec: Preprocessing,
    batch: int,
    dtype: str,
    quantization: tuple[float, int],
    layout: str,
) -> Outputs:
    rows: list[npt.NDArray[Any]] = []
    for chunk, count in chunks(images, batch):
        # A uint8 input without a scale of its own takes the pixels as they are.
        ready: npt.NDArray[Any] = chunk
        if not _takes_pixels(dtype, quantization):
            ready = normalize(chunk, spec)
            if dtype != "float32":
                scale, zero_point = quantization
                ready = np.clip(np.round(ready / scale + zero_point), *_LIMITS[dtype])
        if layout == "NCHW":
            ready = ready.transpose(0, 3, 1, 2)
        rows.append(run(np.ascontiguousarray(ready, dtype=dtype))[:count])
    return np.concatenate(rows).astype(np.float32)


def _takes_pixels(dtype: str, quantization: tuple[float, int]) -> bool:
    scale, zero_point = quantization
    return dtype == "uint8" and (scale == 0 or (abs(scale - 1 / 255) < 1e-7 and zero_point == 0))


def chunks(images: Pixels, batch: int) -> Iterator[tuple[Pixels, int]]:
    """Batches of a fixed size; the last one is filled up with its last image."""
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        missing = batch - len(chunk)
        full = np.concatenate([chunk, chunk[-1:].repeat(missing, 0)]) if missing else chunk
        yield full, len(chunk)


def _dequantized(values: npt.NDArray[Any], scale: float, zero_point: int) -> npt.NDArray[Any]:
    if scale == 0 or values.dtype.kind == "f":
        return values.copy()
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
