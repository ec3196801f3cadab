"""Module paths out of the names in files of many origins."""

from __future__ import annotations

from collections import Counter

import pytest

from mnv4_deploy.profiles.join.modules import block_of, canonical, module_of_ops
from mnv4_deploy.profiles.records.graph import Format, ModelGraph, Operator, Tensor


def graph(
    file_format: Format, *ops: tuple[str, str, str, str | None]
) -> tuple[ModelGraph, tuple[str, ...]]:
    """A chain of (kind, node name, name of its output, name of its weights) and its modules."""
    tensors, operators = [Tensor("input", (1, 4), "float32")], []
    previous = 0
    for index, (kind, name, output, weights) in enumerate(ops):
        inputs = [previous]
        if weights is not None:
            tensors.append(Tensor(weights, (4, 4), "float32", constant=True))
            inputs.append(len(tensors) - 1)
        tensors.append(Tensor(output, (1, 4), "float32"))
        previous = len(tensors) - 1
        operators.append(Operator(index, kind, name or output, tuple(inputs), (previous,)))
    result = ModelGraph(file_format, tuple(tensors), tuple(operators), (0,), (len(tensors) - 1,))
    return result, module_of_ops(result)


def tflite(*ops: tuple[str, str, str | None]) -> tuple[str, ...]:
    """Modules of (kind, output, weights); an operator on the graph's output follows."""
    last = ("DEQUANTIZE", "", "output", None)
    return graph("tflite", *((k, "", out, w) for k, out, w in ops), last)[1][:-1]


def onnx(*ops: tuple[str, str, str | None]) -> tuple[str, ...]:
    """Modules of (kind, node name, weights)."""
    return graph("onnx", *((k, name, f"t{i}", w) for i, (k, name, w) in enumerate(ops)))[1]


# One network as this project's exporters name it: (TFLite kind, output, weights),
# (ONNX kind, node, weights), module.
LAYERS = [
    (("CONV_2D", "act1;2", "conv_stem"), ("Conv", "conv_stem/Conv"), "conv_stem"),
    (
        ("CONV_2D", "blocks.0.0.act;2", "blocks.0.0.conv_exp"),
        ("Conv", "blocks.0.0.conv_exp/Conv"),
        "blocks.0.0.conv_exp",
    ),
    (
        ("CONV_2D", "blocks.0.0.conv_pwl;3", "blocks.0.0.conv_pwl;2"),
        ("Conv", "blocks.0.0.conv_pwl/Conv"),
        "blocks.0.0.conv_pwl",
    ),
    (
        ("DEPTHWISE_CONV_2D", "blocks.1.0.dw_mid.act;2", "blocks.1.0.dw_mid.conv"),
        ("Conv", "blocks.1.0.dw_mid.conv/Conv"),
        "blocks.1.0.dw_mid.conv",
    ),
    (
        ("CONV_2D", "blocks.2.4.attn.query.proj;3", "blocks.2.4.attn.query.proj;2"),
        ("Conv", "blocks.2.4.attn.query.layer.proj/Conv"),
        "blocks.2.4.attn.query.proj",
    ),
    (
        ("CONV_2D", "blocks.2.4.attn.key.proj.conv;2", "blocks.2.4.attn.key.proj.conv"),
        ("Conv", "blocks.2.4.attn.key.layer.proj/Conv"),
        "blocks.2.4.attn.key.proj",
    ),
    (
        ("BATCH_MATMUL", "blocks.2.4.attn;3", None),
        ("MatMul", "blocks.2.4.attn/MatMul"),
        "blocks.2.4.attn",
    ),
    (
        ("BATCH_MATMUL", "blocks.2.4.attn;7", None),
        ("MatMul", "blocks.2.4.attn/MatMul_2"),
        "blocks.2.4.attn",
    ),
    (("ADD", "blocks.2.4", None), ("Add", "blocks.2.4/Add"), "blocks.2.4"),
    (("MEAN", "global_pool;2", None), ("GlobalAveragePool", "global_pool/Pool"), "global_pool"),
    (
        ("FULLY_CONNECTED", "logits;int8", "classifier;2"),
        ("Gemm", "classifier/Gemm"),
        "classifier",
    ),
]


def test_both_formats_give_every_layer_the_same_module() -> None:
    expected = tuple(module for _, _, module in LAYERS)
    assert tflite(*(layer for layer, _, _ in LAYERS)) == expected
    assert onnx(*((kind, name, None) for _, (kind, name), _ in LAYERS)) == expected
    # What comparisons join by, (module, how many of its kind before), is therefore equal too.
    keys = Counter((module, pair[0][0]) for pair, module in zip(LAYERS, expected, strict=True))
    assert keys["blocks.2.4.attn", "BATCH_MATMUL"] == 2


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("blocks.2.4.attn;3_dequant", "blocks.2.4.attn"),
        ("blocks.2.4.attn;4_quantized", "blocks.2.4.attn"),
        ("blocks.4.0.act;2", "blocks.4.0.act"),
        ("MobilenetV1/MobilenetV1/Conv2d_0/Relu6", "MobilenetV1/Conv2d_0"),
        (
            "MobilenetV2/expanded_conv_1/depthwise/Relu6;MobilenetV2/expanded_conv_1/depthwise/BN",
            "MobilenetV2/expanded_conv_1/depthwise",
        ),
        (
            "MobileNetV2/Conv2d_0_0/relu6/Relu6;StatefulPartitionedCall/MobileNetV2/Conv2d_0_0/x",
            "MobileNetV2/Conv2d_0_0",
        ),
        ("StatefulPartitionedCall/model/block_1/add", "model/block_1"),
        (
            "litert_torch.x.ChannelLastIOWrapper/net.models.Net_wrapped/"
            "torch.nn.modules.container.Sequential_blocks/net.layers.ConvNorm_0/"
            "torch.nn.modules.activation.ReLU_act;",
            "blocks.0.act",
        ),
        ("StatefulPartitionedCall:0", ""),
        ("Identity_2", ""),
        ("tfl.quantize", ""),
        ("arith.constant12_duplicated_731", ""),
        ("conv2d_451.tmp_0", ""),
        ("a b<script>", ""),
        ("", ""),
        ("input;int8", ""),
        ("output", ""),
    ],
)
def test_names_of_tflite_tensors(name: str, module: str) -> None:
    assert tflite(("ADD", name, None), ("ADD", "blocks.9;2", None))[0] == module


