"""Records that travel as JSON come back equal, and what is no such record is refused."""

import json
import math

import pytest

from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceState
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import Conditions, MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming

MACHINE = Machine(
    cpu="Cortex-A76",
    cores=4,
    isa=("neon", "dotprod"),
    caches={"L1": 65536},
    measured_on="2026-11-22T12:00:00+00:00",
    method="by hand",
    versions={"onnxruntime": "1.31.1"},
    ceilings=(
        Ceilings(
            threads=1,
            peak_macs_per_s={"xnnpack": {"int8": 3e10}},
            memory=(MemoryLevel("L1", 32768, 1e11), MemoryLevel("DRAM", None, 1e10)),
            op_overhead_us={"xnnpack": 0.4},
            spin_us=900.0,
        ),
    ),
)
TIMED = TimedFile(
    profile=OpProfile(
        "a b.tflite",
        "ai-edge-litert 2.3.0",
        1,
        (OpTiming("Conv", "xnnpack", (1.5, 2.0), partition=0),),
    ),
    cpus=(0, 3),
    rounds_us=((4.0,), (5.0,)),
    profiled_rounds_us=(),
    conditions=Conditions((1.0, 2.0), None, 3.5),
    notes=("slow",),
)
STATE = DeviceState({"policy0": "ondemand"}, {"policy0": (600.0, 1800.0)}, {"cpu": 51.2})
REQUEST = MeasureRequest("m.onnx", cpus=(1,), shapes={"": (1, 3, 8, 8)})


@pytest.mark.parametrize("record", [MACHINE, TIMED, STATE, REQUEST])
def test_a_record_comes_back_equal(record):
    assert from_plain(type(record), json.loads(json.dumps(to_plain(record)))) == record


def test_whole_numbers_become_floats_where_the_record_has_floats():
    found = from_plain(Conditions, {"spin_us": [1, 2], "steal_percent": 0})
    assert found == Conditions((1.0, 2.0), 0.0)
    assert isinstance(found.spin_us[0], float)


def test_numbers_that_json_lacks_become_none():
    assert to_plain([math.nan, math.inf, 1.0]) == [None, None, 1.0]


def test_keys_of_a_newer_writer_are_left_out():
    plain = {**to_plain(STATE), "humidity": 3}
    assert from_plain(DeviceState, plain) == STATE


def test_integer_keys_come_back_as_integers():
    found = from_plain(dict[int, str], {"3": "no such kernel"})
    assert found == {3: "no such kernel"}


@pytest.mark.parametrize(
    "change",
    [
        {"threads": "1"},
        {"threads": True},
        {"threads": 1.5},
        {"path": None},
        {"cpus": 3},
        {"cpus": "0"},
        {"cpus": [0, "1"]},
        {"max_seconds": [8]},
        {"shapes": [1, 3]},
        {"shapes": {"x": [1, "3"]}},
    ],
)
def test_a_value_of_another_type_is_refused(change):
    with pytest.raises(ValueError, match="is no"):
        from_plain(MeasureRequest, {**to_plain(REQUEST), **change})


@pytest.mark.parametrize("value", [None, [], "MeasureRequest", 3, {}])
def test_what_is_no_record_is_refused(value):
    with pytest.raises(ValueError, match="no "):
        from_plain(DeviceFacts, value)


def test_a_word_outside_a_literal_is_refused():
    plain = to_plain(TIMED.profile.ops[0])
    with pytest.raises(ValueError, match="is no"):
        from_plain(OpTiming, {**plain, "backend": "cuda"})
