"""Runs are put together again from one row a name, or not at all, but never wrongly."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("google.protobuf")

from mnv4_deploy.device.benchmark_model.csv_profile import parse_csv
from mnv4_deploy.device.benchmark_model.order import in_run_order
from mnv4_deploy.device.benchmark_model.proto_profile import parse_proto
from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable
from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_XNNPACK_OP,
    ProfilerEvent,
)
from tests.device.tool_output import Detail, in_printed_order, proto, report, summarize

_MODELS = 600


def _random_run(rng: random.Random) -> list[ProfilerEvent]:
    """Partitions of a few patterns, between operators that XNNPACK does not take."""
    patterns = [rng.choices("ABCD", k=rng.randint(1, 8)) for _ in range(rng.randint(1, 3))]
    events: list[ProfilerEvent] = []
    index = 0
    for _ in range(rng.randint(1, 6)):
        tags = rng.choice(patterns)
        events += [ProfilerEvent(t, EVENT_XNNPACK_OP, 5, i, 0) for i, t in enumerate(tags)]
        for _ in range(rng.randint(1, 3)):
            events.append(ProfilerEvent("CUMSUM", EVENT_BUILTIN_OP, 5, index, 0))
            index += 1
    while rng.random() < 0.5 and events[-1].type == EVENT_BUILTIN_OP:
        events.pop()
    return events


@pytest.mark.parametrize("form", ["proto", "csv"])
def test_no_run_is_put_together_wrongly(form):
    rng = random.Random(0)
    told = 0
    for _ in range(_MODELS):
        run = _random_run(rng)
        names = [[f"t, {i}"] for i in range(len(run))]
        details = summarize([run, run], names)
        if form == "proto":
            found = in_run_order(parse_proto(proto(details, 2)))
        else:
            found = in_run_order(parse_csv(report(details, 2, csv=True)))
        if found is not None:
            told += 1
            assert [(r.tag, r.number) for r in found] == [(e.tag, e.index) for e in run]
        elif form == "csv":  # only rows that stand for several calls are out of order
            assert len(details) < len(run)
    assert told > _MODELS * (0.75 if form == "proto" else 0.15)


def test_the_tool_prints_late_operators_out_of_order():
    """Why a printed order is not believed as soon as rows stand for several calls."""
    details = {str(at): Detail(str(at), "X", at) for at in (0, 1, 2, 7)}
    assert [d.run_order for d in in_printed_order(details)] == [7, 0, 1, 2]


def test_repeated_rows_need_places_that_fit():
    row = OpRow("Add (ND)", "Delegate/Add (ND):0", 1.0, 2, 1.0, 0)
    assert in_run_order(OpTable((row,))) is None  # the second call would be number 1
    cumsum = OpRow("CUMSUM", "[x]:1", 1.0, 1, 1.0, 1)
    assert in_run_order(OpTable((row, cumsum))) == (row, cumsum, row)
    assert in_run_order(OpTable((row, cumsum), subgraphs=True)) is None
    # What ran in some runs only has a number of calls that is rounded down to 0.
    assert in_run_order(OpTable((OpRow("ADD", "[x]:1", 1.0, 0, 1.0, 0),))) is None
