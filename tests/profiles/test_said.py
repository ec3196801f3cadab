"""What runtimes say of a file becomes words; the messages are onnxruntime's and LiteRT's own."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.profiles.runtimes.said import advice_on, words_of

CPP = ("::", ".cc", ".h:", "[ONNXRuntimeError]", "FAIL", "std")


def _refusal(*nodes, shape=(1, 3), opset=17, constants=()):
    """What onnxruntime raises for a model of ``nodes`` from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    with pytest.raises(Exception, match="ONNXRuntimeError") as refused:
        onnxruntime.InferenceSession(model.SerializeToString()).run(
            None, {"x": np.zeros([side or 1 for side in shape], np.float32)}
        )
    return str(refused.value)


def _reshape():
    to = numpy_helper.from_array(np.array([5, 5]), "to")
    node = helper.make_node("Reshape", ["x", "to"], ["y"], "odd")
    return _refusal(node, shape=(None, 3), constants=[to])


@pytest.mark.parametrize(
    ("message", "words", "advice"),
    [
        (_refusal(helper.make_node("Relu", ["x"], ["y"]), opset=999), "opset 999", "older"),
        (_refusal(helper.make_node("Nope", ["x"], ["y"])), "Nope", "without that operator"),
        (_refusal(helper.make_node("Add", ["x", "q"], ["y"])), "'q'", "else"),
        (_reshape(), "Reshape 'odd': ", "else"),
    ],
)
def test_onnxruntime(message, words, advice):
    found = words_of(message)
    assert words in found
    assert not any(mark in found for mark in CPP), found
    assert not found.endswith(".")
    assert "\n" not in found
    assert advice in advice_on(message, "else")


def test_an_element_type_that_is_none():
    model = onnx.ModelProto()
    model.ir_version = 8
    model.opset_import.add(domain="", version=17)
    model.graph.initializer.add(name="w", data_type=77, dims=[1])
    model.graph.output.add(name="w")
    with pytest.raises(Exception, match="ONNXRuntimeError") as refused:
        onnxruntime.InferenceSession(model.SerializeToString())
    found = words_of(str(refused.value))
    assert "'w' does not have valid data type" in found
    assert not any(mark in found for mark in CPP), found


def test_long_and_empty_ones():
    assert len(words_of("word " * 1000)) <= 241
    assert words_of("\n\n") == "no reason given"
    assert words_of("First. Second.\nthird") == "First"
