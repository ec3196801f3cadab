"""The table of what XNNPACK takes, row by row, against the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnv4_deploy.profiles.inspection.inspect_tflite import inspect_here
from mnv4_deploy.profiles.xnnpack.rules import FLOAT_ONLY, RULES
from tests.profiles.planted_operators import PLANTERS, plant
from tests.profiles.test_xnnpack_rules import assert_refused, assert_taken

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

# Variables take several operators: test_tflite_kinds.py.
NOT_PLANTED = {"ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE"}
# LiteRT itself has no such kernel in int8.
NO_INT8_AT_ALL = {"CEIL", "COS", "FLOOR", "POW", "ROUND", "SIN", "SQUARE"}
WEIGHTED = [k for k, rule in RULES.items() if rule.dynamic or any(
    what == "the weight" for _, what in rule.constants
)]  # fmt: skip
LIMITED = [kind for kind, rule in RULES.items() if rule.scale_ratio is not None]


def test_every_row_is_asked_about() -> None:
    assert RULES.keys() == PLANTERS.keys() | NOT_PLANTED


@pytest.mark.parametrize("kind", sorted(PLANTERS.keys() - {"DEQUANTIZE"}))
def test_float32(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    path = plant(tflite, kind, "float32", tmp_path / "m.tflite")
    if RULES[kind].float32:
        assert_taken(path)
    else:
        assert_refused(path, f"XNNPACK has no {kind}")


@pytest.mark.parametrize("kind", sorted(PLANTERS.keys()))
def test_int8(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    path = plant(tflite, kind, "int8", tmp_path / "m.tflite")
    if kind in NO_INT8_AT_ALL:
        assert not RULES[kind].int8
        facts = inspect_here(str(path))
        assert (facts.histogram, facts.partitions, len(facts.notes)) == ({kind: 1}, None, 1)
    elif RULES[kind].int8:
        assert_taken(path)
    else:
        floats = RULES[kind].float32
        assert_refused(path, f"{kind} in float only" if floats else f"has no {kind}")


@pytest.mark.parametrize("kind", WEIGHTED)
def test_int8_weights_alone(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    path = plant(tflite, kind, "dynamic", tmp_path / "m.tflite")
    if RULES[kind].dynamic:
        assert_taken(path)
    else:
        assert_refused(path, "its weight is int8 and its input float32", kind)


@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("inside", [True, False])
def test_scale_ratios(
    tflite: TfliteBuilder, tmp_path: Path, kind: str, end: str, inside: bool
) -> None:
    limit = getattr(RULES[kind].scale_ratio, end)
    ratio = limit * (1.02 if inside == (end == "low") else 0.98)
    path = plant(tflite, kind, "int8", tmp_path / "m.tflite", ratio)
    if inside:
        assert_taken(path)
    else:
        assert_refused(path, "scale", "times the output's")


def test_float_only_is_what_networks_meet() -> None:
    assert {"DIV", "SQRT", "RSQRT", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"} <= FLOAT_ONLY
    assert FLOAT_ONLY.isdisjoint({"CONV_2D", "ADD", "MUL", "LOGISTIC", "POW", "CUMSUM"})
