"""Reasons of stock recipes and single operators, each for one that the runtime refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.profiles.inspection.inspect_tflite import inspect_here
from mnv4_deploy.profiles.xnnpack.refusals import UNKNOWN, grouped
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_kinds import sign
from tests.profiles.test_xnnpack_rules import assert_refused


def _stored_weight(b: TfliteBuilder, dtype: str, shape: tuple[int, ...]) -> int:
    """A weight that is unpacked before use."""
    kind = np.float16 if dtype == "float16" else np.int8
    scale = None if dtype == "float16" else 0.1
    packed = b.tensor("packed", shape, dtype, scale=scale, data=np.ones(shape, kind))
    weight = b.tensor("weight", shape)
    b.op("DEQUANTIZE", (packed,), (weight,), version=3)
    return weight


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stored_weights_are_unpacked_once(
    tflite: TfliteBuilder, tmp_path: Path, dtype: str
) -> None:
    weight = _stored_weight(tflite, dtype, (4, 1, 1, 4))
    x, y = tflite.tensor("x", (1, 4, 4, 4)), tflite.tensor("y", (1, 4, 4, 4))
    bias = tflite.tensor("bias", (4,), data=np.zeros(4, np.float32))
    tflite.op("CONV_2D", (x, weight, bias), (y,), "Conv2DOptions", strideW=1, strideH=1)
    facts = inspect_here(str(tflite.write(tmp_path / "m.tflite", (x,), (y,))))
    assert (facts.partitions, facts.not_delegated) == (1, ())


def test_weights_of_an_operator_outside_stay_packed(tflite: TfliteBuilder, tmp_path: Path) -> None:
    weight = _stored_weight(tflite, "int8", (1, 1, 1, 4))
    x, y = tflite.tensor("x", (1, 4, 4, 4)), tflite.tensor("y", (1, 4, 4, 4))
    options = {"strideW": 1, "strideH": 1, "depthMultiplier": 1}
    # Without a bias.
    tflite.op("DEPTHWISE_CONV_2D", (x, weight), (y,), "DepthwiseConv2DOptions", **options)
    facts = inspect_here(str(tflite.write(tmp_path / "m.tflite", (x,), (y,))))
    kind = "DEPTHWISE_CONV_2D"
    assert [(op.kind, op.refusal) for op in facts.not_delegated] == [
        ("DEQUANTIZE", f"it unpacks the weights of {kind}, which is outside XNNPACK itself"),
        (kind, f"it has no bias, and XNNPACK takes {kind} with one only"),
    ]


def test_softmax_with_a_temperature(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, y = tflite.tensor("x", (1, 16)), tflite.tensor("y", (1, 16))
    tflite.op("SOFTMAX", (x,), (y,), "SoftmaxOptions", beta=0.5)
    assert_refused(tflite.write(tmp_path / "m.tflite", (x,), (y,)), "its beta is 0.5")


def test_pooling_that_skips(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, y = tflite.tensor("x", (1, 9, 9, 4)), tflite.tensor("y", (1, 3, 3, 4))
    sides = {"filterHeight": 2, "filterWidth": 2, "strideH": 3, "strideW": 3}
    tflite.op("MAX_POOL_2D", (x,), (y,), "Pool2DOptions", **sides)
    assert_refused(tflite.write(tmp_path / "m.tflite", (x,), (y,)), "stride of 3", "window of 2")


@pytest.mark.parametrize("mask", ["shrinkAxisMask", "newAxisMask", ""])
def test_slices_of_a_kind(tflite: TfliteBuilder, tmp_path: Path, mask: str) -> None:
    """A mask, or steps other than 1."""
    step = 1 if mask else 2
    shapes = {"shrinkAxisMask": (8,), "newAxisMask": (1, 8, 8), "": (4, 4)}
    x, y = tflite.tensor("x", (8, 8)), tflite.tensor("y", shapes[mask])
    values = {"begin": [0, 0], "end": [8, 8], "steps": [step, step]}
    three = [
        tflite.tensor(n, (2,), "int32", data=np.array(v, np.int32)) for n, v in values.items()
    ]
    options = {mask: 1} if mask else {}
    tflite.op("STRIDED_SLICE", (x, *three), (y,), "StridedSliceOptions", **options)
    said = {"shrinkAxisMask": "shrink axis mask", "newAxisMask": "new axis mask", "": "steps"}
    assert_refused(tflite.write(tmp_path / "m.tflite", (x,), (y,)), said[mask])


def test_a_slice_to_where_a_run_says(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, end, y = (
        tflite.tensor("x", (8,)),
        tflite.tensor("end", (1,), "int32"),
        tflite.tensor("y", (8,)),
    )
    begin, step = (
        tflite.tensor(name, (1,), "int32", data=np.array([value], np.int32))
        for name, value in (("begin", 0), ("step", 1))
    )
    tflite.op("STRIDED_SLICE", (x, begin, end, step), (y,), "StridedSliceOptions")
    path = tflite.write(tmp_path / "m.tflite", (x, end), (y,))
    assert_refused(path, "its end is computed at run time")


def test_a_split_into_many(tflite: TfliteBuilder, tmp_path: Path) -> None:
    axis = tflite.tensor("axis", (), "int32", data=np.array(1, np.int32))
    x = tflite.tensor("x", (1, 10))
    parts = [tflite.tensor(f"y{i}", (1, 2)) for i in range(5)]
    tflite.op("SPLIT", (axis, x), parts, "SplitOptions", numSplits=5)
    assert_refused(tflite.write(tmp_path / "m.tflite", (x,), parts), "5 outputs", "2 to 4")


def test_reasons_that_differ_in_numbers_are_one() -> None:
    told = [
        ("ADD", "its scale is -3.2e-05"),
        ("MUL", "its scale is 7"),
        ("ADD", "its scale is 0.5"),
    ]
    assert grouped(told) == [
        (2, "ADD", "its scale is -3.2e-05 (others differ in the numbers)"),
        (1, "MUL", "its scale is 7"),
    ]


RECIPES = [
    *("dynamic_wi8_afp32", "dynamic_wi4_afp32", "dynamic_wi2c_afp32", "dynamic_legacy_wi8_afp32"),
    *("weight_only_wi8_afp32", "weight_only_wi4_afp32", "static_wi8_ai8", "static_wi8_ai16"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_every_stock_recipe_is_explained(tmp_path: Path, name: str) -> None:
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
    from ai_edge_quantizer import recipe

    b = TfliteBuilder()
    rng = np.random.default_rng(0)
    x = b.tensor("x", (1, 16, 16, 64))
    current = x
    for at, kind in enumerate(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D")):
        depthwise = kind.startswith("DEPTH")
        shape = (1, 3, 3, 64) if depthwise else (64, 3, 3, 64)
        w = b.tensor(f"w{at}", shape, data=rng.standard_normal(shape).astype(np.float32))
        bias = b.tensor(f"b{at}", (64,), data=np.zeros(64, np.float32))
        out = b.tensor(f"y{at}", (1, 16, 16, 64))
        steps = {"strideW": 1, "strideH": 1} | ({"depthMultiplier": 1} if depthwise else {})
        options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        b.op(kind, (current, w, bias), (out,), options, **steps)
        current = out
    added = b.tensor("added", (1, 16, 16, 64))
    b.op("ADD", (current, current), (added,), "AddOptions")
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    pooled, logits, y = (
        b.tensor("pooled", (1, 64)),
        b.tensor("logits", (1, 8)),
        b.tensor("y", (1, 8)),
    )
    b.op("MEAN", (added, axes), (pooled,), "ReducerOptions", keepDims=False)
    head = b.tensor("head", (8, 64), data=rng.standard_normal((8, 64)).astype(np.float32))
    b.op("FULLY_CONNECTED", (pooled, head, -1), (logits,), "FullyConnectedOptions")
    b.op("SOFTMAX", (logits,), (y,), "SoftmaxOptions", beta=1.0)
    sign(b, "serving_default", 0, {"x": x}, {"y": y})
    source = b.write(tmp_path / "float.tflite", (x,), (y,))
    made = quantizer.Quantizer(str(source))
    made.load_quantization_recipe(getattr(recipe, name)())
    samples = [{"x": rng.standard_normal((1, 16, 16, 64)).astype(np.float32)}]
    given = (
        {"calibration_result": made.calibrate({"serving_default": samples})}
        if (made.need_calibration)
        else {}
    )
    path = tmp_path / "m.tflite"
    made.quantize(**given).export_model(str(path))
    facts = inspect_here(str(path))
    assert facts.partitions is not None
    reasons = {op.kind: op.refusal for op in facts.not_delegated}
    assert UNKNOWN not in reasons.values()
    assert not any("only known at run time" in (reason or "") for reason in reasons.values())
    if name == "dynamic_wi8_afp32":
        assert list(reasons) == ["DEPTHWISE_CONV_2D"]
    if name == "dynamic_wi4_afp32":
        assert "its weight is int4" in (reasons["CONV_2D"] or "")
    if name == "weight_only_wi4_afp32":
        assert "unpacked from int4 in every run" in (reasons["CONV_2D"] or "")
