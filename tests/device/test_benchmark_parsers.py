"""What benchmark_model printed on real machines is read; what it never prints is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from mnv4_deploy.device.benchmark_model import proto_profile
from mnv4_deploy.device.benchmark_model.csv_profile import parse_csv
from mnv4_deploy.device.benchmark_model.order import in_run_order
from mnv4_deploy.device.benchmark_model.proto_profile import parse_proto
from mnv4_deploy.device.benchmark_model.records import OpRow
from mnv4_deploy.device.benchmark_model.run_log import parse_log
from mnv4_deploy.device.benchmark_model.text_profile import parse_text
from mnv4_deploy.errors import MissingLibraryError, ToolchainError

RECORDED = Path(__file__).parent / "recorded"
_RUNS = "Operator-wise Profiling Info for Regular Benchmark Runs:\n"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_text_of_one_partition_has_all_rows_in_order():
    table = parse_text(recorded("totalcompute_profiled.txt"))
    assert len(table.rows) == 115  # "115 nodes observed"
    first, last = table.rows[0], table.rows[-1]
    assert first == OpRow(
        "Convolution (NHWC, QU8) IGEMM", "Delegate/Convolution (NHWC, QU8) IGEMM:0", 278.0, 1
    )
    assert (first.kind, first.tag, first.number) == (
        "delegated", "Convolution (NHWC, QU8) IGEMM", 0,
    )  # fmt: skip
    assert last.name.startswith("[TFLite_Detection_PostProcess, ")
    assert (last.kind, last.tag, last.number) == ("operator", "TFLite_Detection_PostProcess", 114)
    # "Timings (microseconds): … avg=7360.09" is their sum; each row is rounded to 1 us.
    assert sum(row.avg_us for row in table.rows) == pytest.approx(7360.09, abs=115 / 2)
    assert in_run_order(table) == table.rows
    outside = [row.number for row in table.rows if row.kind == "operator"]
    assert outside == [108, 112, 114]


def test_what_ran_while_loading_is_left_out():
    for name in ("totalcompute_profiled.txt", "efficientdet_x86.txt"):
        text = recorded(name)
        assert "ModifyGraphWithDelegate/0" in text
        assert all(row.kind != "other" for row in parse_text(text).rows)


def test_rows_that_ran_several_times():
    table = parse_text(recorded("efficientdet_x86.txt"))
    assert [row.times_called for row in table.rows] == [1, 1, 13, 13, 1, 1, 1, 4, 2, 2, 1]
    assert table.rows[2].avg_us == 51.0  # 4.317 % of 15.3 ms are 13 calls of it
    # Nothing tells in which partitions they ran.
    assert in_run_order(table) is None


def test_csv_with_the_column_start():
    rows = parse_csv(recorded("start_column.csv")).rows
    assert len(rows) == 12
    assert [row.number for row in rows] == list(range(12))
    assert rows[0].avg_us == pytest.approx(93.0388)
    assert rows[-1] == OpRow("SOFTMAX", "[Identity]:11", pytest.approx(0.342312), 1)
    assert math.isclose(sum(r.avg_us for r in rows), 93.0388 / 0.448994, rel_tol=1e-4)


def test_csv_with_commas_in_types_and_tabs_in_names():
    text = _RUNS + "=== Run Order ===\n" + recorded("xnnpack_rows.csv")
    rows = parse_csv(text).rows
    assert [(row.tag, row.number) for row in rows] == [
        ("Convolution (NHWC, F32) IGEMM", 0),
        ("HardSwish (NC)", 1),
        ("Convolution (NHWC, F32) DWConv", 2),
        ("Sum (ND) Reduce", 3),
    ]
    assert all(row.node_type == row.tag for row in rows)
    assert [row.avg_us for row in rows] == pytest.approx([199.9, 65.6, 40.8, 14.8])


@pytest.mark.parametrize(
    ("name", "count", "least", "average", "median", "memory"),
    [
        ("totalcompute_plain.txt", 2, 6449, 6479.5, None, 10.5898),
        ("totalcompute_profiled.txt", 67, 6373, 7454.97, None, 10.8789),
        ("raspberry_2021.txt", 50, 52522, 55744.2, None, None),
        ("efficientdet_x86.txt", 64, 14661, 15517.6, None, 34.8281),
        ("android_percentiles.txt", 24, 42142, 42435.4, 42405, 27.5859),
        ("am62x_one_run.txt", 50, 1238588, 1240270.0, 1239807, 109.832),
    ],
)
def test_times_of_whole_runs(name, count, least, average, median, memory):
    log = parse_log(recorded(name))
    stat = log.inference
    assert (stat.count, stat.min, stat.avg, stat.median) == (count, least, average, median)
    assert log.memory_mb == memory
    assert log.warmup is not None
    assert log.warmup.first > stat.first  # the first run of all is the slowest


def test_a_single_run_has_one_figure():
    warmup = parse_log(recorded("am62x_one_run.txt")).warmup
    assert warmup is not None
    assert (warmup.count, warmup.first, warmup.avg, warmup.max) == (1, *[1357602.0] * 3)
    assert parse_log(recorded("android_percentiles.txt")).init_us == 143669


def test_a_line_cut_off_is_named():
    text = recorded("totalcompute_profiled.txt")
    cut = text.replace("Delegate/Add (ND, QU8):9\n", "\n", 1)
    with pytest.raises(ToolchainError, match=r"Add \(ND, QU8\)\s+0\.051.*not understood"):
        parse_text(cut)
    with pytest.raises(ToolchainError, match=r"ELU, 0\.0931277.*not understood"):
        parse_csv(recorded("start_column.csv").replace("0.0300884, ", "", 1))
    with pytest.raises(ToolchainError, match="not understood"):
        parse_csv(recorded("start_column.csv").replace("avg_ms", "average", 2))
    with pytest.raises(ToolchainError, match="no table of operators"):
        parse_text(text.partition("Operator-wise")[0])
    with pytest.raises(ToolchainError, match="no table of operators"):
        parse_csv("")


def test_names_with_control_characters_stay_in_one_line():
    with pytest.raises(ToolchainError) as caught:
        parse_text(_RUNS + "=== Run Order ===\n[first] [avg ms]\n\x1b[31mnothing" + "x" * 500)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.replace("Inference timings", "Inference"), "without giving times"),
        (lambda t: t.replace("count=24 ", "count=0 "), "not once"),
        (lambda t: t.replace("curr=42232 ", ""), "not understood"),
        (lambda t: t.replace("avg=42435.4", "avg=nan"), "not understood"),
        (lambda t: t.replace("min=42142", "min=-7"), "not understood"),
        (lambda _: "", "without giving times"),
    ],
)
def test_damaged_logs_are_refused(change, complaint):
    with pytest.raises(ToolchainError, match=complaint):
        parse_log(change(recorded("android_percentiles.txt")))


def _sections(rows: str, internal: str, subgraph: str = "") -> str:
    heading = "=== Run Order ===\n [node type] [first] [avg ms] [%] [cdf%] [mem KB] [times called]"
    heading += " [Name]\n"
    short = "Timings (microseconds): count=1 curr=1\n\n"
    text = _RUNS
    if subgraph:
        text += "Primary graph (name: main) profile:\n"
    text += heading + rows + "\n" + short
    if subgraph:
        text += f"Subgraph (index: 1, name: body) profile:\n{heading}{subgraph}\n"
        text += f"Subgraph (index: 1, name: body) {short}"
    return text + (f"Delegate internal: \n{heading}{internal}\n{short}" if internal else "")


_KERNEL = "TfLiteXNNPackDelegate 0.3 0.2 9.1% 9.1% 0.000 1\t[out]:7\n"
_INSIDE = (
    "DelegateOpInvoke 0.2 0.1 1% 1% 0.000 1\tDelegate/Convolution (NHWC, F32) IGEMM:0\n"
    "DelegateOpInvoke 0.1 0.1 1% 1% 0.000 1\tDelegate/Clamp (NC, F32):1\n"
)


def test_operators_inside_a_delegate_that_are_kept_apart():
    table = parse_text(_sections(_KERNEL, _INSIDE))
    assert [row.kind for row in table.rows] == ["delegate kernel"]
    rows = in_run_order(table)
    assert rows is not None
    assert [row.tag for row in rows] == ["Convolution (NHWC, F32) IGEMM", "Clamp (NC, F32)"]
    # With other operators around it, the place of the delegate is not told.
    other = "SOFTMAX 0.3 0.2 9.1% 9.1% 0.000 1\t[out]:9\n"
    assert in_run_order(parse_text(_sections(_KERNEL + other, _INSIDE))) is None
    # An old XNNPACK tells nothing of its inside.
    assert in_run_order(parse_text(_sections(_KERNEL, ""))) is None


def test_operators_of_other_graphs_are_left_out():
    table = parse_text(
        _sections("WHILE 0.3 0.2 9% 9% 0 1\t[out]:0\n", "", "ADD 1 1 1% 1% 0 9\t[x]:0")
    )
    assert [row.tag for row in table.rows] == ["WHILE"]
    assert table.subgraphs
    assert in_run_order(table) is None


def test_options_of_an_operator_are_no_part_of_its_tag():
    row = OpRow("CONV_2D/Winograd", "[a/b]:12", 1.0, 1)
    assert (row.tag, row.number) == ("CONV_2D", 12)
    assert OpRow("Some/Work", "Some/Work/0", 1.0, 1).tag == "Some/Work"


@pytest.mark.parametrize(
    "data", [b"", b"\x1a\x02", b"\x1a\xff", b"\xff" * 30, b"\x1b\x00", b"text"]
)
def test_no_protocol_buffer(data):
    with pytest.raises(ToolchainError, match="damaged or of another form"):
        parse_proto(data)


def _tagged(number: int, content: bytes) -> bytes:
    """A field of bytes, as https://protobuf.dev/programming-guides/encoding/ says."""
    return bytes([number << 3 | 2, len(content)]) + content


