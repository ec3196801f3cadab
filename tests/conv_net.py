"""A small .onnx file whose nodes are named as PyTorch modules are."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def conv_net(path: Path, channels: int, *, dynamic: bool = False) -> Path:
    """conv 3x3, relu, conv 1x1 of ``channels``, on an image of 32 x 32 or of any size."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "stem.weight": rng.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "blocks.0.pw.weight": rng.standard_normal((channels, channels, 1, 1)).astype(np.float32),
    }
    size = ["height", "width"] if dynamic else [32, 32]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "stem.weight"], ["a"], name="stem/Conv", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"], name="act/Relu"),
            helper.make_node("Conv", ["b", "blocks.0.pw.weight"], ["y"], name="blocks.0.pw/Conv"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, [1, 3, *size])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(data, name) for name, data in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path
