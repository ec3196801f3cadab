"""TFLite files as the runtime sees them: delegated whole, and computing what PyTorch computes."""

import re
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mnv4_deploy.errors import InputError, ToolchainError, UnsupportedError
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.to_tflite import io_types as tflite_io
from mnv4_deploy.exporters.to_tflite import metadata as tflite_metadata
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import (
    cast_tflite_to_fp16,
    observe_tflite,
    quantize_tflite,
)
from mnv4_deploy.profiles.inspection.inspect import inspect_file

TARGETS = ("xnnpack", "integer-only")


def run(path, image):
    """All outputs, by name, for an input of the file's own type."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=2)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return {
        d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()
    }


def quantized(image, file):
    scale, zero_point = file.quantization(int(file.graph.inputs[0]))
    return np.clip(np.round(image / scale) + zero_point, -128, 127).astype(np.int8)


def real(output, file, index=0):
    scale, zero_point = file.quantization(int(file.graph.outputs[index]))
    return (output.astype(np.float32) - zero_point) * np.float32(scale)


def sqnr_db(signal, other):
    return 10 * np.log10(np.square(signal).sum() / np.square(signal - other).sum())


@pytest.fixture(scope="session")
def int8_files(hybrid, shared):
    def quantize(folder):
        for target in TARGETS:
            path, images = folder / target, hybrid.images
            quantize_tflite(hybrid.path, path, images, recipe=recipe(target), method="average")

    folder = shared.folder("hybrid-int8", quantize)
    return {target: folder / target for target in TARGETS}


@pytest.fixture(scope="session")
def small_int8(small, shared):
    def quantize(folder):
        path = folder / "int8.tflite"
        quantize_tflite(small.path, path, small.images, recipe=recipe("xnnpack"))

    return shared.folder("small-int8", quantize) / "int8.tflite"


@pytest.mark.parametrize("name", ["hybrid", "small"])
def test_float_file_is_one_partition_and_equals_pytorch(name, request):
    converted = request.getfixturevalue(name)
    facts = inspect_file(converted.path)
    assert facts.partitions == 1 and facts.not_delegated == ()
    assert facts.histogram.get("TRANSPOSE", 0) == 0
    outputs = run(converted.path, converted.images[0])
    expected = converted.expected(converted.images[0])
    assert len(outputs) == len(expected)
    for (key, output), truth in zip(outputs.items(), expected.items(), strict=True):
        assert key == truth[0]
        assert np.abs(output - truth[1]).max() < 1e-4 * np.abs(truth[1]).max()


def test_attention_is_two_products_and_a_softmax_without_a_transpose(hybrid):
    histogram = inspect_file(hybrid.path).histogram
    assert histogram["BATCH_MATMUL"] == 16
    assert histogram["SOFTMAX"] == 8
    assert histogram["FULLY_CONNECTED"] == 1  # the classifier
    assert histogram.keys().isdisjoint({"TRANSPOSE", "MUL", "SUB", "DIV"})


def test_gelu_is_one_operator_and_exact(small):
    (gelu,) = TfliteFile(small.path).operators("GELU")
    assert not gelu.builtinOptions.approximate


def test_xnnpack_int8_is_one_partition(int8_files, small_int8):
    for path, islands in ((int8_files["xnnpack"], {"SOFTMAX"}), (small_int8, {"GELU"})):
        facts = inspect_file(path)
        assert facts.partitions == 1 and facts.not_delegated == ()
        assert {op.kind for op in facts.operators if op.compute == "float32"} == islands
        assert [t.dtype for t in (*facts.inputs, *facts.outputs)] == ["int8"] * (
            1 + len(facts.outputs)
        )


def test_without_the_recipe_operators_leave_xnnpack(small, tmp_path):
    """So the runtime does object to what the recipe avoids."""
    naive = replace(recipe("xnnpack"), float_ops=frozenset(), scale_ratios=())
    quantize_tflite(small.path, tmp_path / "int8", small.images, recipe=naive)
    left = Counter(op.kind for op in inspect_file(tmp_path / "int8").not_delegated)
    assert left == {"GELU": 1, "ADD": 1}


def test_a_faint_border_map_gets_the_scale_that_xnnpack_takes(small_int8):
    file = TfliteFile(small_int8)
    (add,) = file.operators("ADD")
    scales = [file.quantization(int(t))[0] for t in (*add.inputs, *add.outputs)]
    assert min(scales) / scales[-1] == pytest.approx(2**-10, rel=0.02)
    assert min(scales) >= scales[-1] * 2**-10


def test_second_operands_of_products_are_symmetric(int8_files):
    file = TfliteFile(int8_files["xnnpack"])
    products = list(file.operators("BATCH_MATMUL"))
    assert len(products) == 16
    assert {file.quantization(int(p.inputs[1]))[1] for p in products} == {0}


def test_integer_only_has_no_float_tensor(int8_files, small, tmp_path):
    target = recipe("integer-only")
    quantize_tflite(small.path, tmp_path / "small", small.images, recipe=target)
    for path in (int8_files["integer-only"], tmp_path / "small"):
        facts = inspect_file(path)
        assert facts.compute_histogram == {"int8": len(facts.operators)}
        file = TfliteFile(path)
        types = {file.schema.TensorType.INT8, file.schema.TensorType.INT32}
        assert {tensor.type for tensor in file.graph.tensors} <= types
        tflite_io.set_input(file, "uint8", "integer-only")
        tflite_io.set_outputs(file, "uint8", "integer-only")
        types.add(file.schema.TensorType.UINT8)
        assert {tensor.type for tensor in file.graph.tensors} <= types


@pytest.mark.parametrize("target", TARGETS)
def test_int8_stays_close_to_float(hybrid, int8_files, target):
    path = int8_files[target]
    file = TfliteFile(path)
    expected = np.concatenate([run(hybrid.path, image)["logits"] for image in hybrid.images])
    actual = np.concatenate(
        [real(run(path, quantized(i, file))["logits"], file) for i in hybrid.images]
    )
    assert sqnr_db(expected, actual) > 15
    assert (expected.argmax(1) == actual.argmax(1)).sum() >= 14


def test_an_output_that_a_float_operator_makes_keeps_its_name(small_int8):
    """GELU makes ``fine``: the signature must follow the QUANTIZE behind it, or LiteRT aborts."""
    file = TfliteFile(small_int8)
    entries = {e.name.decode(): e.tensorIndex for e in file.model.signatureDefs[0].outputs}
    assert entries == {file.name(int(t)): t for t in file.graph.outputs}
    assert entries.keys() == {"fine", "coarse"}
    facts = inspect_file(small_int8)
    assert {t.name: t.dtype for t in facts.outputs} == {"fine": "int8", "coarse": "int8"}


def test_int8_maps_stay_close_to_float(small, small_int8):
    file = TfliteFile(small_int8)
    outputs = run(small_int8, quantized(small.images[0], file))
    expected = small.expected(small.images[0])
    for index, (name, values) in enumerate(expected.items()):
        assert sqnr_db(values, real(outputs[name], file, index)) > 20


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("io", ["float", "uint8"])
def test_input_and_output_types_change_no_result(hybrid, int8_files, tmp_path, io, target):
    core = TfliteFile(int8_files[target])
    int8_input = quantized(hybrid.images[0], core)
    expected = run(int8_files[target], int8_input)["logits"]
    file = TfliteFile(int8_files[target])
    tflite_io.set_input(file, io, target)
    tflite_io.set_outputs(file, io, target)
    file.write(tmp_path / "wrapped")

    if io == "float":
        output = run(tmp_path / "wrapped", hybrid.images[0])["logits"]
        step = core.quantization(int(core.graph.outputs[0]))[0]
        assert output.dtype == np.float32
        assert np.abs(output - real(expected, core)).max() <= step * 1.001
    else:
        shifted = (int8_input.astype(np.int16) + 128).astype(np.uint8)
        output = run(tmp_path / "wrapped", shifted)["logits"]
        assert output.dtype == np.uint8
        assert np.abs(output.astype(int) - 128 - expected).max() <= 1
    facts = inspect_file(tmp_path / "wrapped")
    assert [t.name for t in (*facts.inputs, *facts.outputs)] == ["input", "logits"]
    if target == "xnnpack":
        assert facts.partitions == 1 and facts.not_delegated == ()


def test_int8_input_and_output_need_no_change(int8_files):
    file = TfliteFile(int8_files["xnnpack"])
    before = len(file.graph.operators)
    tflite_io.set_input(file, "int8", "xnnpack")
    tflite_io.set_outputs(file, "int8", "xnnpack")
    assert len(file.graph.operators) == before


def test_pixels_are_the_float_input_times_255(small, tmp_path):
    file = TfliteFile(small.path)
    tflite_io.pixels_in(file)
    file.write(tmp_path / "pixels")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 13, 3), np.uint8)
    from_pixels = run(tmp_path / "pixels", pixels)
    from_floats = run(small.path, pixels.astype(np.float32) / 255)
    for name, expected in from_floats.items():
        np.testing.assert_allclose(from_pixels[name], expected, rtol=1e-5, atol=1e-5)
    assert inspect_file(tmp_path / "pixels").partitions == 1


def test_known_input_range_replaces_the_observed_one(small, tmp_path):
    quantize_tflite(
        small.path, tmp_path / "int8", small.images,
        recipe=recipe("xnnpack"), input_range=(0.0, 1.0),
    )  # fmt: skip
    file = TfliteFile(tmp_path / "int8")
    assert file.quantization(int(file.graph.inputs[0])) == (pytest.approx(1 / 255), -128)


def test_ranges_that_were_observed_before_make_the_same_file(small, tmp_path):
    kept = observe_tflite(small.path, small.images)
    quantize_tflite(small.path, tmp_path / "a", small.images, recipe=recipe("xnnpack"))
    quantize_tflite(small.path, tmp_path / "b", (), recipe=recipe("xnnpack"), ranges=kept)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_short_last_batch_is_no_obstacle(small, tmp_path):
    batches = [small.images[0], small.images[1][:1]]
    quantize_tflite(small.path, tmp_path / "int8", batches, recipe=recipe("xnnpack"))
    assert inspect_file(tmp_path / "int8").partitions == 1


def test_fp16_halves_the_weights_and_little_else(hybrid, tmp_path):
    path = tmp_path / "fp16.tflite"
    cast_tflite_to_fp16(hybrid.path, path)
    facts = inspect_file(path)
    assert facts.partitions == 1 and facts.not_delegated == ()
    assert path.stat().st_size < 0.55 * hybrid.path.stat().st_size
    weights = facts.weight_bytes_by_dtype
    assert weights["float16"] > 0.95 * sum(weights.values())
    assert [t.dtype for t in (*facts.inputs, *facts.outputs)] == ["float32", "float32"]
    expected, actual = (run(p, hybrid.images[0])["logits"] for p in (hybrid.path, path))
    assert sqnr_db(expected, actual) > 40


def test_tensors_are_named_after_the_modules_that_made_them(hybrid):
    file = TfliteFile(hybrid.path)
    names = [file.name(index) for index in range(len(file.graph.tensors))]
    assert len(set(names)) == len(names)
    paths = {re.sub(r";\d+$", "", name) for name in names}
    known = {path for path, _ in hybrid.module.named_modules()}
    made = {
        re.sub(r";\d+$", "", file.name(int(operator.outputs[0])))
        for operator in file.operators("CONV_2D", "DEPTHWISE_CONV_2D")
    }
    assert {"conv_head", "blocks.2.4.attn.query.proj"} <= paths
    assert len(made & known) > 0.9 * len(made)


def test_metadata_and_labels_are_where_tools_look_for_them(small, tmp_path):
    facts = {"input": {"mean": [0.5, 0.5, 0.5]}, "labels": ["Katze", "Fähre"]}
    for path in (tmp_path / "a", tmp_path / "b"):
        file = TfliteFile(small.path)
        tflite_metadata.describe(file, facts)
        file.write(path)
        tflite_metadata.append_labels(path, ("Katze", "Fähre"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "Katze\nFähre\n"
    found = inspect_file(tmp_path / "a")
    assert "mnv4_deploy" in found.metadata
    assert "Katze" in found.metadata["mnv4_deploy"]
    expected, actual = (run(p, small.images[0]) for p in (small.path, tmp_path / "a"))
    np.testing.assert_array_equal(expected["fine"], actual["fine"])


def test_no_labels_no_archive(small, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(small.path.read_bytes())
    tflite_metadata.append_labels(path, ())
    assert path.read_bytes() == small.path.read_bytes()


def test_a_module_that_cannot_be_converted_leaves_nothing_behind(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ToolchainError, match="litert-torch could not convert"):
        export_tflite(Branching(), tmp_path / "model", input_shape=(1, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_calibration_images_that_are_not_finite_are_an_error(small, tmp_path):
    broken = small.images[0].copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        quantize_tflite(small.path, tmp_path / "int8", [broken], recipe=recipe("xnnpack"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_target():
    with pytest.raises(UnsupportedError, match="choose one of xnnpack, integer-only"):
        recipe("tpu")


def test_reference_is_left_alone(hybrid_reference, tmp_path):
    """Rewriting and converting work on copies: the network still has its norms and weights."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    for module in (network, hybrid_reference.module):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        rewritten = rewrite(module, "tflite", (64, 64)).module
        if module is network:
            export_tflite(rewritten, tmp_path / "m.tflite", input_shape=(1, 64, 64))
            export_tflite(module, tmp_path / "m.tflite", input_shape=(1, 64, 64))
        after = module.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in rewritten.modules())
