"""Files that take turns on a device, and what becomes of their parts."""

from dataclasses import replace

import pytest

from mnv4_deploy.device.android.turns import turns
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.measure.parts import joined
from mnv4_deploy.profiles.records.profile import Conditions, MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming


def part(first: float, *, tag: str = "GEMM", conditions: Conditions | None = None) -> TimedFile:
    """An invocation that took ``first`` us, of which its two operators took half each."""
    ops = (
        OpTiming(tag, "xnnpack", (first / 2,), partition=0),
        OpTiming("ADD", "builtin", (first / 2,), op_index=1),
    )
    return TimedFile(
        profile=OpProfile("m.tflite", "tool", 2, ops),
        cpus=(0, 1),
        rounds_us=((first,),),
        profiled_rounds_us=((first + 1,),),
        conditions=conditions or Conditions((first,)),
        notes=("always", f"of {first:g}"),
    )


def test_one_file_runs_at_once():
    request = MeasureRequest("a", runs=100, max_seconds=6)
    assert list(turns([request])) == [(0, request)]
    assert joined([part(4)]) == part(4)


def test_several_files_alternate_and_get_all_their_runs():
    requests = [MeasureRequest("a", runs=100, max_seconds=6), MeasureRequest("b", runs=1)]
    planned = list(turns(requests))
    assert [index for index, _ in planned] == [0, 1] * (len(planned) // 2)
    first = [request for index, request in planned if index == 0]
    assert sum(request.runs for request in first) >= 100
    assert sum(request.max_seconds for request in first) == pytest.approx(6)
    assert all(request.runs == 1 for index, request in planned if index == 1)


def test_parts_become_one_measurement():
    whole = joined([part(4), part(2), part(6)])
    assert whole.rounds_us == ((4,), (2,), (6,))
    assert whole.profiled_rounds_us == ((5,), (3,), (7,))
    assert [op.samples_us for op in whole.profile.ops] == [(2, 1, 3), (2, 1, 3)]
    assert [op.op_index for op in whole.profile.ops] == [None, 1]
    assert whole.notes == ("always", "of 4", "of 2", "of 6")


def test_conditions_are_the_worst_that_were_told():
    told = [Conditions((1.0,), 3.0, None), Conditions((2.0,), 1.0, None), Conditions(())]
    whole = joined([part(4, conditions=conditions) for conditions in told])
    assert whole.conditions == Conditions((1.0, 2.0), 3.0, None)


@pytest.mark.parametrize(
    "other", [part(4, tag="IGEMM"), replace(part(4), profile=replace(part(4).profile, ops=()))]
)
def test_parts_with_other_operators_are_no_measurement(other):
    with pytest.raises(ToolchainError, match=r"other operators of m\.tflite"):
        joined([part(4), other])
