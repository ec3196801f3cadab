"""Arrays through files on the real runtimes, raw."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import MissingLibraryError, ModelFileError, UnsupportedError
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.runtimes.litert import interpreter as open_tflite
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from tests.parity.checks import convs
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_onnx import floats, helper, save
from tests.profiles.planted_tflite import add, schema, tensor, unary


def residual(folder: Path, *, open_side: bool = False) -> tuple[Path, dict[str, int]]:
    b = TfliteBuilder()
    x = tensor(b, "x", (1, 4))
    if open_side:
        b.graph.tensors[x].shapeSignature = [-1, 4]
    negative = unary(b, "NEG", x, "negative")
    positive = unary(b, "RELU", negative, "positive")
    out = add(b, x, positive, "out")
    path = b.write(folder / "residual.tflite", (x,), (out,))
    return path, {"negative": negative, "positive": positive, "out": out}


X = np.array([[1, -2, 3, -4]], np.float32)


def test_outputs_and_intermediate_tensors(tmp_path: Path) -> None:
    path, at = residual(tmp_path)
    plain = TensorRunner(str(path))
    assert plain.runtime == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    (fact,) = plain.inputs
    assert (fact.name, fact.shape, fact.dtype) == ("x", (1, 4), "float32")
    (out,) = plain.run([X])
    assert out.tolist() == [[1, 0, 3, 0]]
    kept = TensorRunner(str(path), [at["positive"], at["negative"]])
    positive, negative = kept.run([X])
    assert (positive.tolist(), negative.tolist()) == ([[0, 2, 0, 4]], [[-1, 2, -3, 4]])
    again, _ = kept.run([-X])
    assert again.tolist() == [[1, 0, 3, 0]]
    assert positive.tolist() == [[0, 2, 0, 4]]  # results are arrays of their own


def test_codes_come_raw_with_their_scale(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, ("a", "b"))
    runner = TensorRunner(str(path))
    (fact,) = runner.inputs
    assert fact.scale == pytest.approx((0.1,))
    assert fact.zero_point == (0,)
    (codes,) = runner.run([np.ones((1, 8, 8, 4), np.int8)])
    assert codes.dtype == np.int8


def test_open_sides_follow_the_arrays(tmp_path: Path) -> None:
    path, _ = residual(tmp_path, open_side=True)
    runner = TensorRunner(str(path))
    assert runner.inputs[0].shape == (-1, 4)
    assert runner.run([np.repeat(X, 3, 0)])[0].shape == (3, 4)
    assert runner.run([X])[0].tolist() == [[1, 0, 3, 0]]


def test_onnx_gives_its_outputs(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["out"])],
        {"w": floats(4, 2)},
        ("batch", 4),
    )
    runner = TensorRunner(str(path))
    assert runner.runtime == f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    assert (runner.inputs[0].shape, runner.inputs[0].dtype) == (("batch", 4), "float32")
    assert runner.run([np.repeat(X, 2, 0)])[0].shape == (2, 2)
    with pytest.raises(UnsupportedError, match="gives its outputs alone"):
        TensorRunner(str(path), [0])


def test_outputs_of_a_tflite_file_in_its_order(tmp_path: Path) -> None:
    """Two int8 outputs with scales of their own, listed against the order of the operators."""
    b = TfliteBuilder()
    x = tensor(b, "x", (1, 4), "int8")
    first, second = (tensor(b, name, (1, 4), "int8") for name in ("first", "second"))
    for index, scale, zero_point in ((x, 0.5, 0), (first, 0.5, 0), (second, 0.25, -4)):
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [scale], [zero_point]
        b.graph.tensors[index].quantization = quantization
    b.op("RELU", (x,), (first,))
    b.op("QUANTIZE", (x,), (second,))
    path = b.write(tmp_path / "two.tflite", (x,), (second, first))
    for runner in (TensorRunner(str(path)), TensorRunner(str(path), [first])):
        assert runner.inputs == (TensorFacts("x", (1, 4), "int8", (0.5,), (0,)),)
        assert runner.outputs == (
            TensorFacts("second", (1, 4), "int8", (0.25,), (-4,)),
            TensorFacts("first", (1, 4), "int8", (0.5,), (0,)),
        )
    codes = np.array([[2, -6, 0, 7]], np.int8)
    requantized, positive = TensorRunner(str(path)).run([codes])
    assert requantized.tolist() == [[0, -16, -4, 10]]  # 2 codes * 0.5 / 0.25 - 4
    assert positive.tolist() == [[2, 0, 0, 7]]


def test_outputs_of_an_onnx_file_in_its_order(tmp_path: Path) -> None:
    """Scale and zero point are in its metadata; the integers that carry them are in the file."""
    onnx = pytest.importorskip("onnx")
    value, kinds = helper.make_tensor_value_info, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
            helper.make_node("Neg", ["x"], ["opposite"]),
        ],
        "net",
        [value("x", kinds.FLOAT, ["batch", 4])],
        [value("codes", kinds.INT8, ["batch", 4]), value("opposite", kinds.FLOAT, ["batch", 4])],
        [
            onnx.numpy_helper.from_array(np.array(0.25, np.float32), "scale"),
            onnx.numpy_helper.from_array(np.array(-4, np.int8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, {"codes.scale": "0.25", "codes.zero_point": "-4"})
    path = tmp_path / "two.onnx"
    onnx.save(model, str(path))
    runner = TensorRunner(str(path))
    assert runner.outputs == (
        TensorFacts("codes", ("batch", 4), "int8", (0.25,), (-4,)),
        TensorFacts("opposite", ("batch", 4), "float32"),
    )
    codes, opposite = runner.run([X])
    assert codes.tolist() == [[0, -12, 8, -20]]
    fact = runner.outputs[0]
    real = (codes.astype(np.float32) - fact.zero_point[0]) * fact.scale[0]
    assert real.tolist() == X.tolist()
    assert opposite.tolist() == (-X).tolist()


def test_open_sides_that_the_file_allocates_too_small(tmp_path: Path) -> None:
    """A 3x3 convolution without padding does not fit the 1x1 image that the file allocates."""
    b = TfliteBuilder()
    image = tensor(b, "image", (1, 1, 1, 2))
    b.graph.tensors[image].shapeSignature = [1, -1, -1, 2]
    weight = b.tensor("w", (1, 3, 3, 2), data=np.ones((1, 3, 3, 2), np.float32))
    bias = b.tensor("b", (1,), data=np.zeros(1, np.float32))
    out = tensor(b, "out", (1, 1, 1, 1))
    b.graph.tensors[out].shapeSignature = [1, -1, -1, 1]
    b.op(
        *("CONV_2D", (image, weight, bias), (out,), "Conv2DOptions"),
        **{"strideW": 1, "strideH": 1, "padding": schema.Padding.VALID},
    )
    path = b.write(tmp_path / "net.tflite", (image,), (out,))
    runner = TensorRunner(str(path))
    assert runner.outputs[0].shape == (1, -1, -1, 1)
    (found,) = runner.run([np.ones((1, 4, 5, 2), np.float32)])
    assert found.tolist() == np.full((1, 2, 3, 1), 18.0).tolist()
    with pytest.raises(ModelFileError, match="cannot run"):
        runner.run([np.ones((1, 2, 2, 2), np.float32)])
    (found,) = runner.run([np.ones((1, 3, 3, 2), np.float32)])
    assert found.tolist() == [[[[18.0]]]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "takes 1 inputs, not 0"),
        ([X.astype(np.float64)], "takes float32 as 'x', not float64"),
        ([X[0]], r"takes \[1, 4\] as 'x', not \[4\]"),
        ([X[:, :3]], r"takes \[1, 4\] as 'x', not \[1, 3\]"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path: Path, arrays: list[np.ndarray], message: str) -> None:
    runner = TensorRunner(str(residual(tmp_path)[0]))
    with pytest.raises(UnsupportedError, match=message):
        runner.run(arrays)
    assert runner.run([X])[0].tolist() == [[1, 0, 3, 0]]


def test_closed_unknown_and_damaged(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    runner = TensorRunner(str(path))
    runner.close()
    runner.close()
    with pytest.raises(UnsupportedError, match="was closed"):
        runner.run([X])
    with pytest.raises(UnsupportedError, match="has no tensor 99"):
        TensorRunner(str(path), [99])
    with pytest.raises(ModelFileError, match="cannot be read"):
        TensorRunner(str(tmp_path / "missing.tflite"))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model at all")
    with pytest.raises(ModelFileError, match=r"onnxruntime .* cannot load"):
        TensorRunner(str(damaged))


def test_without_a_runtime_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = residual(tmp_path)
    monkeypatch.setattr(open_tflite, "_RUNTIMES", (("none", "no_such_runtime"),))
    with pytest.raises(MissingLibraryError, match="needs ai-edge-litert"):
        TensorRunner(str(path))
