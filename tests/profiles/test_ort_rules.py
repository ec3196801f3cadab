"""The table of what onnxruntime runs in 8 bits, row by row, against the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.profiles.ort.rules import NO_KERNEL, RULES
from tests.profiles.planted_pairs import PLANTED, SCALE, WITHOUT_ROW, plant

TYPES = {"uint8": np.uint8, "int8": np.int8}
# The result of ArgMax has another type than what it reads; ``inspect`` gives Where's condition
# as what it computes in, unless an int8 kernel does.
PAIRED = sorted(PLANTED.keys() - {"ArgMax", "Where"})
OF_KERNEL = [kind for kind in PAIRED if RULES[kind].way == "kernel"]
MOVING = [kind for kind in PAIRED if RULES[kind].way == "moves"]


def test_every_row_is_asked_about() -> None:
    assert RULES.keys() == PLANTED.keys()


@pytest.mark.parametrize("kind", sorted(PLANTED))
@pytest.mark.parametrize("codes", TYPES)
def test_between_pairs(tmp_path: Path, kind: str, codes: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx", TYPES[codes])
    if RULES[kind].way == "none":
        assert (operator.compute, operator.float_reason) == ("float32", NO_KERNEL)
        return
    assert operator.float_reason is None
    # A clip is dropped: the pair behind it does its work.
    assert operator.compute == (f"{codes}->float32" if RULES[kind].way == "clips" else codes)


@pytest.mark.parametrize("kind", sorted(WITHOUT_ROW))
def test_no_row(tmp_path: Path, kind: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx")
    assert (operator.compute, operator.float_reason) == ("float32", NO_KERNEL)


@pytest.mark.parametrize("kind", PAIRED)
def test_nothing_behind(tmp_path: Path, kind: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx", behind=False)
    rule = RULES[kind]
    if rule.writes_float or rule.passes:
        assert (operator.compute, operator.float_reason) == ("uint8", None)
        return
    assert operator.compute == "float32"
    assert operator.float_reason is not None
    expected = NO_KERNEL if rule.way == "none" else "its result has no QuantizeLinear behind it"
    assert operator.float_reason.startswith(expected)


@pytest.mark.parametrize("kind", [*OF_KERNEL, *MOVING])
def test_nothing_before(tmp_path: Path, kind: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx", before=False)
    if RULES[kind].passes:
        assert (operator.compute, operator.float_reason) == ("uint8", None)
        return
    assert operator.compute == "float32"
    assert operator.float_reason is not None
    assert operator.float_reason.startswith("it reads what Erf wrote in float")


@pytest.mark.parametrize("kind", [*OF_KERNEL, *MOVING])
def test_16_bits(tmp_path: Path, kind: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx", np.uint16)
    if RULES[kind].wide:
        assert (operator.compute, operator.float_reason) == ("uint16", None)
    else:
        assert operator.compute == "float32"
        assert operator.float_reason is not None
        assert "in int8 and uint8 only, and it reads uint16" in operator.float_reason


@pytest.mark.parametrize("kind", [*OF_KERNEL, *MOVING])
def test_another_scale_behind(tmp_path: Path, kind: str) -> None:
    operator = plant(kind, tmp_path / "m.onnx", result_scale=2 * SCALE)
    if RULES[kind].way == "kernel":
        assert (operator.compute, operator.float_reason) == ("uint8", None)
    else:
        assert operator.compute == "float32"
        assert operator.float_reason is not None
        assert "its result has another scale than its input" in operator.float_reason


def test_what_is_slower_says_so(tmp_path: Path) -> None:
    operator = plant("Softmax", tmp_path / "m.onnx", before=False)
    assert operator.float_reason is not None
    assert operator.float_reason.endswith(
        "; its int8 kernel takes 4 times as long as the float one"
    )
