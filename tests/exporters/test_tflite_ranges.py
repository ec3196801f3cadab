"""Edits of a TFLite graph and of its ranges, on values computed by hand."""

import numpy as np
import pytest

from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.to_tflite.convert import products_as_batch_matmul
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile, module_path
from mnv4_deploy.exporters.to_tflite.quantize import adjust_ranges

XNNPACK = recipe("xnnpack")


def addition(file):
    """The names of an ADD's operands and result."""
    (add,) = file.operators("ADD")
    return [file.name(int(t)) for t in (*add.inputs, *add.outputs)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # The result is 8 wide, so an operand must be 8/1024 wide, and 1 % more.
        pytest.param(
            [(-1.0, 3.0), (-0.001, 0.001), (-4.0, 4.0)],
            [(-1.0, 3.0), (-0.00404 * 0.9765625, 0.00404 * 0.9765625), (-4.0, 4.0)],
            id="faint-operand",
        ),
        pytest.param(
            [(-1.0, 3.0), (0.0, 0.001), (-4.0, 4.0)],
            [(-1.0, 3.0), (0.0, 0.00808 * 0.9765625), (-4.0, 4.0)],
            id="one-sided-operand",
        ),
        pytest.param(
            [(-1.0, 3.0), (0.0, 0.0), (-4.0, 4.0)],
            [(-1.0, 3.0), (-0.00404 * 0.9765625, 0.00404 * 0.9765625), (-4.0, 4.0)],
            id="zero-operand",
        ),
        # An operand 512 wide needs a result more than 2 wide.
        pytest.param(
            [(-256.0, 256.0), (-256.0, 256.0), (-0.5, 0.5)],
            [(-256.0, 256.0), (-256.0, 256.0), (-1.01, 1.01)],
            id="faint-result",
        ),
        pytest.param(
            [(-1.0, 3.0), (-1.0, 1.0), (-4.0, 4.0)],
            [(-1.0, 3.0), (-1.0, 1.0), (-4.0, 4.0)],
            id="nothing-to-do",
        ),
    ],
)
def test_scale_ratios(small, given, expected):
    file = TfliteFile(small.path)
    names = addition(file)
    adjusted = adjust_ranges(file, dict(zip(names, given, strict=True)), XNNPACK)
    for name, bounds in zip(names, expected, strict=True):
        assert adjusted[name] == pytest.approx(bounds, rel=1e-9)


def test_second_operand_of_a_product_becomes_symmetric_down_to_its_source(hybrid):
    file = TfliteFile(hybrid.path)
    product = next(file.operators("BATCH_MATMUL"))
    first, second = (file.name(int(t)) for t in product.inputs)
    source = file.name(int(file.producer(int(product.inputs[1])).inputs[0]))
    given = {first: (-1.0, 3.0), second: (-1.0, 3.0), source: (-1.0, 3.0)}
    adjusted = adjust_ranges(file, given, XNNPACK)
    assert adjusted[first] == (-1.0, 3.0)
    assert adjusted[source] == adjusted[second]
    low, high = adjusted[second]
    scale = (high - low) / 255
    assert scale == pytest.approx(3 / 127)
    assert low / scale == pytest.approx(-128)  # so the zero point is -128 + 128 = 0
    assert given[second] == (-1.0, 3.0)


def test_integer_only_keeps_the_ranges(hybrid):
    file = TfliteFile(hybrid.path)
    given = {file.name(index): (-1.0, 3.0) for index in range(len(file.graph.tensors))}
    assert adjust_ranges(file, given, recipe("integer-only")) == given


def test_a_computed_weight_becomes_a_product(hybrid):
    file = TfliteFile(hybrid.path)
    turned_back = [p for p in file.operators("BATCH_MATMUL") if p.builtinOptions.adjY][:3]
    for product in turned_back:
        product.opcodeIndex = file.opcode("FULLY_CONNECTED")
        product.inputs = np.append(product.inputs, -1).astype(np.int32)  # no bias
    assert len(turned_back) == 3
    assert products_as_batch_matmul(file) == 3
    for product in turned_back:
        assert file.kind(product) == "BATCH_MATMUL"
        assert len(product.inputs) == 2
        assert product.builtinOptions.adjY and not product.builtinOptions.adjX
    (classifier,) = file.operators("FULLY_CONNECTED")
    assert file.is_constant(int(classifier.inputs[1]))
    assert products_as_batch_matmul(file) == 0


def test_a_computed_weight_with_a_bias_stays(hybrid):
    file = TfliteFile(hybrid.path)
    (classifier,) = file.operators("FULLY_CONNECTED")
    product = next(file.operators("BATCH_MATMUL"))
    product.opcodeIndex = file.opcode("FULLY_CONNECTED")
    product.inputs = np.array([*product.inputs, classifier.inputs[2]], dtype=np.int32)
    assert products_as_batch_matmul(file) == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "_ChannelsLast/pkg.models.mobilenetv4.MobileNetV4_wrapped/"
            "torch.nn.modules.container.Sequential_blocks/"
            "torch.nn.modules.conv.Conv2d_conv;3",
            "blocks.conv",
        ),
        ("_ChannelsLast/pkg.Net_wrapped/pkg.Head_my_head;", "my_head"),
        ("_ChannelsLast/pkg.Net_wrapped;", "_ChannelsLast/pkg.Net_wrapped;"),
        ("arith.constant12", "arith.constant12"),
        ("serving_default_input:0", "serving_default_input:0"),
    ],
)
def test_module_path(name, path):
    assert module_path(name) == path


def test_opcode_is_added_once_and_keeps_the_higher_version(small):
    file = TfliteFile(small.path)
    count = len(file.model.operatorCodes)
    added = file.opcode("DEQUANTIZE", version=2)
    assert file.opcode("DEQUANTIZE") == added
    assert len(file.model.operatorCodes) == count + 1
    assert file.model.operatorCodes[added].version == 2
