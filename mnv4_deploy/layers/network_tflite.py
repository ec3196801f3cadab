"""The intermediate tensors of a .tflite file, on the interpreter that users run.

With ``experimental_preserve_all_tensors`` XNNPACK still does the work, but takes every operator
as a partition of its own, so that each result is written to memory.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.layers.families import WEIGHTED
from mnv4_deploy.layers.feed import feed_image, image_shape
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.layers.layer import Array, Format, Isolated, Layer, Quantization, Values, Weights
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.read_tflite import read_tflite
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.runtimes.quiet import quiet
from mnv4_deploy.sessions.image_runner import TfliteRunner

_INTEGERS = frozenset({"int8", "uint8", "int16"})
_STORED = frozenset({"float16", "float32", "int8", "uint8", "int16", "int32", "int64"})
_BIAS_POSITION = {"TRANSPOSE_CONV": 3}
# From the file's order of a kernel's axes to [out, in, height, width].
_TO_OIHW = {"DEPTHWISE_CONV_2D": (3, 0, 1, 2)}


class TfliteNetwork:
    format: Format = "tflite"

    def __init__(self, path: Path, spec: Preprocessing) -> None:
        self._path = path
        self._file = _read(path)
        source = int(self._file.graph.inputs[0])
        wanted = image_shape(_open_shape(self._file.graph.tensors[source]), spec)
        self.graph: ModelGraph = read_tflite(path, {self._file.name(source): wanted})
        self._quantization = dict(self._quantizations())
        self.layers = find_layers(self.graph, module_of_ops(self.graph), self._quantization)
        self.inputs = self.graph.inputs
        self.final = self.graph.outputs[0]
        self._runner = TfliteRunner(path, spec)
        self._interpreter: Any = None

    def _quantizations(self) -> Iterator[tuple[int, Quantization]]:
        for i, tensor in enumerate(self.graph.tensors):
            scales, zero_points = self._scales(i)
            if len(scales) == 1 and scales[0] > 0 and tensor.dtype in _INTEGERS:
                yield i, Quantization(scales[0], zero_points[0], tensor.dtype)

    def _scales(self, tensor: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Scales and zero points; empty for a tensor that is not quantized."""
        own = self._file.graph.tensors[tensor].quantization
        if own is None or own.scale is None or not len(own.scale):
            return (), ()
        scales = tuple(map(float, own.scale))
        zero_points = tuple(map(int, own.zeroPoint)) if own.zeroPoint is not None else ()
        return scales, zero_points or (0,)

    def feed(self, pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> Array:
        return feed_image(self._runner, pixels, spec)

    def plain(self, pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> Array:
        self._runner.spec = spec
        return self._runner.run(pixels[None])

    def run(self, feed: Array) -> dict[int, Array]:
        if self._interpreter is None:
            self._interpreter = self._open(preserve=True)
        source = self.inputs[0]
        self._interpreter.set_tensor(source, feed)
        self._interpreter.invoke()
        tensors = {self.final, *(layer.output for layer in self.layers)}
        return {t: self._real(t, self._interpreter.get_tensor(t)) for t in tensors}

    def _open(self, *, preserve: bool = False, content: bytes | None = None) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        given = {"model_path": str(self._path)} if content is None else {"model_content": content}
        try:
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # preserving tensors costs memory: known
                interpreter = Interpreter(
                    **given, num_threads=1, experimental_preserve_all_tensors=preserve
                )
                source, shape = self.inputs[0], self.graph.tensors[self.inputs[0]].shape
                if shape != tuple(self._file.shape(source)):
                    interpreter.resize_tensor_input(source, shape)
                interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(
                f"{self._path} cannot be run layer by layer: {str(error).partition(chr(10))[0]}"
            ) from error
        return interpreter

    def _real(self, tensor: int, values: Array) -> Array:
        quantization = self._quantization.get(tensor)
        if quantization is not None:
            return quantization.dequantize(values)
        return values.astype(np.float32)

    def isolate(self, cut: Mapping[int, Array], outputs: Sequence[int]) -> Isolated:
        file = TfliteFile(self._path)
        given: dict[int, int] = {}
        for tensor in cut:
            copy = file.schema.TensorT()
            vars(copy).update(vars(file.graph.tensors[tensor]))
            copy.name = file.name(tensor).encode() + b";given"
            file.graph.tensors.append(copy)
            given[tensor] = len(file.graph.tensors) - 1
        for operator in file.graph.operators:
            operator.inputs = np.array(
                [given.get(int(t), int(t)) for t in operator.inputs],
                dtype=np.int32,
            )
        file.graph.inputs = np.array(
            [*file.graph.inputs, *(given[t] for t in cut)], dtype=np.int32
        )
        file.graph.outputs = np.array(outputs, dtype=np.int32)
        file.model.signatureDefs = []
        with scratch_folder() as folder:
            path = folder / "layers.tflite"
            file.write(path)
            interpreter = self._open(content=path.read_bytes())

        def run(values: Values) -> dict[int, Array]:
            for tensor in self.inputs:
                interpreter.set_tensor(tensor, values[tensor])
            for tensor in cut:
                quantization = self._quantization.get(tensor)
                ready = values[tensor]
                if quantization is not None:
                    ready = quantization.quantize(ready)
                dtype = self.graph.tensors[tensor].dtype
                interpreter.set_tensor(
                    given[tensor], np.ascontiguousarray(ready, dtype=np.dtype(dtype))
                )
            interpreter.invoke()
            return {t: self._real(t, interpreter.get_tensor(t)) for t in outputs}

        return run

    def weights(self, layer: Layer) -> Weights | None:
        op = self.graph.ops[layer.op]
        if op.kind not in WEIGHTED or len(op.inputs) < 2:
            return None
        source = self._constant_behind(op.inputs[1])
        if source is None:
            return None
        scales, zero_points = self._scales(source)
        codes = self._data(source)
        if codes is None:
            return None
        axes: tuple[int, ...] = _TO_OIHW.get(op.kind, (0, 3, 1, 2))
        if codes.ndim != 4:
            axes = tuple(range(codes.ndim))
        values = codes.astype(np.float32)
        if scales:
            channel = int(self._file.graph.tensors[source].quantization.quantizedDimension)
            size = [1] * codes.ndim
            if len(scales) > 1:
                size[channel] = -1
            scale = np.reshape(np.array(scales, np.float32), size)
            zero_point = np.reshape(
                np.array(zero_points, np.float32), size if len(zero_points) > 1 else 1
            )
            values = (values - zero_point) * scale
        if op.kind == "BATCH_MATMUL" and values.ndim == 2 and not op.attributes.get("adj_y"):
            values, axes = values.T, (0, 1)
        return Weights(
            values.transpose(axes),
            scales,
            self._bias_codes_max(op.kind, op.inputs),
            op.kind == "DEPTHWISE_CONV_2D",
        )

    def _constant_behind(self, tensor: int) -> int | None:
        """The constant that ``tensor`` is, or is unpacked from."""
        while tensor >= 0 and not self.graph.tensors[tensor].constant:
            maker = next((op for op in self.graph.ops if tensor in op.outputs), None)
            if maker is None or maker.kind not in ("DEQUANTIZE", "DENSIFY"):
                return None
            tensor = maker.inputs[0]
        return tensor if tensor >= 0 else None

    def _data(self, tensor: int) -> Array | None:
        if self.graph.tensors[tensor].dtype not in _STORED:
            return None
        dtype = np.dtype(self.graph.tensors[tensor].dtype)
        data = self._file.model.buffers[self._file.graph.tensors[tensor].buffer].data
        if len(data) != math.prod(self._file.shape(tensor)) * dtype.itemsize:
            return None  # stored sparsely
        return self._file.constant(tensor, dtype)

    def _bias_codes_max(self, kind: str, inputs: Sequence[int]) -> int | None:
        position = _BIAS_POSITION.get(kind, 2)
        if len(inputs) <= position or inputs[position] < 0:
            return None
        facts = self.graph.tensors[inputs[position]]
        if not facts.constant or facts.dtype not in ("int32", "int64"):
            return None
        codes = self._data(inputs[position])
        return None if codes is None else int(np.abs(codes.astype(np.int64)).max(initial=0))

    def padding(self, layer: Layer) -> float | None:
        op = self.graph.ops[layer.op]
        if op.kind == "PAD":
            return 0.0
        if op.kind != "PADV2" or not self.graph.tensors[op.inputs[2]].constant:
            return None
        code = self._data(op.inputs[2])
        return None if code is None else float(self._real(op.inputs[2], code).ravel()[0])


def _open_shape(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape with -1 for what the file leaves open."""
    signature = tensor.shapeSignature
    return tuple(map(int, tensor.shape if signature is None else signature))


def _read(path: Path) -> TfliteFile:
    try:
        return TfliteFile(path)
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is a damaged or truncated TFLite model: copy or export it again."
        ) from error