def test_single_word_is_no_module_in_files_of_others() -> None:
    assert tflite(("ADD", "add_7", None)) == ("",)
    assert tflite(("ADD", "global_pool", None), ("ADD", "act1;2", None)) == ("global_pool", "act1")


def test_unpacked_weights_name_their_convolution() -> None:
    tensors = (
        Tensor("input", (1, 4, 4, 4), "float32"),
        Tensor("conv_stem", (4, 1, 1, 4), "float16", constant=True),
        Tensor("conv_stem;2", (4, 1, 1, 4), "float32"),
        Tensor("act1;2", (1, 4, 4, 4), "float32"),
    )
    ops = (
        Operator(0, "DEQUANTIZE", "conv_stem;2", (1,), (2,)),
        Operator(1, "CONV_2D", "act1;2", (0, 2), (3,)),
    )
    assert module_of_ops(ModelGraph("tflite", tensors, ops, (0,), (3,))) == ("conv_stem",) * 2


def test_shared_tf_constants_do_not_name_a_layer() -> None:
    weights = "MobileNetV2/expanded_conv_6/project/Conv2D"
    name = "MobileNetV2/expanded_conv_1/depthwise/Relu6"
    assert tflite(("CONV_2D", name, weights)) == ("MobileNetV2/expanded_conv_1/depthwise",)


@pytest.mark.parametrize(
    ("name", "weights", "module"),
    [
        ("blocks.0.0.act/Relu_QuantizeLinear", None, "blocks.0.0.act"),
        ("blocks.0.0.conv.weight_DequantizeLinear", None, "blocks.0.0.conv"),
        ("input_QuantizeLinear", None, ""),
        ("/layer1/layer1.0/conv1/Conv", None, "layer1.0.conv1"),
        ("/features/features.3/conv/conv.0/Conv", None, "features.3.conv.0"),
        ("/encoder/layer.0/attention/MatMul_1", None, "encoder.layer.0.attention"),
        ("node_Conv_655", "conv_stem.weight", "conv_stem"),
        ("node_linear", "classifier.weight", "classifier"),
        ("p2o.Conv.3", "conv2d_396.w_0", ""),
        ("Conv@1", "conv2_expand_weights", ""),
        ("Conv_12", "onnx::Conv_193", ""),
        ("model/block_1/conv/Conv2D", None, "model/block_1/conv"),
        ("", None, ""),
        ("/", None, ""),
        ("//Conv", None, ""),
    ],
)
def test_names_of_onnx_nodes(name: str, weights: str | None, module: str) -> None:
    kind = "Conv" if weights else "Relu"
    assert onnx((kind, name, weights), ("Relu", "last/Relu", None))[0] == module


def test_wrappers_are_taken_off_but_numbered_layers_stay() -> None:
    assert canonical("blocks.3.8.attn.qkv.layer") == "blocks.3.8.attn.qkv"
    assert canonical("blocks.2.4.attn.key.layer.down_conv") == "blocks.2.4.attn.key.down_conv"
    assert canonical("encoder.layer.0.attention") == "encoder.layer.0.attention"
    assert canonical("blocks.1.0.pw_proj.conv") == "blocks.1.0.pw_proj.conv"


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("blocks.2.4.attn.query.proj", "blocks.2.4"),
        ("blocks.2.4", "blocks.2.4"),
        ("conv_stem", "conv_stem"),
        ("head.fc", "head"),
        ("layer1.0.conv1", "layer1.0"),
        ("features.3.conv.0", "features.3"),
        ("stages.0.blocks.1.mlp.fc1", "stages.0.blocks.1"),
        ("encoder.layer.11.attention", "encoder.layer.11"),
        ("stages.0", "stages.0"),
        ("MobilenetV2/expanded_conv_1/depthwise", "MobilenetV2/expanded_conv_1"),
        ("MobilenetV1", "MobilenetV1"),
        ("", ""),
        ("...", ""),
    ],
)
def test_blocks(module: str, block: str) -> None:
    assert block_of(module) == block


def test_blocks_of_a_given_depth() -> None:
    module = "blocks.2.4.attn.query.proj"
    assert [block_of(module, n) for n in (1, 2, 3, 99)] == [
        "blocks",
        "blocks.2",
        "blocks.2.4",
        module,
    ]
    assert block_of(module, 0) == "blocks"
    assert block_of("MobilenetV2/expanded_conv_1/depthwise", 1) == "MobilenetV2"
