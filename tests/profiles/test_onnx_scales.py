"""Scales read from .onnx files against those that were written into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.records.graph import Tensor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
FLOAT, INT8, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8
MICROSOFT = "com.microsoft"


def f(*values: float) -> np.ndarray:
    """One number, or several."""
    return np.array(values if len(values) > 1 else values[0], np.float32)


def i8(*values: int) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.int8)


def write(
    path: Path,
    nodes: Sequence[Any],
    weights: Mapping[str, np.ndarray],
    given: tuple[int, tuple[int, ...]],
    result: int = FLOAT,
    **options: Any,
) -> Path:
    """A file from "x", of the type and shape ``given``, to "y"."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "net",
        [value("x", *given)],
        [value("y", result, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, options.pop("metadata", {}))
    onnx.save(model, str(path), **options)
    return path


def scales(path: Path) -> dict[str, tuple[Any, Any]]:
    """Scale and zero point of every quantized tensor, by name."""
    return {t.name: (t.scale, t.zero_point) for t in read_graph_of(path).tensors if t.scale}


def named(path: Path, name: str) -> Tensor:
    return next(t for t in read_graph_of(path).tensors if t.name == name)


def test_pairs_around_a_convolution(tmp_path: Path) -> None:
    node = helper.make_node
    path = write(
        tmp_path / "m.onnx",
        [
            node("QuantizeLinear", ["x", "s0", "z0"], ["q"]),
            node("Transpose", ["q"], ["t"], perm=[0, 1, 3, 2]),
            node("DequantizeLinear", ["t", "s0", "z0"], ["xf"]),
            node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
            node("DequantizeLinear", ["b", "sb"], ["bf"], axis=0),
            node("Conv", ["xf", "wf", "bf"], ["c"]),
            node("QuantizeLinear", ["c", "s1"], ["d"]),
            node("MaxPool", ["d"], ["m"], kernel_shape=[2, 2]),
            node("DequantizeLinear", ["m", "s1"], ["y"]),
        ],
        {
            **{"s0": f(0.5), "z0": i8(3), "s1": f(0.125)},
            **{"w": np.ones((2, 3, 1, 1), np.int8), "sw": f(0.25, 0.75), "zw": i8(0, 0)},
            **{"b": np.ones(2, np.int32), "sb": f(0.125, 0.375)},
        },
        (FLOAT, (1, 3, 4, 4)),
    )
    assert scales(path) == {
        "q": ((0.5,), (3,)),
        "t": ((0.5,), (3,)),
        "w": ((0.25, 0.75), (0, 0)),
        "b": ((0.125, 0.375), ()),
        "d": ((0.125,), ()),
        "m": ((0.125,), ()),
    }


def test_operators_on_codes(tmp_path: Path) -> None:
    """Operands have their scale behind them; each of these has its result's elsewhere."""
    node = helper.make_node
    path = write(
        tmp_path / "m.onnx",
        [
            node("QLinearConv", ["x", "s0", "z0", "w", "sw", "z0", "s1", "z1"], ["c"]),
            node("QLinearSigmoid", ["c", "s1", "z1", "s2", "z2"], ["g"], domain=MICROSOFT),
            node("QLinearMul", ["c", "s1", "z1", "g", "s2", "z2", "s3", "z1"], ["p"],
                 domain=MICROSOFT),
            node("QLinearConcat", ["s4", "z2", "p", "s3", "z1", "g", "s2", "z2"], ["k"],
                 domain=MICROSOFT, axis=1),
            node("Flatten", ["k"], ["l"]),
            node("QGemm", ["l", "s4", "z2", "v", "sv", "zv", "", "s5", "z1"], ["y"],
                 domain=MICROSOFT, transB=1),
        ],
        {
            **{"s0": f(0.5), "s1": f(0.25), "s2": f(1 / 256), "s3": f(0.75), "s4": f(0.875)},
            **{"s5": f(2.0), "z0": i8(0), "z1": i8(-5), "z2": i8(-128)},
            **{"w": np.ones((2, 3, 1, 1), np.int8), "sw": f(0.125)},
            **{"v": np.ones((3, 8), np.int8), "sv": f(0.1, 0.2, 0.3), "zv": i8(0, 0, 0)},
        },
        (INT8, (1, 3, 1, 2)),
        INT8,
    )  # fmt: skip
    found = scales(path)
    assert found.pop("v") == (tuple(map(float, f(0.1, 0.2, 0.3))), (0, 0, 0))
    assert found == {
        "x": ((0.5,), (0,)),
        "w": ((0.125,), (0,)),
        "c": ((0.25,), (-5,)),
        "g": ((1 / 256,), (-128,)),
        "p": ((0.75,), (-5,)),
        "k": ((0.875,), (-128,)),
        "l": ((0.875,), (-128,)),
        "y": ((2.0,), (-5,)),
    }
    assert named(path, "v").axis == 0


def test_codes_mean_what_was_written(tmp_path: Path) -> None:
    """Our exports read some codes with twice their scale, and halve what they read."""
    node = helper.make_node
    path = write(
        tmp_path / "m.onnx",
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "twice", "z"], ["d"]),
            node("Mul", ["d", "half"], ["y"]),
        ],
        {"s": f(0.5), "twice": f(1.0), "z": i8(3), "half": f(0.5)},
        (FLOAT, (1, 4)),
    )
    assert scales(path) == {"q": ((0.5,), (3,))}


