"""Makers, readers and constants after edits, against what the edited graph itself says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT


def links() -> OnnxLinks:
    """``a = x + w``, ``b = relu(a)``, ``y = a * a``, ``z = clip(b, , most)``."""
    most = onnx.numpy_helper.from_array(np.float32(6), "most")
    nodes = [
        helper.make_node("Constant", [], ["most"], name="six", value=most),
        helper.make_node("Add", ["x", "w"], ["a"], name="add"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Mul", ["a", "a"], ["y"], name="square"),
        helper.make_node("Clip", ["b", "", "most"], ["z"], name="clip"),
    ]
    x, y, z = (helper.make_tensor_value_info(name, FLOAT, [2]) for name in "xyz")
    weight = onnx.numpy_helper.from_array(np.array([1, -2], np.float32), "w")
    return OnnxLinks(helper.make_graph(nodes, "net", [x], [y, z], [weight]))


def seen(links: OnnxLinks) -> tuple[Any, ...]:
    """What ``links`` say, readers by name as often as they read."""
    makers = {name: node.name for name, node in links.makers.items()}
    readers = {name: Counter(n.name for n in nodes) for name, nodes in links.readers.items()}
    constants = {name: links.value(name).tolist() for name in links.constants}
    return makers, {name: found for name, found in readers.items() if found}, constants


def real(graph: Any) -> tuple[Any, ...]:
    """The same, from the nodes alone."""
    makers: dict[str, str] = {}
    readers: dict[str, Counter[str]] = {}
    constants: dict[str, Any] = {}
    for tensor in graph.initializer:
        constants[tensor.name] = onnx.numpy_helper.to_array(tensor).tolist()
    for node in graph.node:
        for name in node.output:
            makers[name] = node.name
        for name in set(node.input) - {""}:
            readers.setdefault(name, Counter())[node.name] = list(node.input).count(name)
        if node.op_type == "Constant":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t).tolist()
    return makers, readers, constants


def run(graph: Any, x: list[float]) -> list[list[float]]:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    return [y.tolist() for y in evaluator.run(None, {"x": np.array(x, np.float32)})]


def test_a_graph_as_it_is() -> None:
    found = links()
    assert seen(found) == real(found.graph)
    assert found.outputs == {"y", "z"}
    assert found.reader_kinds("a") == ["Relu", "Mul", "Mul"]
    assert found.maker("b", "Relu").name == "relu"
    assert found.maker("b", "Add") is None and found.maker("x", "Add") is None
    assert found.value("most") == 6 and found.value("a") is None
    assert run(found.graph, [3, 9]) == [[16, 49], [4, 6]]


def test_other_nodes_read_another_value() -> None:
    found = links()
    found.replace_reads("a", "x")
    assert seen(found) == real(found.graph)
    assert found.reader_kinds("x") == ["Add", "Relu", "Mul", "Mul"]
    assert run(found.graph, [3, 9]) == [[9, 81], [3, 6]]


def test_chosen_nodes_read_another_value() -> None:
    found = links()
    found.replace_reads("a", "x", {"square"})
    assert seen(found) == real(found.graph)
    assert run(found.graph, [3, 9]) == [[9, 81], [4, 6]]


def test_a_renamed_value_is_still_read() -> None:
    found = links()
    found.rename("a", "sum")
    assert seen(found) == real(found.graph)
    assert run(found.graph, [3, 9]) == [[16, 49], [4, 6]]


def test_an_output_becomes_another_value() -> None:
    found = links()
    found.rename("y", "squared")
    found.add_constant("half", np.float32(0.5))
    found.add("Mul", ["squared", "half"], "y", name="halve")
    assert seen(found) == real(found.graph)
    assert run(found.graph, [3, 9]) == [[8, 24.5], [4, 6]]


def test_a_node_goes() -> None:
    found = links()
    found.remove(found.makers["b"])
    found.replace_reads("b", "a")
    assert seen(found) == real(found.graph)
    assert [node.name for node in found.graph.node] == ["six", "add", "square", "clip"]
    assert run(found.graph, [-3, 9]) == [[4, 49], [-2, 6]]
