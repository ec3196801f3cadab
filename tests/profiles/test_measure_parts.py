"""Measurements of one file in several processes, whose runtimes number and order anew."""

from __future__ import annotations

import pytest

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.measure.parts import joined
from mnv4_deploy.profiles.records.profile import Conditions, TimedFile
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming


def part(*ops: tuple[str, str, float]) -> TimedFile:
    timings = tuple(OpTiming(tag, "onnxruntime", (us,), name=name) for tag, name, us in ops)
    return TimedFile(
        OpProfile("m.onnx", "onnxruntime", 1, timings), (0,), ((9.0,),), ((9.0,),), Conditions(())
    )


def test_nodes_that_are_numbered_and_ordered_anew_are_the_same() -> None:
    first = part(("Conv", "left_token_3", 1), ("Conv", "right_token_4", 2), ("Add", "sum", 3))
    again = part(("Conv", "right_token_9", 20), ("Conv", "left_token_8", 10), ("Add", "sum", 30))
    found = {op.name: op.samples_us for op in joined([first, again]).profile.ops}
    assert found == {"left_token_3": (1, 10), "right_token_4": (2, 20), "sum": (3, 30)}


def test_nodes_of_one_name_keep_their_order_but_for_equal_names() -> None:
    first = part(("Conv", "c_token_1", 1), ("Conv", "c_token_2", 2))
    same = part(("Conv", "c_token_2", 20), ("Conv", "c_token_1", 10))
    assert [op.samples_us for op in joined([first, same]).profile.ops] == [(1, 10), (2, 20)]
    other = part(("Conv", "c_token_5", 10), ("Conv", "c_token_6", 20))
    assert [op.samples_us for op in joined([first, other]).profile.ops] == [(1, 10), (2, 20)]


@pytest.mark.parametrize(
    "other",
    [
        part(("Conv", "c", 1)),
        part(("Conv", "c", 1), ("Conv", "d", 2), ("Add", "sum", 3)),
        part(("Conv", "c", 1), ("Mul", "d", 2)),
    ],
)
def test_other_nodes_are_another_file(other: TimedFile) -> None:
    with pytest.raises(ToolchainError, match=r"other operators of m\.onnx"):
        joined([part(("Conv", "c", 1), ("Conv", "d", 2)), other])
