"""What ``inspect`` calls int8 in a file that mixes int8 products and a float softmax."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv4_deploy.profiles.inspection.inspect import inspect_file


def test_a_float_softmax_behind_an_integer_product_is_float(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scale = numpy_helper.from_array(np.float32(0.05), "scale")
    zero = numpy_helper.from_array(np.uint8(128), "zero")
    pairs = []
    for name in ("q", "k"):
        pairs += [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}8"]),
            helper.make_node("DequantizeLinear", [f"{name}8", "scale", "zero"], [f"{name}d"]),
        ]
    nodes = [
        *pairs,
        helper.make_node("MatMul", ["qd", "kd"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"]),
    ]
    shape = [1, 16, 16]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("q", "k")],
        [helper.make_tensor_value_info("weights", TensorProto.FLOAT, shape)],
        [scale, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "m.onnx")

    facts = inspect_file(tmp_path / "m.onnx")

    compute = {op.kind: op.compute for op in facts.operators}
    assert facts.executed_histogram is not None
    assert facts.executed_histogram["MatMulIntegerToFloat"] == 1  # the runtime's own word
    assert compute["MatMul"] in ("uint8", "int8")
    assert compute["Softmax"] == "float32"
