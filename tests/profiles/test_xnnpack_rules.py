"""Planted refusals: the runtime must refuse each operator, and the reason must be the planted one.

Every case has a twin without the defect that the same runtime takes, so a reason that is given
blindly for every operator of a kind would not pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv4_deploy.profiles.inspection.inspect_tflite import inspect_here
from mnv4_deploy.profiles.records.files import OperatorFacts

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder


def only_operator(path: Path) -> OperatorFacts:
    (operator,) = inspect_here(str(path)).operators
    return operator


def assert_taken(path: Path) -> None:
    operator = only_operator(path)
    assert operator.delegated is True
    assert operator.refusal is None
    assert operator.partition == 0


def assert_refused(path: Path, *words: str) -> None:
    operator = only_operator(path)
    assert operator.delegated is False
    assert operator.partition is None
    assert operator.refusal is not None
    for word in words:
        assert word in operator.refusal


def batch_matmul(b: TfliteBuilder, path: Path, zero_point: int) -> Path:
    x = b.tensor("x", (1, 8, 16), "int8", scale=0.1)
    y = b.tensor("y", (1, 16, 8), "int8", scale=0.1, zero_point=zero_point)
    z = b.tensor("z", (1, 8, 8), "int8", scale=0.5)
    b.op("BATCH_MATMUL", (x, y), (z,), "BatchMatMulOptions", version=2)
    return b.write(path, (x, y), (z,))


def test_batch_matmul_second_operand_asymmetric(tflite: TfliteBuilder, tmp_path: Path) -> None:
    assert_refused(batch_matmul(tflite, tmp_path / "m.tflite", 3), "zero point is 3", "symmetric")


def test_batch_matmul_second_operand_symmetric(tflite: TfliteBuilder, tmp_path: Path) -> None:
    assert_taken(batch_matmul(tflite, tmp_path / "m.tflite", 0))


def fully_connected(b: TfliteBuilder, path: Path, *, dynamic: bool) -> Path:
    x = b.tensor("x", (4, 16), "int8", scale=0.1)
    data = None if dynamic else np.ones((8, 16), np.int8)
    w = b.tensor("w", (8, 16), "int8", scale=0.1, data=data)
    z = b.tensor("z", (4, 8), "int8", scale=0.5)
    b.op("FULLY_CONNECTED", (x, w, -1), (z,), "FullyConnectedOptions", version=4)
    return b.write(path, (x, w) if dynamic else (x,), (z,))


def test_fully_connected_dynamic_weight(tflite: TfliteBuilder, tmp_path: Path) -> None:
    path = fully_connected(tflite, tmp_path / "m.tflite", dynamic=True)
    assert_refused(path, "the weight is computed", "constant")


def test_fully_connected_constant_weight(tflite: TfliteBuilder, tmp_path: Path) -> None:
    assert_taken(fully_connected(tflite, tmp_path / "m.tflite", dynamic=False))


@pytest.mark.parametrize("kind", ["SOFTMAX", "RELU"])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_float_only_operators(
    tflite: TfliteBuilder, tmp_path: Path, kind: str, dtype: str
) -> None:
    quantized = dtype == "int8"
    x = tflite.tensor("x", (1, 16), dtype, scale=0.1 if quantized else None)
    scale, zero_point = (1 / 256, -128) if kind == "SOFTMAX" else (0.1, 0)
    y = tflite.tensor(
        "y", (1, 16), dtype, scale=scale if quantized else None, zero_point=zero_point
    )
    if kind == "SOFTMAX":
        tflite.op(kind, (x,), (y,), "SoftmaxOptions", version=2, beta=1.0)
    else:
        tflite.op(kind, (x,), (y,), version=2)
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    if quantized:
        assert_refused(path, f"{kind} in float only", "int8")
    else:
        assert_taken(path)


@pytest.mark.parametrize(
    ("scale", "taken"), [(1 / 1000, True), (1 / 1100, False), (255.0, True), (300.0, False)]
)
def test_add_scale_ratio(tflite: TfliteBuilder, tmp_path: Path, scale: float, taken: bool) -> None:
    x = tflite.tensor("x", (1, 16), "int8", scale=scale)
    y = tflite.tensor("y", (1, 16), "int8", scale=1.0)
    z = tflite.tensor("z", (1, 16), "int8", scale=1.0)
    tflite.op("ADD", (x, y), (z,), "AddOptions", version=2)
    path = tflite.write(tmp_path / "m.tflite", (x, y), (z,))
    if taken:
        assert_taken(path)
    else:
        assert_refused(path, "scale of input 0", "1/1024 to 256")


def test_reshape_that_changes_the_scale(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tflite.tensor("x", (4, 4), "int8", scale=0.1)
    shape = tflite.tensor("shape", (1,), "int32", data=np.array([16], np.int32))
    y = tflite.tensor("y", (16,), "int8", scale=0.2)
    tflite.op("RESHAPE", (x, shape), (y,), "ReshapeOptions", newShape=[16])
    assert_refused(tflite.write(tmp_path / "m.tflite", (x,), (y,)), "differ in quantization")


def test_operator_that_xnnpack_does_not_have(split_tflite: Path) -> None:
    facts = inspect_here(str(split_tflite))
    (refused,) = facts.not_delegated
    assert (refused.kind, refused.refusal) == ("CUMSUM", "XNNPACK has no CUMSUM")
