"""A model file that runs on a device: everything around its runtime happens here.

Images are normalised, quantized and cut into batches, and outputs dequantized, by the code that
does so for a runtime of this machine; the device sees tensors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv4_deploy.device.device import Array
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.sessions.image_runner import ArtifactRunner, onnx_quantization
from mnv4_deploy.sessions.records import ModelRef

Run = Callable[[Sequence[Array]], tuple[Array, ...]]


@dataclass(frozen=True)
class Boundary:
    """The only input and the first output of a file, read without running it.

    ``shape`` is the input's, -1 or 0 where it is open. Quantizations are scale and zero point,
    scale 0 for none.
    """

    shape: tuple[int, ...]
    dtype: str
    quantization: tuple[float, int]
    result_dtype: str
    result_quantization: tuple[float, int]


class DeviceArtifact(ArtifactRunner):
    """``subject``'s file behind ``run``, which takes and gives what a TensorSession does.

    Raises ModelFileError for a file that cannot be read.
    """

    def __init__(self, subject: ModelRef, run: Run) -> None:
        super().__init__(subject.preprocessing)
        boundary = read_boundary(subject)
        self.layout = "NHWC" if boundary.shape[-1] == 3 else "NCHW"
        self.batch = boundary.shape[0] if boundary.shape[0] > 0 else 1
        self.dtype = boundary.dtype
        self.quantization = boundary.quantization
        self.result_quantization = boundary.result_quantization
        self._result = (boundary.result_dtype, (self.batch, subject.num_classes))
        self._name = subject.name
        self._run = run

    def _invoke(self, batch: Array) -> Array:
        outputs = self._run([batch])
        found = [(output.dtype.name, output.shape) for output in outputs[:1]]
        if found != [self._result]:
            wanted, got = (
                ", ".join(f"{dtype} {list(shape)}" for dtype, shape in facts) or "nothing"
                for facts in ([self._result], found)
            )
            raise ToolchainError(
                f"{self._name} gave {got} on the device instead of {wanted}: its runtime there "
                "is not one that can be used."
            )
        return outputs[0]


def read_boundary(subject: ModelRef) -> Boundary:
    """Of the file of ``subject``, which is one that ``open_model_ref`` took.

    Raises ModelFileError for a damaged file, ToolchainError without the package that reads it.
    """
    path = Path(subject.path)
    return _tflite(path) if subject.kind == "tflite" else _onnx(path)


def _tflite(path: Path) -> Boundary:
    from mnv4_deploy.profiles.graph.tflite_graph import GraphTensor, read_graph

    def quantization(tensor: GraphTensor) -> tuple[float, int]:
        # As LiteRT's interpreter has it: several scales are not one of the tensor.
        return (tensor.scale[0], tensor.zero_point[0]) if len(tensor.scale) == 1 else (0.0, 0)

    graph = read_graph(path)
    source, result = (graph.tensors[ends[0]] for ends in (graph.inputs, graph.outputs))
    return Boundary(
        source.static_shape,
        source.dtype,
        quantization(source),
        result.dtype,
        quantization(result),
    )


def _onnx(path: Path) -> Boundary:
    import onnx

    from mnv4_deploy.profiles.graph.onnx_model import load_onnx

    model = load_onnx(onnx, path)
    stored = {tensor.name for tensor in model.graph.initializer}
    source = next(value for value in model.graph.input if value.name not in stored)
    result = model.graph.output[0]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    dtypes = [
        np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name
        for value in (source, result)
    ]
    return Boundary(
        tuple(side.dim_value for side in source.type.tensor_type.shape.dim),
        dtypes[0],
        onnx_quantization(metadata, source.name),
        dtypes[1],
        onnx_quantization(metadata, result.name),
    )