_MIN, _SUM, _COUNT = b"\x30\x05", b"\x40\x0d", b"\x48\x02"  # fields 6, 8 and 9: 5, 13 and 2
_CALLED, _ORDER = b"\x20\x01", b"\x30\x07"  # fields 4 and 6: 1 and 7
_INDEX = b"\x10\x00"  # field 2: 0
_TIME = _tagged(2, _MIN + _SUM + _COUNT)
_TEXTS = _tagged(1, b"ADD") + _tagged(5, b"[\xff]:3")


def _profile(
    op: bytes = _TEXTS + _TIME + _CALLED + _ORDER, index: bytes = _INDEX, runs: int = 1
) -> bytes:
    return _tagged(3, _tagged(1, index + _tagged(3, op))) * runs


def test_a_protocol_buffer_byte_by_byte():
    row = OpRow("ADD", "[\ufffd]:3", 6.5, 1, 5.0, 7)
    assert parse_proto(_profile()).rows == (row,)
    assert parse_proto(_profile(runs=2)).rows == (row, row)
    unknown = b"\x78\x01" + _tagged(14, b"new")  # fields 15 and 14, of a newer tool
    assert parse_proto(unknown + _profile(_TEXTS + _TIME + _CALLED + unknown + _ORDER)).rows == (
        row,
    )
    both = _profile() + _profile(index=b"\x10\x01")
    assert (parse_proto(both).rows, parse_proto(both).subgraphs) == ((row,), True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_profile(_TEXTS + _CALLED + _ORDER), id="no time"),
        pytest.param(_profile(_TEXTS + _TIME * 2 + _CALLED + _ORDER), id="two times"),
        pytest.param(_profile(_TEXTS + b"\x10\x05" + _CALLED + _ORDER), id="a number for a time"),
        pytest.param(_profile(_TEXTS + _tagged(2, _SUM + _COUNT) + _CALLED + _ORDER), id="no min"),
        pytest.param(
            _profile(_TEXTS + _tagged(2, _MIN + _SUM + b"\x48\x00") + _CALLED + _ORDER),
            id="no run",
        ),
        pytest.param(
            _profile(_TEXTS + _TIME + _tagged(4, b"1") + _ORDER), id="bytes for a number"
        ),
        pytest.param(_profile(_TEXTS + _TIME + b"\x20" + b"\xff" * 10 + b"\x01"), id="70 bits"),
        pytest.param(_profile(_TEXTS + _TIME + _CALLED), id="no order"),
        pytest.param(_profile(_TIME + _CALLED + _ORDER), id="no name"),
        pytest.param(_profile(index=b""), id="no index"),
        pytest.param(_profile(index=_INDEX + _TIME), id="bytes for an index"),
        pytest.param(_profile(index=b"\x10\x01"), id="another graph alone"),
        pytest.param(_profile() + b"\x18\x01", id="a number for a run"),
    ],
)
def test_a_protocol_buffer_of_another_form(data):
    with pytest.raises(ToolchainError, match="damaged or of another form"):
        parse_proto(data)


def test_reading_a_protocol_buffer_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    proto_profile._message_class.cache_clear()
    with pytest.raises(MissingLibraryError, match=r"pip install '\.\[tflite\]'"):
        parse_proto(_profile())
