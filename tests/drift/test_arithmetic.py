"""Files whose arithmetic is another one: weights of 4 bits, rounding at run time, 16 bits.

What is read from a file is held against what its runtime, or NumPy, computes with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

from mnv4_deploy.drift.causes.arithmetic import find_few_bits, find_narrow_activations
from mnv4_deploy.drift.causes.diagnose import diagnose
from mnv4_deploy.layers.compare import compare_layers
from mnv4_deploy.layers.networks.onnx_constants import Constants
from mnv4_deploy.layers.networks.open_network import open_network
from mnv4_deploy.layers.records import LayerDrift, LayersDrift, WeightsTrial
from mnv4_deploy.profiles.runtimes.ort.session import open_session
from mnv4_deploy.reports.drift.words import ranking_title
from tests.drift.layers_factory import (
    SPEC,
    make_pixels,
    make_subject,
    random_net,
    reference,
    write_onnx,
    write_tflite,
)
from tests.drift.planted import stock
from tests.drift.test_causes import layer, use

RNG = np.random.default_rng
PIXELS = make_pixels(8)
NET = random_net()
WRITERS = {"onnx": write_onnx, "tflite": write_tflite}


def matrix_model(weights: np.ndarray, *nodes: onnx.NodeProto, **constants: np.ndarray) -> bytes:
    """``x @ w`` where ``nodes`` make w, or w is a constant."""
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    if not nodes:
        tensors.append(numpy_helper.from_array(weights, "w"))
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matrix",
        [value("x", TensorProto.FLOAT, [None, weights.shape[0]])],
        [value("y", TensorProto.FLOAT, [None, weights.shape[1]])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def product(model: onnx.ModelProto) -> tuple[onnx.NodeProto, np.ndarray]:
    """The node with the weights, and the weights that onnxruntime computes with: of 1 @ w."""
    node = next(n for n in model.graph.node if "MatMul" in n.op_type)
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    session = open_session(model.SerializeToString())
    (found,) = session.run(None, {"x": np.eye(size, dtype=np.float32)})
    return node, found


@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_weights_are_those_of_the_kernel(symmetric: bool) -> None:
    """40 rows are one block of 32 and a part of another."""
    weights = RNG(0).normal(0.1, 1, (40, 24)).astype(np.float32)
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric)
    work = MatMulNBitsQuantizer(onnx.load_from_string(matrix_model(weights)), algo_config=config)
    work.process()
    node, expected = product(work.model.model)
    assert node.op_type == "MatMulNBits"
    found = Constants(work.model.model.graph).weights(node)
    assert found is not None and found.bits == 4
    np.testing.assert_allclose(found.values, expected.T, atol=1e-5)


def test_scales_of_blocks_are_those_of_the_kernel() -> None:
    codes = RNG(0).integers(-8, 8, (12, 6))
    scales = RNG(1).uniform(0.1, 1, (3, 6)).astype(np.float32)
    dequantize = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=4)
    model = onnx.load_from_string(matrix_model(codes, dequantize, s=scales))
    model.graph.initializer.append(
        helper.make_tensor("q", TensorProto.INT4, codes.shape, codes.ravel().tolist())
    )
    node, expected = product(model)
    found = Constants(model.graph).weights(node)
    assert found is not None and found.bits == 4
    np.testing.assert_allclose(found.values, expected.T, rtol=1e-6)
    np.testing.assert_allclose(found.values.T, codes * scales.repeat(4, 0), rtol=1e-6)


def test_a_dynamic_product_is_one_layer(tmp_path: Path) -> None:
    """ConvInteger, MatMulInteger and what makes their sums real: as many layers as in float."""
    float_, dynamic = write_onnx(NET, tmp_path / "float.onnx"), tmp_path / "dynamic.onnx"
    stock.quantize_onnx_dynamic(float_, dynamic)
    kinds = [node.op_type for node in onnx.load(dynamic).graph.node]
    assert kinds.count("ConvInteger") + kinds.count("MatMulInteger") == 3
    found = compare_layers(make_subject(float_), make_subject(dynamic), PIXELS)
    assert found.unmatched == ()
    assert [
        x.kind for x in found.layers if x.kind in ("Mul", "Cast", "DynamicQuantizeLinear")
    ] == []
    products = [x for x in found.layers if x.evidence.dynamic]
    assert len(products) == 3
    for one in products:
        assert one.isolated is not None and 20 < one.isolated.sqnr_db < 60
        assert one.evidence.weight_sqnr_db is not None and one.evidence.weight_sqnr_db > 30


def test_a_dynamic_product_computes_with_the_weights_that_are_read(tmp_path: Path) -> None:
    float_, dynamic = write_onnx(NET, tmp_path / "float.onnx"), tmp_path / "dynamic.onnx"
    stock.quantize_onnx_dynamic(float_, dynamic)
    network = open_network(make_subject(dynamic), (8, 10), "onnx")
    image = PIXELS[0]
    (feed,) = network.feed(image, SPEC).values()
    first = next(x for x in network.layers if x.kind == "ConvInteger")
    weights = network.weights(first)
    assert weights is not None
    # DynamicQuantizeLinear as the standard has it.
    low, high = min(feed.min(), 0), max(feed.max(), 0)
    step = (high - low) / 255
    zero = np.clip(np.rint(-low / step), 0, 255)
    read = (np.clip(np.rint(feed / step) + zero, 0, 255) - zero) * step
    given = replace(NET, weights={**NET.weights, "conv1.weight": weights.values.astype(float)})
    expected = given.layer("conv1", read.astype(float))
    found = network.run(network.feed(image, SPEC))[first.output]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("format_", WRITERS)
def test_a_network_runs_with_other_weights(tmp_path: Path, format_: str) -> None:
    other = random_net(1)
    path = WRITERS[format_](NET, tmp_path / f"float.{format_}")
    network = open_network(make_subject(path), (8, 10), "onnx")
    chosen = {"conv1": 0, "conv2": 1, "logits": 2}
    weighted = [x for x in network.layers if network.weights(x) is not None]
    given = {
        weighted[place].output: other.weights[f"{name}.weight"].astype(np.float32)
        for name, place in chosen.items()
    }
    mixed = {f"{name}.weight": other.weights[f"{name}.weight"] for name in chosen}
    expected = reference(replace(NET, weights={**NET.weights, **mixed}), PIXELS)["logits"]
    run = network.reweighed(given)
    for image, truth in zip(PIXELS, expected, strict=True):
        (found,) = run(network.feed(image, SPEC))
        np.testing.assert_allclose(found.ravel(), truth.ravel(), rtol=1e-4, atol=1e-4)


def narrow(*, dynamic: bool = False, bits: int = 8, wide: bool = False) -> tuple[LayerDrift, ...]:
    output = use(-3, 3, (-3, 3))
    if wide:
        output = replace(output, scale=6 / 65535, clipped_percent=1.0)
    facts = {"weight_scales": (0.1,), "weight_sqnr_db": 18.0, "weight_bits": bits}
    return tuple(layer(i, 18.0, output=output, dynamic=dynamic, **facts) for i in range(4))


def trial(weights_db: float) -> WeightsTrial:
    return WeightsTrial(8, 4, whole=True, sqnr_db=12.0, weights_db=weights_db, rounded_db=35.0)


def kinds(found: LayersDrift) -> list[str | None]:
    return [
        None if c is None else c.kind
        for c in (find_few_bits(found), find_narrow_activations(found))
    ]


def test_the_arithmetic_is_blamed_by_what_the_weights_alone_do() -> None:
    def named(weights_db: float, **facts: bool | int) -> list[str | None]:
        return kinds(LayersDrift(8, narrow(**facts), (), weights=trial(weights_db)))

    assert named(12.1, bits=4) == ["weights of few bits", None]
    assert named(30.0, bits=4) == [None, None]
    assert named(30.0, dynamic=True) == [None, "dynamic quantization"]
    assert named(30.0, wide=True) == [None, "16-bit activations"]
    assert named(12.1, dynamic=True) == named(12.1, wide=True) == [None, None]
    assert named(30.0) == [None, None]
    # 10^((12 - 30) / 10) is 1.6 %.
    cause = find_narrow_activations(LayersDrift(8, narrow(wide=True), (), weights=trial(30.0)))
    assert cause is not None and "98 %" in cause.sentence and "4 of 4" in cause.sentence


def test_what_matters_and_has_no_cause_is_not_called_sound() -> None:
    sound = LayersDrift(8, tuple(layer(i, 38.0) for i in range(6)), ())
    assert "Nothing to mend" in ranking_title(diagnose(sound, None, matters=False))
    assert "Nothing to mend" not in ranking_title(diagnose(sound, None, matters=True))
