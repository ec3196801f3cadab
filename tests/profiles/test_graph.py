"""File graphs against the files' own schemas, the runtimes and hand-written shapes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.costs.group import unknown_kinds
from mnv4_deploy.profiles.graph.onnx.read import read_onnx
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.graph.shapes import check_names, proposed, resolve_shape
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.graph import ModelGraph, Tensor

pytest.importorskip("onnxruntime")
FLOAT = TensorProto.FLOAT


def shapes_of(graph: ModelGraph) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in graph.tensors}


def tensor(graph: ModelGraph, name: str) -> Tensor:
    return next(t for t in graph.tensors if t.name == name)


def stored(name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(name, shape, dtype, constant=True, declared=shape)


# Shapes of inputs


@pytest.mark.parametrize(
    ("dims", "shapes", "expected"),
    [
        ((1, 3, 8, 8), {}, (1, 3, 8, 8)),
        (("batch", 3, 8, 8), {}, (1, 3, 8, 8)),
        ((-1, 8), {}, (1, 8)),
        ((None,), {}, (1,)),
        ((), {}, ()),
        ((-1, 3, "h", None), {"": (2, 3, 16, 24)}, (2, 3, 16, 24)),
        ((-1, 3, "h", None), {"x": (2, 3, 16, 24)}, (2, 3, 16, 24)),
        ((-1, 3), {"x": (5, 3), "": (6, 3)}, (5, 3)),
        ((1, 0, 8), {}, (1, 0, 8)),
        ((1, "past", 8), {"x": (1, 0, 8)}, (1, 0, 8)),
    ],
)
def test_a_shape_is_resolved(
    dims: tuple[Any, ...], shapes: Mapping[str, tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    assert resolve_shape("x", dims, shapes, only=True) == expected


@pytest.mark.parametrize(
    ("dims", "shapes", "only", "said"),
    [
        (("n", 3, "h", "w"), {}, True, "[n, 3, h, w]: give --shape x=1x3x224x224"),
        ((1, None, 64), {}, True, "[1, ?, 64]: give --shape x=1x1x64"),
        (("n", 3, "h", "w"), {"": (1, 3, 8, 8)}, False, "give --shape x="),
        ((1, 3, 8, 8), {"x": (1, 3, 8)}, True, "has 3 dimensions but input x has 4"),
        ((1, 3, 8, 8), {"x": (1, 3, 9, 8)}, True, "dimension 2 is fixed at 8"),
        ((0, 3), {"x": (5, 3)}, True, "dimension 0 is fixed at 0"),
        ((-1, -1, -1, 3), {}, True, "give --shape x=1x224x224x3"),
        ((1, 224, 224, None), {}, True, "give --shape x=1x224x224x3"),
        ((1, 16, None, None), {}, True, "give --shape x=1x16x224x224"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_to_do(
    dims: tuple[Any, ...], shapes: Mapping[str, tuple[int, ...]], only: bool, said: str
) -> None:
    with pytest.raises((ModelFileError, UnsupportedError)) as raised:
        resolve_shape("x", dims, shapes, only=only)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((1, -1, -1, 3), (1, 224, 224, 3)),
        ((-1, -1, -1, 1), (1, 224, 224, 1)),
        ((-1, 3, -1, -1), (1, 3, 224, 224)),
        ((-1, -1, -1, -1), (1, 224, 224, 3)),
        (("n", "c", "h", "w"), (1, 3, 224, 224)),
        ((1, -1, 320, 3), (1, 320, 320, 3)),
        ((1, -1, -1, 16), (1, 224, 224, 16)),
        ((-1, -1), (1, 1)),
        ((2, -1, -1, -1, 3), (2, 1, 1, 1, 3)),
    ],
)
def test_a_proposed_shape_keeps_the_layout(
    dims: tuple[int | str, ...], expected: tuple[int, ...]
) -> None:
    assert proposed(dims) == expected


def test_shapes_for_inputs_that_are_not_there() -> None:
    check_names({"": (1,)}, ["x"])
    check_names({"x": (1,), "y": (1,)}, ["y", "x"])
    with pytest.raises(UnsupportedError, match=r"no input z.*it has x, y"):
        check_names({"z": (1,)}, ["x", "y"])
    with pytest.raises(UnsupportedError, match=r"2 inputs.*say which"):
        check_names({"": (1,)}, ["x", "y"])


# TFLite


def test_tflite_options_have_the_schemas_names(tflite: Any, tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    relu6 = schema.ActivationFunctionType.RELU6
    x = tflite.tensor("x", (1, 9, 9, 4))
    w = tflite.tensor("w", (1, 3, 3, 8), data=np.zeros((1, 3, 3, 8), np.float32))
    y = tflite.tensor("y", (1, 4, 4, 8))
    tflite.op(
        "DEPTHWISE_CONV_2D", (x, w, -1), (y,), "DepthwiseConv2DOptions",
        strideH=2, strideW=3, dilationHFactor=2, depthMultiplier=2,
        padding=schema.Padding.VALID, fusedActivationFunction=relu6,
    )  # fmt: skip
    p = tflite.tensor("p", (1, 2, 2, 8))
    tflite.op("MAX_POOL_2D", (y,), (p,), "Pool2DOptions", filterHeight=2, filterWidth=3, strideH=2)
    m = tflite.tensor("m", (1, 2, 8, 8))
    tflite.op("BATCH_MATMUL", (p, p), (m,), "BatchMatMulOptions", adjX=True)
    r = tflite.tensor("r", (2, 64))
    tflite.op("RESHAPE", (m,), (r,), "ReshapeOptions", newShape=[2, 64])
    e = tflite.tensor("e", (2, 64))
    tflite.op("EXP", (r,), (e,))
    graph = read_tflite(tflite.write(tmp_path / "m.tflite", (x,), (e,)))
    depthwise, pool, product, reshape, exp = graph.ops
    assert depthwise.attributes == {
        "padding": "VALID",
        "stride_w": 3,
        "stride_h": 2,
        "depth_multiplier": 2,
        "fused_activation_function": "RELU6",
        "dilation_w_factor": 1,
        "dilation_h_factor": 2,
    }
    assert (depthwise.name, depthwise.inputs) == ("y", (x, w, -1))
    assert (pool.attributes["filter_height"], pool.attributes["filter_width"]) == (2, 3)
    assert pool.attributes["padding"] == "SAME"
    assert product.attributes["adj_x"] is True
    assert product.attributes["adj_y"] is False
    assert reshape.attributes == {"new_shape": (2, 64)}
    assert exp.attributes == {}
    assert tensor(graph, "w") == stored("w", (1, 3, 3, 8), "float32")
    assert (graph.inputs, graph.outputs) == ((x,), (e,))


def dynamic_tflite(builder: Any, path: Path) -> Path:
    """Two poolings behind an input of [-1, -1, -1, 2] that the file allocates as ones."""
    x, mid, y = (builder.tensor(n, (1, 1, 1, 2)) for n in ("x", "mid", "y"))
    builder.graph.tensors[x].shapeSignature = [-1, -1, -1, 2]
    for source, target in ((x, mid), (mid, y)):
        builder.op(
            "MAX_POOL_2D", (source,), (target,), "Pool2DOptions",
            filterHeight=2, filterWidth=2, strideH=2, strideW=2,
        )  # fmt: skip
    return Path(builder.write(path, (x,), (y,)))


def test_tflite_shapes_follow_the_input(tflite: Any, tmp_path: Path) -> None:
    path = dynamic_tflite(tflite, tmp_path / "m.tflite")
    graph = read_graph_of(path, {"x": (2, 12, 20, 2)})
    assert shapes_of(graph) == {"x": (2, 12, 20, 2), "mid": (2, 6, 10, 2), "y": (2, 3, 5, 2)}
    own = read_tflite(path)
    assert shapes_of(own) == dict.fromkeys(("x", "mid", "y"), (1, 1, 1, 2))
    assert {t.name: t.declared for t in own.tensors} == {t.name: t.declared for t in graph.tensors}
    assert tensor(own, "x").declared == (-1, -1, -1, 2)
    assert (own.ops, own.inputs, own.outputs) == (graph.ops, graph.inputs, graph.outputs)
    with pytest.raises(ModelFileError, match="give --shape x="):
        read_graph_of(path)
    with pytest.raises(UnsupportedError, match="fixed at 2"):
        read_graph_of(path, {"": (1, 8, 8, 3)})
    with pytest.raises(UnsupportedError, match="no input z"):
        read_graph_of(path, {"z": (1, 8, 8, 2)})


def test_tflite_that_cannot_take_the_shape(tflite: Any, tmp_path: Path) -> None:
    """The batch is open in the signature but a reshape has it fixed."""
    x, y = tflite.tensor("x", (1, 4)), tflite.tensor("y", (2, 2))
    tflite.graph.tensors[x].shapeSignature = [-1, 4]
    shape = tflite.tensor("shape", (2,), "int32", data=np.array([2, 2], np.int32))
    tflite.op("RESHAPE", (x, shape), (y,), "ReshapeOptions", newShape=[2, 2])
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    assert shapes_of(read_graph_of(path))["x"] == (1, 4)
    with pytest.raises(ModelFileError, match="cannot take x=3x4"):
        read_graph_of(path, {"": (3, 4)})


def test_tflite_quantization_is_what_the_interpreter_says(tflite: Any, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    x = tflite.tensor("x", (1, 4, 4, 2), "int8", scale=0.5, zero_point=7)
    codes = np.arange(18, dtype=np.int8).reshape(1, 3, 3, 2)
    w = tflite.tensor("w", (1, 3, 3, 2), "int8", scale=[0.25, 0.125], data=codes)
    tflite.graph.tensors[w].quantization.quantizedDimension = 3
    bias = tflite.tensor("b", (2,), "int32", scale=[0.125, 0.0625], data=np.zeros(2, np.int32))
    y = tflite.tensor("y", (1, 4, 4, 2), "int8", scale=0.375, zero_point=-3)
    tflite.op("DEPTHWISE_CONV_2D", (x, w, bias), (y,), "DepthwiseConv2DOptions", strideW=1,
              strideH=1, depthMultiplier=1)  # fmt: skip
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    graph = read_tflite(path)
    interpreter = Interpreter(str(path))
    details = {d["name"]: d["quantization_parameters"] for d in interpreter.get_tensor_details()}
    assert len(graph.tensors) == 4
    for found in graph.tensors:
        expected = details[found.name]
        assert found.scale == tuple(expected["scales"])
        assert found.zero_point == tuple(expected["zero_points"])
        assert found.axis == expected["quantized_dimension"]
    assert tensor(graph, "w").axis == 3


def test_tflite_beside_its_operators(tflite: Any, tmp_path: Path) -> None:
    """What weights take is counted by buffer, as two tensors can share one."""
    x, y, z = (tflite.tensor(name, (2, 3)) for name in "xyz")
    w = tflite.tensor("w", (2, 3), data=np.ones((2, 3), np.float32))
    same = tflite.tensor("same", (2, 3))
    tflite.graph.tensors[same].buffer = tflite.graph.tensors[w].buffer
    axis = tflite.tensor("axis", (), "int32", data=np.array(1, np.int32))
    tflite.op("ADD", (x, w), (y,), "AddOptions")
    tflite.op("CUSTOM", (y, same, axis), (z,), custom="MyTransform")
    tflite.metadata("labels", b"cat\ndog")
    tflite.model.subgraphs.append(tflite.graph)
    graph = read_tflite(tflite.write(tmp_path / "m.tflite", (x,), (z,)))
    assert graph.weight_bytes == {"float32": 24, "int32": 4}
    assert [(op.kind, op.name, op.custom) for op in graph.ops] == [
        ("ADD", "y", False),
        ("MyTransform", "z", True),
    ]
    assert (graph.subgraphs, graph.metadata["labels"]) == (2, "cat\ndog")
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_what_constants_alone_make(tflite: Any, tmp_path: Path) -> None:
    x, y = tflite.tensor("x", (4,)), tflite.tensor("y", (4,))
    codes = tflite.tensor("codes", (4,), "int8", scale=0.5, data=np.ones(4, np.int8))
    unpacked, twice = tflite.tensor("unpacked", (4,)), tflite.tensor("twice", (4,))
    tflite.op("DEQUANTIZE", (codes,), (unpacked,))
    tflite.op("ADD", (unpacked, unpacked), (twice,), "AddOptions")
    tflite.op("ADD", (x, twice), (y,), "AddOptions")
    graph = read_tflite(tflite.write(tmp_path / "m.tflite", (x,), (y,)))
    assert graph.constants() == {codes, unpacked, twice}
    assert graph.constants({"DEQUANTIZE"}) == {codes, unpacked}
    assert graph.constants(()) == {codes}


def test_damaged_tflite_is_refused_or_read(conv_tflite: Path, tmp_path: Path) -> None:
    """Flipped bytes may land in a name; nothing but the one error comes out."""
    data = bytearray(conv_tflite.read_bytes())
    refused = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        broken = bytearray(data)
        for at in rng.integers(8, len(data), 40):
            broken[at] = rng.integers(0, 256)
        path = tmp_path / "broken.tflite"
        path.write_bytes(broken[: len(data) if seed % 2 else int(rng.integers(16, len(data)))])
        try:
            unknown_kinds(read_graph_of(path))
        except (ModelFileError, UnsupportedError):
            refused += 1
    assert refused > 75


# ONNX


def onnx_file(
    path: Path,
    nodes: list[Any],
    inputs: Mapping[str, tuple[Any, ...]],
    outputs: list[str],
    weights: Mapping[str, Any],
    element: int = FLOAT,
    *,
    external: bool = False,
) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, element, shape) for name, shape in inputs.items()],
        [value(name, element, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, str(path), save_as_external_data=external, size_threshold=0)
    return path


def test_onnx_shapes_behind_private_and_optional_operands(tmp_path: Path) -> None:
    """onnx's shape inference knows neither QuickGelu nor what the Resize before it makes."""
    node = helper.make_node
    path = onnx_file(
        tmp_path / "m.onnx",
        [
            node("Clip", ["x", "", "max"], ["clip"], name="limit"),
            node("Resize", ["clip", "", "scales"], ["big"]),
            node("QuickGelu", ["big"], ["act"], domain="com.microsoft", alpha=1.5),
            node("Constant", [], ["two"], value_ints=[1, -1]),
            node("Reshape", ["act", "two"], ["flat"], name="limit"),
            node("Split", ["flat"], ["left", "right"], axis=1, num_outputs=2),
            node("Shape", ["right"], ["size"]),
            node("Cast", ["size"], ["y"], to=FLOAT),
        ],
        {"x": ("n", 3, "h", "w")},
        ["y", "left"],
        {"max": np.float32(6), "scales": np.array([1, 1, 2, 2], np.float32)},
    )
    graph = read_graph_of(path, {"x": (1, 3, 5, 7)})
    found = shapes_of(graph)
    assert found["big"] == found["act"] == (1, 3, 10, 14)
    assert found["flat"] == (1, 420)
    assert found["left"] == found["right"] == (1, 210)
    assert tensor(graph, "size") == Tensor("size", (2,), "int64")
    assert tensor(graph, "two") == stored("two", (2,), "int64")
    assert tensor(graph, "max") == stored("max", (), "float32")
    assert (tensor(graph, "x").shape, tensor(graph, "x").declared) == (
        (1, 3, 5, 7),
        (-1, 3, -1, -1),
    )
    assert [op.kind for op in graph.ops][:3] == ["Clip", "Resize", "QuickGelu"]
    assert [op.custom for op in graph.ops][:3] == [False, False, True]
    assert graph.ops[0].inputs[1] == -1
    assert graph.ops[2].attributes["alpha"] == 1.5
    assert [op.name for op in graph.ops][:5] == ["limit", "big", "act", "two", "limit"]
    assert [graph.tensors[i].name for i in graph.inputs] == ["x"]
    assert [graph.tensors[i].name for i in graph.outputs] == ["y", "left"]
    with pytest.raises(ModelFileError, match="give --shape x=1x3x224x224"):
        read_graph_of(path)
    with pytest.raises(UnsupportedError, match="no input z"):
        read_graph_of(path, {"z": (1, 3, 5, 7)})


