"""Executed nodes of the real onnxruntime joined with planted graphs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.profiles.graph.onnx.read import read_onnx
from mnv4_deploy.profiles.graph.onnx.renamed import renamed_copy
from mnv4_deploy.profiles.join.absorb import base_name
from mnv4_deploy.profiles.join.ort import join_ort
from mnv4_deploy.profiles.join.ort_trace import ExecutedNode, OrtTrace, trace_ort
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.ort.inputs import example_inputs
from mnv4_deploy.profiles.runtimes.ort.session import open_session
from tests.profiles.planted_onnx import floats, helper, save

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def measure(path: Path, folder: Path) -> list[OpTiming]:
    """What the runtime says it ran."""
    session = open_session(path, profile_prefix=folder / "profile")
    session.run(None, example_inputs(session))
    profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in profile:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name, event["args"]["op_name"]].append(float(event["dur"]))
    return [
        OpTiming(kind, "onnxruntime", tuple(samples), name=name)
        for (name, kind), samples in times.items()
    ]


class Joined:
    """The layers of a file that really ran, checked for what must hold of every file."""

    def __init__(self, path: Path, folder: Path) -> None:
        measured = renamed_copy(path, folder / "renamed")
        self.graph: ModelGraph = read_onnx(path)
        self.timings = measure(measured, folder)
        self.layers = join_ort(self.graph, self.timings, trace_ort(measured))
        times = [i for layer in self.layers for i in layer.timing_indices]
        assert sorted(times) == list(range(len(self.timings)))
        counts = Counter(i for layer in self.layers for i in layer.op_indices)
        for op in self.graph.ops:
            if op.kind != "DequantizeLinear":
                assert counts[op.index] <= 1, op
        assert all(layer.backend == "onnxruntime" for layer in self.layers)
        self.missing = [op.name for op in self.graph.ops if op.index not in counts]

    @property
    def rows(self) -> list[tuple[str, tuple[str, ...]]]:
        """(kind, names of the file's nodes), without layout changes."""
        return [
            (layer.op_type, tuple(self.graph.ops[i].name for i in layer.op_indices))
            for layer in self.layers
            if layer.op_indices
        ]

    def of(self, name: str) -> Layer:
        return next(
            layer
            for layer in self.layers
            if name in [self.graph.ops[i].name for i in layer.op_indices]
        )


def test_activation_and_batch_norm_are_in_the_layer_of_their_convolution(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="a/Conv", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c0", "s", "s", "s", "s"], ["n0"], name="a/Norm"),
        helper.make_node("Relu", ["n0"], ["r0"], name="a/Relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="b/Conv", pads=[1] * 4),
        helper.make_node("Add", ["c1", "r0"], ["s1"], name="b/Add"),
        helper.make_node("Conv", ["s1", "w1"], ["c2"], name="c/Conv", pads=[1] * 4),
        helper.make_node("Add", ["c2", "s1"], ["out"], name="c/Add"),
    ]
    weights = {"w0": floats(16, 3, 3, 3), "w1": floats(16, 16, 3, 3), "s": abs(floats(16)) + 1}
    joined = Joined(save(tmp_path, nodes, weights, (1, 3, 16, 16)), tmp_path)
    assert joined.missing == []
    # Additions may be fused or not, but only with the convolution before them.
    assert joined.of("a/Conv") == joined.of("a/Norm") == joined.of("a/Relu")
    for block in "bc":
        layer = joined.of(f"{block}/Add")
        assert layer in (joined.of(f"{block}/Conv"), layer)
        assert {joined.graph.ops[i].name[0] for i in layer.op_indices} == {block}
    convolutions = [name for kind, (name, *_) in joined.rows if kind == "Conv"]
    assert convolutions == ["a/Conv", "b/Conv", "c/Conv"]
    assert {layer.compute for layer in joined.layers} == {"float32"}
    assert joined.of("a/Conv").module == "a"


def test_layout_changes_are_rows_next_to_what_needs_them(conv_onnx: Path, tmp_path: Path) -> None:
    joined = Joined(conv_onnx, tmp_path)
    assert joined.missing == []
    kinds = [kind for kind, _ in joined.rows]
    assert kinds == ["Conv", "Conv", "Erf", "GlobalAveragePool"]
    for layer in joined.layers:
        if not layer.op_indices:
            assert layer.op_type.startswith("Reorder") and layer.timing_indices


def test_quantized_convolutions_and_shared_unpacking(qdq_onnx: Path, tmp_path: Path) -> None:
    joined = Joined(qdq_onnx, tmp_path)
    assert joined.missing == []
    convolutions = [layer for layer in joined.layers if layer.op_type == "Conv"]
    assert len(convolutions) == 2
    for layer, name in zip(convolutions, ("conv0", "conv1"), strict=True):
        kinds = Counter(joined.graph.ops[i].kind for i in layer.op_indices)
        assert layer.name == name and kinds["Conv"] == 1 and kinds["DequantizeLinear"] >= 2
        assert layer.compute in ("uint8", "int8")
        (at,) = layer.timing_indices
        assert joined.timings[at].tag == "QLinearConv"
    assert joined.of("erf1").compute == "float32"


def quantized_pair(folder: Path) -> Path:
    """x -> Q -> DQ, which two additions read; each result is quantized again."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="in_q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="shared_dq"),
    ]
    for name in "ab":
        nodes += [
            helper.make_node(
                "QuantizeLinear", [f"{name}w", "s", "z"], [f"{name}q"], name=f"{name}_wq"
            ),
            helper.make_node(
                "DequantizeLinear", [f"{name}q", "s", "z"], [f"{name}d"], name=f"{name}_wdq"
            ),
            helper.make_node("Add", ["d", f"{name}d"], [f"{name}s"], name=f"{name}_add"),
            helper.make_node(
                "QuantizeLinear", [f"{name}s", "s", "z"], [f"{name}o"], name=f"{name}_q"
            ),
            helper.make_node(
                "DequantizeLinear", [f"{name}o", "s", "z"], [f"{name}r"], name=f"{name}_dq"
            ),
        ]
    nodes.append(helper.make_node("Mul", ["ar", "br"], ["m"], name="mul"))
    nodes.append(helper.make_node("Softmax", ["m"], ["out"], name="softmax"))
    weights = {
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "aw": floats(1, 64),
        "bw": floats(1, 64),
    }
    return save(folder, nodes, weights, (8, 64))


def test_unpacking_that_two_read_is_with_both(tmp_path: Path) -> None:
    joined = Joined(quantized_pair(tmp_path), tmp_path)
    with_shared = [
        layer
        for layer in joined.layers
        if "shared_dq" in [joined.graph.ops[i].name for i in layer.op_indices]
    ]
    assert sorted(layer.name for layer in with_shared) == ["a_add", "b_add"]
    assert {layer.op_type for layer in with_shared} == {"Add"}
    assert {layer.compute for layer in with_shared} == {"uint8"}
    for name in "ab":
        assert joined.of(f"{name}_q") == joined.of(f"{name}_add")
    assert joined.of("in_q").op_type == "QuantizeLinear"
    assert joined.of("softmax").op_indices == (joined.graph.ops[-1].index,)
    # Weights quantized beforehand are no work of a run.
    assert set(joined.missing) <= {"a_wq", "b_wq"}


def test_quantization_moved_to_before_a_reshape_keeps_its_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], name="tanh"),
        helper.make_node("Reshape", ["t", "shape"], ["r"], name="reshape"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("Add", ["d", "d"], ["a"], name="add"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"], name="add_q"),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["ad"], name="add_dq"),
        helper.make_node("Softmax", ["ad"], ["out"], name="softmax"),
    ]
    weights = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "shape": np.array([16, 32]),
    }
    joined = Joined(save(tmp_path, nodes, weights, (8, 64)), tmp_path)
    assert joined.missing == []
    kinds = [joined.timings[layer.timing_indices[0]].tag for layer in joined.layers]
    assert kinds.index("QuantizeLinear") < kinds.index("Reshape")  # it was moved
    assert joined.of("quantize").op_type == "QuantizeLinear"
    assert joined.of("quantize").compute == "float32->uint8"
    assert joined.of("reshape").op_indices == (1,)
    assert joined.of("add_q") == joined.of("add") == joined.of("dequantize")


def test_layer_norm_written_out_is_one_layer(tmp_path: Path) -> None:
    parts = [
        ("ReduceMean", ["g"], "mean", {"axes": [-1]}),
        ("Sub", ["g", "mean"], "centred", {}),
        ("Pow", ["centred", "two"], "squared", {}),
        ("ReduceMean", ["squared"], "variance", {"axes": [-1]}),
        ("Add", ["variance", "eps"], "shifted", {}),
        ("Sqrt", ["shifted"], "root", {}),
        ("Div", ["centred", "root"], "scaled", {}),
        ("Mul", ["scaled", "gamma"], "weighted", {}),
        ("Add", ["weighted", "beta"], "normed", {}),
    ]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["g"], name="fc/Gemm")]
    nodes += [
        helper.make_node(kind, ins, [out], name=f"norm/{out}", **attributes)
        for kind, ins, out, attributes in parts
    ]
    nodes.append(helper.make_node("Gemm", ["normed", "w"], ["out"], name="head/Gemm"))
    weights = {
        "w": floats(32, 32),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "gamma": floats(32),
        "beta": floats(32),
    }
    joined = Joined(save(tmp_path, nodes, weights, (4, 32)), tmp_path)
    assert joined.rows == [
        ("Gemm", ("fc/Gemm",)),
        ("LayerNormalization", tuple(f"norm/{out}" for _, _, out, _ in parts)),
        ("Gemm", ("head/Gemm",)),
    ]
    assert joined.of("norm/root").module == "norm"


def test_gelu_written_out_is_one_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="up/MatMul"),
        helper.make_node("Add", ["m", "b"], ["u"], name="up/Add"),
        helper.make_node("Div", ["u", "root2"], ["d"], name="act/Div"),
        helper.make_node("Erf", ["d"], ["e"], name="act/Erf"),
        helper.make_node("Add", ["e", "one"], ["p"], name="act/Add"),
        helper.make_node("Mul", ["u", "p"], ["q"], name="act/Mul"),
        helper.make_node("Mul", ["q", "half"], ["g"], name="act/Mul_1"),
        helper.make_node("MatMul", ["g", "w"], ["out"], name="down/MatMul"),
    ]
    constants = {"root2": 2**0.5, "one": 1.0, "half": 0.5}
    weights = {name: np.array(value, np.float32) for name, value in constants.items()}
    joined = Joined(
        save(tmp_path, nodes, {**weights, "w": floats(32, 32), "b": floats(32)}, (1, 4, 32)),
        tmp_path,
    )
    assert joined.missing == []
    act = {"act/Div", "act/Erf", "act/Add", "act/Mul", "act/Mul_1"}
    (gelu,) = [names for kind, names in joined.rows if act & set(names)]
    # The bias may be fused into it (BiasGelu), a matrix product never.
    assert act <= set(gelu) <= act | {"up/Add"}
    assert "Gelu" in joined.of("act/Erf").op_type
    assert joined.of("up/MatMul").op_type == joined.of("down/MatMul").op_type == "MatMul"


def test_quick_gelu_does_not_take_the_convolution_before_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["g"], name="fc/Gemm"),
        helper.make_node("Sigmoid", ["g"], ["s"], name="act/Sigmoid"),
        helper.make_node("Mul", ["g", "s"], ["y"], name="act/Mul"),
        helper.make_node("Gemm", ["y", "w"], ["out"], name="head/Gemm"),
    ]
    joined = Joined(save(tmp_path, nodes, {"w": floats(32, 32)}, (4, 32)), tmp_path)
    assert joined.rows == [
        ("Gemm", ("fc/Gemm",)),
        ("QuickGelu", ("act/Sigmoid", "act/Mul")),
        ("Gemm", ("head/Gemm",)),
    ]


def test_transpose_fused_into_a_product(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], name="s"),
        helper.make_node("Transpose", ["s"], ["t"], name="t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["m"], name="m"),
        helper.make_node("Tanh", ["m"], ["out"], name="tanh"),
    ]
    joined = Joined(save(tmp_path, nodes, {}, (2, 8, 16)), tmp_path)
    assert joined.rows == [("Softmax", ("s",)), ("MatMul", ("t", "m")), ("Tanh", ("tanh",))]


def test_arithmetic_on_constants_is_in_no_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], name="const", value_ints=[0, 0, -1]),
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], name="gather"),
        helper.make_node("Concat", ["batch", "minus"], ["target"], name="concat", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"], name="reshape"),
        helper.make_node("Sqrt", ["four"], ["two"], name="sqrt"),
        helper.make_node("Mul", ["flat", "two"], ["y"], name="mul"),
        helper.make_node("Identity", ["y"], ["out"], name="identity"),
    ]
    weights = {
        "zero": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
        "four": np.float32(4),
    }
    joined = Joined(save(tmp_path, nodes, weights, (2, 3, 5)), tmp_path)
    assert set(joined.missing) == {"const", "shape", "gather", "concat", "sqrt"}
    assert joined.rows == [("Reshape", ("reshape",)), ("Mul", ("mul", "identity"))]


@pytest.mark.parametrize("names", [[""] * 5, ["same"] * 5, ["a", "", "a", "a#2", ""]])
def test_nodes_without_names_of_their_own(names: list[str], tmp_path: Path) -> None:
    kinds = ["Tanh", "Softmax", "Tanh", "Erf", "Softmax"]
    tensors = ["x", "t1", "t2", "t3", "t4", "out"]
    nodes = [
        helper.make_node(kind, [tensors[i]], [tensors[i + 1]], name=names[i])
        for i, kind in enumerate(kinds)
    ]
    path = save(tmp_path, nodes, {}, (4, 32))
    joined = Joined(path, tmp_path)
    assert [layer.op_type for layer in joined.layers] == kinds
    assert [layer.op_indices for layer in joined.layers] == [(i,) for i in range(5)]
    assert [joined.timings[layer.timing_indices[0]].tag for layer in joined.layers] == kinds


def test_timing_that_the_trace_does_not_know_is_a_row_of_its_own(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["out"], name="act")]
    graph = read_onnx(save(tmp_path, nodes, {}, (1, 4)))
    trace = OrtTrace((ExecutedNode("act", "Tanh", "float32", (0,)),))
    known = OpTiming("Tanh", "onnxruntime", (1.0,), name="act")
    unknown = OpTiming("Warp", "onnxruntime", (1.0,), name="drive")
    layers = join_ort(graph, [unknown, known], trace)
    assert [(n.op_type, n.op_indices, n.timing_indices) for n in layers] == [
        ("Warp", (), (0,)),
        ("Tanh", (0,), (1,)),
    ]
    (unmeasured,) = join_ort(graph, [], trace)
    assert unmeasured.op_indices == (0,) and unmeasured.timing_indices == ()


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("act1/Relu_nchwc", "act1/Relu"),
        ("blocks.0.0.conv_exp/Conv_token_20", "blocks.0.0.conv_exp/Conv"),
        ("attn/MatMul/MatmulTransposeFusion/", "attn/MatMul"),
        ("getitem_75_bn_nchwc", "getitem_75"),
        ("attn/MatMul_2", "attn/MatMul_2"),
        ("_token_1", "_token_1"),
    ],
)
def test_names_without_what_the_runtime_appends(name: str, base: str) -> None:
    assert base_name(name) == base
