"""The intermediate tensors of a .tflite file, on the interpreter that users run.

With ``experimental_preserve_all_tensors`` XNNPACK still does the work, but takes every operator
as a partition of its own, so that each result is written to memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.layers.families import WEIGHTED
from mnv4_deploy.layers.layer import (
    Array,
    Disturbed,
    Format,
    Isolated,
    NetworkLayer,
    Reweighed,
    Values,
    Weights,
)
from mnv4_deploy.layers.networks.file_network import FileNetwork
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.litert.interpreter import (
    allocate,
    installed_runtime,
    open_interpreter,
)
from mnv4_deploy.profiles.runtimes.quiet import quiet

_STORED = frozenset({"float16", "float32", "int8", "uint8", "int16", "int32", "int64"})
_BIAS_POSITION = {"TRANSPOSE_CONV": 3}
# From the file's order of a kernel's axes to [out, in, height, width].
_OIHW = (0, 3, 1, 2)
_TO_OIHW = {"DEPTHWISE_CONV_2D": (3, 0, 1, 2)}


class TfliteNetwork(FileNetwork):
    format: Format = "tflite"

    def __init__(self, path: Path, spec: Preprocessing) -> None:
        self._file = _read(path)
        super().__init__(path, spec)
        self._interpreter: Any = None

    def run(self, feed: Values) -> dict[int, Array]:
        if self._interpreter is None:
            self._interpreter = self._open(preserve=True)
        for tensor, values in feed.items():
            self._interpreter.set_tensor(tensor, values)
        self._interpreter.invoke()
        tensors = {*self.outputs, *(layer.output for layer in self.layers)}
        return {t: self._real(t, self._interpreter.get_tensor(t)) for t in tensors}

    def _open(self, *, preserve: bool = False, content: bytes | None = None) -> Any:
        shapes = {source: self.graph.tensors[source].shape for source in self.inputs}
        new = {t: shape for t, shape in shapes.items() if shape != tuple(self._file.shape(t))}
        runtime = installed_runtime().name
        with translated(runtime, "run single layers of", self._path), quiet():
            interpreter = open_interpreter(content or self._path, keep_tensors=preserve)
            allocate(interpreter, new)
        return interpreter

    def isolate(
        self,
        cut: Mapping[int, Array],
        outputs: Sequence[int],
        weights: Mapping[int, Array] | None = None,
    ) -> Isolated:
        file = TfliteFile(self._path)
        self._reweigh(file, weights or {})
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
        interpreter = self._open_edited(file)

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

    def disturb(self, examples: Mapping[int, Array]) -> Disturbed:
        file = TfliteFile(self._path)
        added = {
            t: tuple(
                file.add_tensor(f"{file.name(t)};{what}", t, "float32")
                for what in ("noise", "disturbed")
            )
            for t in examples
        }

        def read(tensors: Sequence[int]) -> npt.NDArray[np.int32]:
            return np.array(
                [added[int(t)][1] if int(t) in added else int(t) for t in tensors], np.int32
            )

        operators: list[Any] = []
        for operator in file.graph.operators:
            operator.inputs = read(operator.inputs)
            operators.append(operator)
            for tensor in map(int, operator.outputs):
                if tensor in added:
                    operators.append(file.add(tensor, *added[tensor]))
        file.graph.operators = operators
        file.graph.outputs = read(file.graph.outputs)
        noises = [noise for noise, _ in added.values()]
        file.graph.inputs = np.array([*file.graph.inputs, *noises], dtype=np.int32)
        results = [int(t) for t in file.graph.outputs]
        interpreter = self._open_edited(file)
        still = {t: np.zeros(array.shape, np.float32) for t, array in examples.items()}

        def run(feed: Values, noise: Values) -> tuple[Array, ...]:
            # The runtime gives the memory of inputs that were read to other tensors.
            for tensor in self.inputs:
                interpreter.set_tensor(tensor, feed[tensor])
            for tensor, (source, _) in added.items():
                interpreter.set_tensor(source, noise.get(tensor, still[tensor]))
            interpreter.invoke()
            return tuple(interpreter.get_tensor(t) for t in results)

        return run

    def _open_edited(self, file: TfliteFile) -> Any:
        file.model.signatureDefs = []
        with scratch_folder() as folder:
            path = folder / "layers.tflite"
            file.write(path)
            return self._open(content=path.read_bytes())

    def weights(self, layer: NetworkLayer) -> Weights | None:
        op = self.graph.ops[layer.op]
        if op.kind not in WEIGHTED or len(op.inputs) < 2:
            return None
        source = self._constant_behind(op.inputs[1])
        if source is None:
            return None
        facts, codes = self.graph.tensors[source], self._data(source)
        if codes is None or (codes.dtype.kind != "f" and not facts.scale):
            return None  # scales of blocks are elsewhere
        axes: tuple[int, ...] = _TO_OIHW.get(op.kind, _OIHW)
        if codes.ndim != 4:
            axes = tuple(range(codes.ndim))
        values = codes.astype(np.float32)
        if facts.scale:
            size = [1] * codes.ndim
            if len(facts.scale) > 1:
                size[facts.axis] = -1
            scale = np.reshape(np.array(facts.scale, np.float32), size)
            zero_points = np.array(facts.zero_point or (0,), np.float32)
            zero_point = np.reshape(zero_points, size if len(zero_points) > 1 else 1)
            values = (values - zero_point) * scale
        if op.kind == "BATCH_MATMUL" and values.ndim == 2 and not op.attributes.get("adj_y"):
            values, axes = values.T, (0, 1)
        unpacked = source != op.inputs[1]
        return Weights(
            values.transpose(axes),
            facts.scale,
            self._bias_codes_max(op.kind, op.inputs),
            op.kind == "DEPTHWISE_CONV_2D",
            facts.bits,
            bool(facts.scale) and not unpacked and op.inputs[0] not in self._quantization,
        )

    def _reweigh(self, file: TfliteFile, weights: Mapping[int, Array]) -> None:
        for layer in self.layers:
            if layer.output in weights:
                operator, kind = file.graph.operators[layer.op], self.graph.ops[layer.op].kind
                values = weights[layer.output]
                if values.ndim == len(_OIHW):
                    values = values.transpose(np.argsort(_TO_OIHW.get(kind, _OIHW)))
                if kind == "BATCH_MATMUL" and not self.graph.ops[layer.op].attributes.get("adj_y"):
                    values = values.swapaxes(-1, -2)
                name = f"{file.name(int(operator.inputs[1]))};{layer.op}"
                operator.inputs = np.array(operator.inputs, np.int32)
                operator.inputs[1] = file.add_constant(name, values)

    def reweighed(self, weights: Mapping[int, Array]) -> Reweighed:
        file = TfliteFile(self._path)
        self._reweigh(file, weights)
        interpreter = self._open_edited(file)

        def run(feed: Values) -> tuple[Array, ...]:
            for tensor in self.inputs:
                interpreter.set_tensor(tensor, feed[tensor])
            interpreter.invoke()
            return tuple(interpreter.get_tensor(t) for t in self.outputs)

        return run

    def _constant_behind(self, tensor: int) -> int | None:
        """The constant that ``tensor`` is, or is unpacked from."""
        while tensor >= 0 and not self.graph.tensors[tensor].constant:
            maker = next((op for op in self.graph.ops if tensor in op.outputs), None)
            if maker is None or maker.kind not in ("DEQUANTIZE", "DENSIFY"):
                return None
            tensor = maker.inputs[0]
        return tensor if tensor >= 0 else None

    def _data(self, tensor: int) -> Array | None:
        if self.graph.tensors[tensor].dtype == "int4":
            return self._file.half_bytes(tensor)
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

    def padding(self, layer: NetworkLayer) -> float | None:
        op = self.graph.ops[layer.op]
        if op.kind == "PAD":
            return 0.0
        if op.kind != "PADV2" or not self.graph.tensors[op.inputs[2]].constant:
            return None
        code = self._data(op.inputs[2])
        return None if code is None else float(self._real(op.inputs[2], code).ravel()[0])


def _read(path: Path) -> TfliteFile:
    try:
        return TfliteFile(path)
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is a damaged or truncated TFLite model: copy or export it again."
        ) from error
