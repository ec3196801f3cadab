"""The arithmetic behind the table of the zoo: intervals, goals, and which files are compared."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest

from mnv4_deploy.errors import ToolchainError

# Scripts, which import each other by their plain names.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import zoo_build
import zoo_files
import zoo_print
import zoo_rows
import zoo_table
from build_pairs import Maker, Subject
from zoo_files import FileRecord, SideRecord
from zoo_goals import Key, Session, geometric_mean, goals, is_slower, median_interval
from zoo_rows import Row

M2, M5 = (Key(f"efficientvit-{m}", "tflite", "int8") for m in ("m2", "m5"))


def steady(ratio, rounds=8):
    return Session((ratio,) * rounds)


@pytest.mark.parametrize(
    # Ranks of the 95 % interval of a median, from tables of the sign test (Conover, table A3).
    ("count", "low", "high"),
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)],
)
def test_interval_of_a_median(count, low, high):
    shuffled = sorted(range(1, count + 1), key=lambda rank: (rank * 7) % 31)
    assert median_interval([float(rank) for rank in shuffled]) == (low, high)


def test_five_rounds_have_no_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (-math.inf, math.inf)
    assert not Session((2.0,) * 5).looks_slower


def test_ratio_is_the_median_of_the_rounds():
    assert Session((0.5, 3.0, 1.0)).ratio == 1.0
    assert Session((0.5, 3.0, 1.0, 2.0)).ratio == 1.5


def test_geometric_mean():
    assert geometric_mean([0.25, 1.0, 4.0, 16.0]) == pytest.approx(2.0)
    assert math.isnan(geometric_mean([]))


@pytest.mark.parametrize(
    ("sessions", "slower"),
    [
        ([steady(1.05)], False),  # not confirmed
        ([steady(1.05), steady(1.04)], True),
        ([steady(1.05), steady(1.01)], False),
        ([steady(1.015), steady(1.015)], False),  # certain, and of use to nobody
        ([Session((0.9, 0.95, 1.1, 1.1, 1.1, 1.2, 1.2, 1.2))] * 2, False),  # chance
        ([], False),
    ],
)
def test_slower_is_confirmed_and_beyond_chance(sessions, slower):
    assert is_slower(sessions) is slower


def test_goals():
    sessions = {
        M2: [steady(0.70)],
        M5: [steady(0.71)],
        Key("hybrid-m", "tflite", "int8"): [steady(1.1), steady(1.1)],
        Key("conv-s", "tflite", "int8"): [steady(0.1)],  # no attention
        Key("mlla-t", "onnx", "int8"): [steady(0.86)],
        Key("mlla-t", "onnx", "float32"): [steady(0.1)],  # not int8
    }
    m2, m5, tflite, onnx, never = goals(sessions)
    assert (m2.met, m2.value, m2.missed_by) == (True, "0.700", ())
    assert (m5.met, m5.value, m5.missed_by) == (False, "0.710", (M5,))
    assert "3 attention models, int8 tflite <= 0.75" in tflite.name
    assert tflite.value == f"{(0.70 * 0.71 * 1.1) ** (1 / 3):.3f}"
    assert tflite.met is False
    assert tflite.missed_by == (("hybrid-m", "tflite", "int8"),)
    assert "1 attention models, int8 onnx <= 0.85" in onnx.name
    assert (onnx.value, onnx.met) == ("0.860", False)
    assert never.met is False
    assert never.missed_by == (("hybrid-m", "tflite", "int8"),)
    assert never.value == "1 of 6 comparisons slower: hybrid-m tflite int8"


def test_goals_of_what_was_not_measured_are_neither_met_nor_missed():
    found = goals({})
    assert [goal.met for goal in found] == [None] * 5
    assert not any(goal.missed_by for goal in found)


def row(stock, ours):
    return Row(Key("efficientvit-m0", "tflite", "int8"), tuple(stock), ours)


def test_a_row_without_one_of_its_files_has_no_pair_and_says_so():
    there = FileRecord("int8", "a.tflite", partitions=2, outside={"RELU": 3}, sqnr_db=7.06)
    absent = FileRecord("int8", failure="RuntimeError: no")
    both = row([("matmul", absent), ("sdpa", there)], dataclasses.replace(there, path="b.tflite"))
    assert both.pair is not None
    assert both.pair.stock == {"sdpa": Path("a.tflite")}
    assert both.stock_file is there
    assert zoo_print.cells(both)[2:6] == ["yes / yes", "2 → 2", "3 → 3", "7.1 dB / 7.1 dB"]
    lacking = row([("matmul", absent)], there)
    assert lacking.pair is None
    assert zoo_print.cells(lacking)[2:6] == ["no / yes", "– → 2", "– → 3", "– / 7.1 dB"]
    assert list(zoo_print.failures([both, lacking])) == [
        "efficientvit-m0 int8 TFLite, stock matmul: no, RuntimeError: no",
        "efficientvit-m0 int8 TFLite, stock matmul: no, RuntimeError: no",
    ]


def test_float_files_off_the_tolerance_are_marked():
    off = FileRecord("float32", "a", error=2e-3, against="PyTorch in float64", close=False)
    near = FileRecord("float32", "b", error=2e-6, against="PyTorch", close=True)
    assert zoo_print.cells(row([("", off)], near))[5] == "2.0e-03* (!) / 2.0e-06"


@pytest.fixture
def makers(monkeypatch):
    """Two sides whose files nothing makes."""
    made = tuple(
        Maker(label, form, lambda *_: lambda *_: None, (Path(__file__),))
        for label, form in (("stock-matmul", "matmul"), ("ours", ""))
    )
    monkeypatch.setattr(zoo_build, "makers", lambda *_: made)
    return made


SUBJECT = Subject("conv-s-035", "random:0", (32, 32), 16, "tflite")


def test_a_crash_is_the_failure_of_the_side_at_work_and_the_others_go_on(
    makers, monkeypatch, tmp_path
):
    calls = []

    def crashing_once(_, labels, subject, cache, **_limits):
        calls.append(labels)
        if len(calls) == 1:
            raise ToolchainError("a segmentation\nfault")
        (maker,) = (m for m in makers if m.label in labels)
        zoo_files.keep(maker, subject, cache, SideRecord(maker.label, maker.form, side_files()))

    monkeypatch.setattr(zoo_build, "run_isolated", crashing_once)
    stock, ours = zoo_build.build_all([SUBJECT], tmp_path, jobs=1)[SUBJECT]
    assert calls == [["stock-matmul", "ours"], ["ours"]]
    assert {file.failure for file in stock.files.values()} == {"a segmentation fault"}
    assert not any(file.failure for file in ours.files.values())
    (_, int8) = zoo_rows.rows({SUBJECT: (stock, ours)})
    assert (int8.key.dtype, int8.stock[0][1].failure) == ("int8", "a segmentation fault")
    # Kept: nothing is made again.
    zoo_build.build_all([SUBJECT], tmp_path, jobs=1)
    assert len(calls) == 2


def side_files(path=""):
    return {dtype: FileRecord(dtype, path, outside={"ADD": 1}) for dtype in ("float32", "int8")}


def test_what_was_kept_goes_with_its_files(makers, tmp_path):
    maker = makers[0]
    assert zoo_files.kept(maker, SUBJECT, tmp_path) is None
    file = tmp_path / "a.tflite"
    file.touch()
    record = SideRecord("stock-matmul", "matmul", side_files(str(file)))
    zoo_files.keep(maker, SUBJECT, tmp_path, record)
    assert zoo_files.kept(maker, SUBJECT, tmp_path) == record
    other = dataclasses.replace(SUBJECT, images=17)
    assert zoo_files.kept(maker, other, tmp_path) is None
    file.unlink()
    assert zoo_files.kept(maker, SUBJECT, tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "5"], "--rounds must be at least 6"),
        (["--models", "hybrid-x"], "no model 'hybrid-x'"),
        (["--images", "1"], "--images must be at least"),
        (["--json", "nowhere/figures.json"], "nowhere is no folder"),
    ],
)
def test_bad_options(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo_table.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        zoo_table.parse_options()
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
