"""Run an exported file on images, whatever its input and output types are.

Images come as 0..255 RGB ``[N, H, W, 3]`` uint8 and go through the model's own normalisation
(unless the file does that itself); outputs come back as float32, one row an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import SelectedImages
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.runtimes.quiet import quiet

Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]
INPUT_TYPES = ("float32", "int8", "uint8")
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


class ArtifactRunner(ABC):
    """A file opened once; batches of any size stream through it in its own batch size.

    ``batch`` is the file's (1 where it is free), ``dtype``, ``quantization`` (scale and zero
    point, scale 0: none) and ``layout`` ("NHWC", "NCHW") are those of its only input,
    ``result_quantization`` that of its first output.
    """

    batch: int
    dtype: str
    quantization: tuple[float, int]
    layout: str
    result_quantization: tuple[float, int]

    def __init__(self, spec: Preprocessing) -> None:
        self.spec = spec

    def run(self, images: Pixels) -> Outputs:
        """First output for every image, dequantized."""
        rows = [
            _dequantized(self._invoke(self.feed(chunk))[:count], *self.result_quantization)
            for chunk, count in chunks(images, self.batch)
        ]
        return np.concatenate(rows).astype(np.float32)

    def feed(self, images: Pixels) -> npt.NDArray[Any]:
        """The array that goes in for a full batch, in the file's own type and layout."""
        ready = self._quantized(images)
        if self.layout == "NCHW":
            ready = ready.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(ready, dtype=self.dtype)

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        """What the network sees: ``[N, H, W, 3]`` float32, normalised, as far as ``dtype`` holds.

        A file that takes pixels and normalises them itself sees them normalised, too.
        """
        if self.dtype == "float32" or self.takes_pixels:
            return normalize(images, self.spec)
        scale, zero_point = self.quantization
        codes = self._quantized(images)
        return ((codes - zero_point) * scale).astype(np.float32)

    @property
    def takes_pixels(self) -> bool:
        """Whether 0..255 go in as they are.

        So it is for uint8 without a scale or with 1/255 (the file normalises), and where
        normalising and quantizing cancel but for rounding, as in files of TensorFlow.
        """
        scale, zero_point = self.quantization
        if self.dtype != "uint8":
            return False
        if scale == 0 or (abs(scale - 1 / 255) < 1e-7 and zero_point == 0):
            return True
        ends = np.array([0.0, 255.0])[:, None]
        codes = (ends / 255 - self.spec.mean) / self.spec.std / scale + zero_point
        return bool(np.abs(codes - ends).max() <= 0.5001)

    def _quantized(self, images: Pixels) -> npt.NDArray[Any]:
        if self.takes_pixels:
            return images
        ready = normalize(images, self.spec)
        if self.dtype == "float32":
            return ready
        scale, zero_point = self.quantization
        return np.clip(np.round(ready / scale + zero_point), *_LIMITS[self.dtype])

    @abstractmethod
    def _invoke(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The first output as the file gives it; :meth:`run` keeps a copy."""


class TfliteRunner(ArtifactRunner):
    """A .tflite file on LiteRT; a free height and width become those of ``spec``."""

    def __init__(self, path: Path, spec: Preprocessing, *, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(spec)
        with quiet():
            self._interpreter = Interpreter(str(path), num_threads=threads)
            (source,) = self._interpreter.get_input_details()
            shape = [int(side) for side in source["shape"]]
            self.layout = "NHWC" if shape[-1] == 3 else "NCHW"
            sides = slice(1, 3) if self.layout == "NHWC" else slice(2, 4)
            if shape[sides] != [spec.height, spec.width]:
                shape[sides] = [spec.height, spec.width]
                self._interpreter.resize_tensor_input(source["index"], shape)
            self._interpreter.allocate_tensors()
        self._source = source["index"]
        result = self._interpreter.get_output_details()[0]
        self._result = result["index"]
        self.batch = shape[0]
        self.dtype = np.dtype(source["dtype"]).name
        self.quantization = source["quantization"]
        self.result_quantization = result["quantization"]

    def _invoke(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._interpreter.set_tensor(self._source, batch)
        self._interpreter.invoke()
        output: npt.NDArray[Any] = self._interpreter.get_tensor(self._result)
        return output


class OnnxRunner(ArtifactRunner):
    """An .onnx file on onnxruntime's CPU provider.

    Scale and zero point of 8-bit inputs and outputs are read from the file's metadata
    (``<name>.scale``, ``<name>.zero_point``, see ``onnx_io``).
    """

    def __init__(self, path: Path, spec: Preprocessing, *, threads: int = 1) -> None:
        import onnxruntime

        super().__init__(spec)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (source,) = self._session.get_inputs()
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._source = source.name
        self._result = self._session.get_outputs()[0].name
        self.result_quantization = onnx_quantization(metadata, self._result)
        first = source.shape[0]
        self.batch = first if isinstance(first, int) and first > 0 else 1
        self.dtype = {
            "tensor(float)": "float32",
            "tensor(uint8)": "uint8",
            "tensor(int8)": "int8",
        }[source.type]
        self.quantization = onnx_quantization(metadata, source.name)
        self.layout = "NHWC" if source.shape[-1] == 3 else "NCHW"

    def _invoke(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        output: npt.NDArray[Any] = self._session.run([self._result], {self._source: batch})[0]
        return output


RUNNERS: Mapping[str, type[OnnxRunner] | type[TfliteRunner]] = {
    "onnx": OnnxRunner,
    "tflite": TfliteRunner,
}


def onnx_quantization(metadata: Mapping[str, str], name: str) -> tuple[float, int]:
    """Scale and zero point of an input or output by name; scale 0 where none is given.

    Raises ValueError for metadata that are no numbers.
    """
    return float(metadata.get(f"{name}.scale", 0)), int(metadata.get(f"{name}.zero_point", 0))


def run_tflite(path: Path, images: Pixels, spec: Preprocessing, *, threads: int = 1) -> Outputs:
    """First output of a .tflite file for every image."""
    return TfliteRunner(path, spec, threads=threads).run(images)


def run_onnx(path: Path, images: Pixels, spec: Preprocessing, *, threads: int = 1) -> Outputs:
    """First output of an .onnx file for every image."""
    return OnnxRunner(path, spec, threads=threads).run(images)


def pixels(images: SelectedImages, spec: Preprocessing) -> Pixels:
    """All images as one ``[N, H, W, 3]`` array."""
    return np.stack(list(images.uint8_arrays(spec)))


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
