"""Model files of a few hundred bytes whose outputs are known: y = (length + 1) * x."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

LENGTH = 5
X = np.linspace(-3, 4, 16, dtype=np.float32).reshape(1, 16)
Y = np.cumsum(np.repeat(X, LENGTH + 1, axis=0), axis=0, dtype=np.float32)[-1:]


def tflite_file(path: Path, length: int = LENGTH) -> Path:
    pytest.importorskip("ai_edge_litert")
    from mnv4_deploy.profiles.machine.tflite_models import write_tflite_chain

    return write_tflite_chain(path, length)


def onnx_file(path: Path, length: int = LENGTH) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from mnv4_deploy.profiles.machine.onnx_models import write_onnx_chain

    return write_onnx_chain(path, length)


def onnx_with_weights_beside(path: Path, location: str) -> Path:
    """y = x + w with w = 1, 2, ..., 16 in the file ``location`` beside the model."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.arange(1, 17, dtype=np.float32).reshape(1, 16)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="add")],
        "net",
        [helper.make_tensor_value_info("x", kind, [1, 16])],
        [helper.make_tensor_value_info("y", kind, [1, 16])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(16 * 4)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    (path.parent / location).write_bytes(weights.tobytes())
    return path
