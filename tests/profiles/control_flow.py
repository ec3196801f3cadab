"""Small .onnx files with branches, loops and functions; every product is 1xN times NxN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
RNG = np.random.default_rng(0)


def square(name: str, side: int) -> Any:
    return onnx.numpy_helper.from_array(
        (RNG.standard_normal((side, side)) / side).astype(np.float32), name
    )


def number(name: str, what: Any) -> Any:
    return onnx.numpy_helper.from_array(np.array(what), name)


def save(
    path: Path,
    nodes: Sequence[Any],
    initializers: Sequence[Any],
    *,
    side: int,
    inputs: Sequence[Any] = (),
    functions: Sequence[Any] = (),
) -> Path:
    """A file from x to y, both 1 x ``side``, with more ``inputs``."""
    graph = onnx.helper.make_graph(
        list(nodes),
        "net",
        [value("x", FLOAT, [1, side]), *inputs],
        [value("y", FLOAT, None)],
        list(initializers),
    )
    versions = [onnx.helper.make_opsetid("", 17)]
    versions += [onnx.helper.make_opsetid("own", 1)] if functions else []
    model = onnx.helper.make_model(graph, opset_imports=versions, functions=list(functions))
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def branches(side: int, *, source: str = "x") -> dict[str, Any]:
    """A branch with a product and a Relu, and one with a Tanh alone."""
    yes = [node("MatMul", [source, "W"], ["m"]), node("Relu", ["m"], ["yes"])]
    no = [node("Tanh", [source], ["no"])]
    out = [1, side]
    return {
        "then_branch": onnx.helper.make_graph(yes, "t", [], [value("yes", FLOAT, out)]),
        "else_branch": onnx.helper.make_graph(no, "e", [], [value("no", FLOAT, out)]),
    }


def if_file(path: Path, side: int, *, constant: bool) -> Path:
    """The branch with the product is taken where ``c``, an input or a constant, is true."""
    nodes = [node("If", ["c"], ["p"], name="if", **branches(side)), node("Neg", ["p"], ["y"])]
    stored = [square("W", side), *([number("c", True)] if constant else [])]
    inputs = [] if constant else [value("c", BOOL, [1])]
    return save(path, nodes, stored, side=side, inputs=inputs)


def loop_file(path: Path, side: int, rounds: int) -> Path:
    """``rounds`` of v = tanh(v W)."""
    body = onnx.helper.make_graph(
        [
            node("Identity", ["go"], ["goes"]),
            node("MatMul", ["v", "W"], ["m"]),
            node("Tanh", ["m"], ["w"]),
        ],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, [1, side])],
        [value("goes", BOOL, []), value("w", FLOAT, [1, side])],
    )
    nodes = [node("Loop", ["rounds", "", "x"], ["y"], name="loop", body=body)]
    return save(path, nodes, [square("W", side), number("rounds", rounds)], side=side)


def growing_loop_file(path: Path, side: int, rounds: int) -> Path:
    """A loop that makes its value longer by x in every round."""
    body = onnx.helper.make_graph(
        [
            node("Identity", ["go"], ["goes"]),
            node("Concat", ["v", "x"], ["longer"], axis=0),
            node("Neg", ["longer"], ["w"]),
        ],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, None)],
        [value("goes", BOOL, []), value("w", FLOAT, None)],
    )
    nodes = [node("Loop", ["rounds", "", "x"], ["y"], name="loop", body=body)]
    return save(path, nodes, [number("rounds", rounds)], side=side)


def scan_file(path: Path, side: int, rounds: int) -> Path:
    """A product of the state in each of ``rounds`` steps, from a state of ones."""
    body = onnx.helper.make_graph(
        [node("MatMul", ["state", "W"], ["m"]), node("Add", ["m", "step"], ["next"])],
        "body",
        [value("state", FLOAT, [1, side]), value("step", FLOAT, [1, side])],
        [value("next", FLOAT, [1, side])],
    )
    stored = [
        square("W", side),
        number("steps", np.ones((rounds, 1, side), np.float32)),
    ]
    nodes = [node("Scan", ["x", "steps"], ["y"], name="scan", body=body, num_scan_inputs=1)]
    return save(path, nodes, stored, side=side)


def loop_of_ifs_file(path: Path, side: int, rounds: int) -> Path:
    """A loop whose rounds take the branch with the product in all rounds but the first."""
    body = onnx.helper.make_graph(
        [
            node("Identity", ["go"], ["goes"]),
            node("Greater", ["i", "zero"], ["later"]),
            node("If", ["later"], ["w"], name="inner", **branches(side, source="v")),
        ],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, [1, side])],
        [value("goes", BOOL, []), value("w", FLOAT, [1, side])],
    )
    stored = [square("W", side), number("rounds", rounds), number("zero", 0)]
    nodes = [node("Loop", ["rounds", "", "x"], ["y"], name="loop", body=body)]
    return save(path, nodes, stored, side=side)


def function_file(path: Path, side: int, calls: int) -> Path:
    """``calls`` of a function with a product and a Relu."""
    function = onnx.helper.make_function(
        "own",
        "Block",
        ["a", "w"],
        ["b"],
        [node("MatMul", ["a", "w"], ["m"], name="mm"), node("Relu", ["m"], ["b"], name="act")],
        [onnx.helper.make_opsetid("", 17)],
    )
    names = ["x", *(f"v{i}" for i in range(1, calls)), "y"]
    nodes = [
        node("Block", [names[i], "W"], [names[i + 1]], name=f"call{i}", domain="own")
        for i in range(calls)
    ]
    return save(path, nodes, [square("W", side)], side=side, functions=[function])
