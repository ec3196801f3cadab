"""Two classifiers that compute in int8 from their input on: seven means of a convolution."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.drift.classifiers import OWN
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import conv

_INPUT, _ZERO_POINT, _WEIGHTS, _OUTPUT = 0.1, -10, 0.01, 0.01
_CLASSES = 7


def make_int8_tflite(path: Path) -> Path:
    """CONV_2D and MEAN; NHWC codes in, codes out."""
    b = TfliteBuilder()
    image = b.tensor("image", (1, 8, 10, 3), "int8", scale=_INPUT, zero_point=_ZERO_POINT)
    features = conv(b, image, "conv", width=_CLASSES, dtype="int8")
    b.graph.tensors[features].quantization.scale = [_OUTPUT]
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    logits = b.tensor("logits", (1, _CLASSES), "int8", scale=_OUTPUT)
    b.op("MEAN", (features, axes), (logits,), "ReducerOptions", version=2, keepDims=False)
    b.metadata("mnv4_deploy", json.dumps(OWN).encode())
    return b.write(path, [image], [logits])


def make_int8_onnx(path: Path) -> Path:
    """Conv and GlobalAveragePool between Q/DQ; NCHW codes in, codes out."""
    rng = np.random.default_rng(6)
    weights = rng.integers(-9, 10, (_CLASSES, 3, 3, 3)).astype(np.int8)
    constants = {
        "w.codes": weights,
        "w.scale": np.float32(_WEIGHTS),
        "zero": np.int8(0),
        "in.scale": np.float32(_INPUT),
        "in.zero": np.int8(_ZERO_POINT),
        "out.scale": np.float32(_OUTPUT),
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("DequantizeLinear", ["input", "in.scale", "in.zero"], ["image"]),
            node("DequantizeLinear", ["w.codes", "w.scale", "zero"], ["w"]),
            node("Conv", ["image", "w"], ["conv"], name="stem/Conv"),
            node("QuantizeLinear", ["conv", "out.scale", "zero"], ["conv.codes"]),
            node("DequantizeLinear", ["conv.codes", "out.scale", "zero"], ["features"]),
            node("GlobalAveragePool", ["features"], ["pooled"], name="pool/GlobalAveragePool"),
            node("Flatten", ["pooled"], ["flat"]),
            node("QuantizeLinear", ["flat", "out.scale", "zero"], ["logits"]),
        ],
        "net",
        [helper.make_tensor_value_info("input", TensorProto.INT8, [1, 3, 8, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.INT8, [1, _CLASSES])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    facts = {key: json.dumps(value) for key, value in OWN.items()}
    facts |= {"input.scale": str(_INPUT), "input.zero_point": str(_ZERO_POINT)}
    facts |= {"logits.scale": str(_OUTPUT), "logits.zero_point": "0"}
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path