def test_onnx_with_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = onnx_file(
        folder / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (2, 3)},
        ["y"],
        {"w": np.ones((3, 5), np.float32)},
        external=True,
    )
    assert len(list(folder.iterdir())) == 2
    monkeypatch.chdir(folder)
    graph = read_onnx(Path("m.onnx"))
    assert tensor(graph, "w") == stored("w", (3, 5), "float32")
    assert shapes_of(graph)["y"] == (2, 5)
    next(p for p in folder.iterdir() if p.name != "m.onnx").unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_onnx(path)


def test_onnx_half_floats_keep_their_type(tmp_path: Path) -> None:
    """onnxruntime runs them in float32 on most processors, and its profile says so."""
    node = helper.make_node
    path = onnx_file(
        tmp_path / "m.onnx",
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        {"x": (1, 2, 4, 4)},
        ["y"],
        {"w": np.ones((3, 2, 1, 1), np.float16)},
        TensorProto.FLOAT16,
    )
    graph = read_graph_of(path)
    assert {t.name: (t.dtype, t.shape) for t in graph.tensors} == {
        "x": ("float16", (1, 2, 4, 4)),
        "w": ("float16", (3, 2, 1, 1)),
        "c": ("float16", (1, 3, 4, 4)),
        "y": ("float16", (1, 3, 4, 4)),
    }