@pytest.mark.parametrize(("axis", "count", "expected"), [(None, 3, 1), (0, 2, 0), (-1, 4, 2)])
def test_the_axis_gives_the_real_weights(
    tmp_path: Path, axis: int | None, count: int, expected: int
) -> None:
    """onnxruntime itself tells which axis several scales run along."""
    import onnxruntime

    codes = np.random.default_rng(0).integers(-99, 99, (2, 3, 4)).astype(np.int8)
    several = np.linspace(0.5, 2, count).astype(np.float32)
    zeros = np.arange(count).astype(np.int8)
    options = {} if axis is None else {"axis": axis}
    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], **options),
            helper.make_node("Add", ["x", "wf"], ["y"]),
        ],
        {"w": codes, "s": several, "z": zeros},
        (FLOAT, (1,)),
    )
    w = named(path, "w")
    assert w.axis == expected
    shape = [-1 if at == w.axis else 1 for at in range(3)]
    real = (codes - np.reshape(w.zero_point, shape)) * np.reshape(w.scale, shape)
    (result,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": np.zeros(1, np.float32)})
    np.testing.assert_array_equal(real.astype(np.float32), result)


def test_scales_in_another_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {"s": f(0.5), "z": i8(3)},
        (FLOAT, (1, 4)),
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
    )
    assert scales(path) == {"q": ((0.5,), (3,))}
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError):
        read_graph_of(path)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"x.scale": "0.25", "x.zero_point": "7"}, ((0.25,), (7,))),
        ({"x.scale": "0.25"}, ((0.25,), (0,))),
        ({"x.scale": "none"}, None),
        ({"x.scale": "0"}, None),
        ({"x.scale": "0.25", "x.zero_point": "a"}, None),
        ({"y.scale": "0.25"}, None),
    ],
)
def test_inputs_that_only_the_metadata_describes(
    tmp_path: Path, metadata: dict[str, str], expected: Any
) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=FLOAT),
    ]
    shape = {"shape": np.array([4], np.int64)}
    path = write(tmp_path / "m.onnx", nodes, shape, (UINT8, (2, 2)), metadata=metadata)
    assert scales(path) == ({"x": expected, "r": expected} if expected else {})


def test_what_is_computed_or_somebody_elses_is_no_scale(tmp_path: Path) -> None:
    """A dynamic scale, and a function that only has the name of onnxruntime's operator."""
    node = helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("QLinearSigmoid", ["q"], ["o"], domain="mine"),
        node("Cast", ["o"], ["of"], to=FLOAT),
        node("Add", ["d", "of"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {}, (FLOAT, (1, 4)))
    model = onnx.load(str(path))
    opsets = [helper.make_opsetid("", 17)]
    body = [node("Identity", ["a"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "QLinearSigmoid", ["a"], ["b"], body, opsets)
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, str(path))
    assert scales(path) == {}