def test_onnx_branches_are_listed_and_keep_what_they_read_alive(tmp_path: Path) -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    yes = helper.make_graph([node("Neg", ["a"], ["p"])], "yes", [], [value("p", FLOAT, None)])
    no = helper.make_graph([node("Abs", ["a"], ["q"])], "no", [], [value("q", FLOAT, None)])
    path = onnx_file(
        tmp_path / "m.onnx",
        [
            node("Exp", ["x"], ["a"]),
            node("If", ["which"], ["y"], then_branch=yes, else_branch=no),
        ],
        {"x": (2, 3)},
        ["y"],
        {"which": np.array(True)},
    )
    graph = read_graph_of(path)
    assert [op.kind for op in graph.ops] == ["Exp", "If"]
    assert (graph.subgraphs, graph.weight_bytes) == (1, {"bool": 1})
    assert [graph.tensors[i].name for i in graph.ops[1].inputs] == ["which", "a"]
    assert shapes_of(graph)["y"] == (2, 3)
    assert unknown_kinds(graph) == ()


def test_quantized_onnx_has_the_types_of_the_file(qdq_onnx: Path) -> None:
    graph = read_graph_of(qdq_onnx)
    for op in graph.ops:
        if op.kind == "DequantizeLinear":
            assert graph.sources(op)[0].dtype in ("int8", "int32")
            assert graph.targets(op)[0].dtype == "float32"
            assert graph.sources(op)[0].shape == graph.targets(op)[0].shape
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(qdq_onnx))).graph.value_info
    found = shapes_of(graph)
    known = [info for info in inferred if info.name in found]
    assert len(known) > 5
    for info in known:
        dims = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim]
        assert found[info.name] == tuple(dims)


def test_onnx_that_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ModelFileError, match="neither a whole ONNX model"):
        read_graph_of(path)
    with pytest.raises(ModelFileError, match="does not exist"):
        read_graph_of(tmp_path / "none.onnx")
    mismatched = onnx_file(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ("n", "m")},
        ["y"],
        {"w": np.ones((3, 5), np.float32)},
    )
    assert shapes_of(read_graph_of(mismatched, {"": (2, 3)}))["y"] == (2, 5)
    with pytest.raises(ModelFileError, match=r"cannot run .*m\.onnx"):
        read_graph_of(mismatched, {"": (2, 4)})


def test_onnx_leaves_no_files_behind(
    conv_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(conv_onnx.parent.iterdir())
    read_graph_of(conv_onnx)
    assert list(tmp_path.iterdir()) == []
    assert set(conv_onnx.parent.iterdir()) == before
