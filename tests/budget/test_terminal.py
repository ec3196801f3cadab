"""What people read of a search, what the manifest keeps, and the exit code."""

import dataclasses
import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mnv4_deploy.cli import app as cli
from mnv4_deploy.exporters.records import (
    BudgetSearch,
    ExportRequest,
    ExportResult,
    Int8Choice,
    NotTried,
    Sensitivity,
    Trial,
)
from mnv4_deploy.pipelines import export as pipeline
from mnv4_deploy.terminal.budget import print_budget
from tests.widths import assert_whole_at_every_width


def _trial(name, choice, drop, ratio, adopted, reason=""):
    return Trial(
        format="tflite",
        name=name,
        choice=choice,
        drop=drop,
        interval=(drop - 0.5, drop + 0.75),
        chance=0.31,
        median_sqnr_db=21.04,
        latency_us=10_000 * ratio,
        latency_ratio=ratio,
        size_bytes=int(5_000_000 * ratio),
        size_ratio=ratio,
        images=400,
        adopted=adopted,
        reason=reason,
    )


FIRST = _trial("calibration minmax", Int8Choice("minmax"), 2.25, 1.0, True)
REFUSED = _trial(
    "equalization", Int8Choice("minmax", equalize=True), 2.5, 1.01, False, "[b]no[/b]"
)

LAST = _trial(
    "blocks.0 in float",
    Int8Choice("minmax", correct_bias=True, float_layers=("blocks.0",)),
    0.25,
    1.12,
    True,
)


def _search(met=True):
    hopeless = Sensitivity(
        "[red]x",
        ("[red]x",),
        "int16x8",
        0.1,
        0.01,
        0.009,
        9e4,
        9.5,
        0.0,
        "takes 9.50 times as long",
    )
    return BudgetSearch(
        format="tflite",
        max_drop=0.5 if met else 0.1,
        confident=False,
        metric="top1_drop",
        unit="points",
        trials=(FIRST, REFUSED, LAST),
        chosen=LAST,
        met=met,
        not_tried=(NotTried("rounding", "nothing [i]to[/i] round."),),
        sensitivities=(hopeless,),
        latency_limit=1.5,
    )


def _printed(search):
    stream = StringIO()
    print_budget(search, Console(file=stream, width=120))
    return stream.getvalue()


def _figures(line):
    """The numbers of a line with their units."""
    pattern = r"[+-]?x?\d+(?:\.\d+)?(?: (?:points|dB|ms|MB|images))?"
    return re.findall(pattern, line.partition("float")[2] or line)


def test_the_path_with_its_price():
    text = _printed(_search())
    lines = [line.rstrip() for line in text.splitlines()]
    assert "top1_drop at most 0.5 points" in text
    row = next(line for line in lines if line.startswith("blocks.0 in float"))
    assert _figures(row) == ["+0.25 points", "21.0 dB", "x1.12", "x1.12"]
    assert row.endswith("adopted")
    assert "refused: [b]no[/b]" in text
    assert "not tried: rounding (nothing [i]to[/i] round)" in text
    assert "[red]x in int16x8 (takes 9.50 times as long)" in text
    bought = next(line for line in lines if line.startswith("Recovered"))
    assert _figures(bought) == ["2.00 points", "+1.20 ms", "x1.12", "+0.60 MB"]
    last = lines[-1]
    assert last.startswith("Budget met by blocks.0 in float")
    assert _figures(last) == ["+0.25 points", "400 images", "95", "-0.25", "1.00"]
    assert "biases" in text


def test_a_budget_that_is_not_met_is_said_last():
    last = " ".join(_printed(_search(met=False)).split()).rpartition(" Budget not met: ")[2]
    assert last.startswith("the best file is blocks.0 in float")
    assert last.endswith("written.")
    assert _figures(last)[0] == "+0.25 points"


def test_a_metric_without_a_unit_is_said_as_a_plain_number():
    search = dataclasses.replace(_search(), metric="mean_error_rise", unit="")
    text = _printed(search)
    assert "mean_error_rise at most 0.5\n" in text
    assert "points" not in text
    assert "top1" not in text


def test_nothing_is_said_to_be_bought_where_the_first_file_stays():
    search = dataclasses.replace(_search(), chosen=FIRST, trials=(FIRST,), max_drop=3.0)
    assert "Recovered" not in _printed(search)


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_tells_whether_the_budget_was_met(monkeypatch, capsys, met, code):
    def export(request: ExportRequest, _progress):
        assert request.max_drop == 0.5
        return ExportResult(request, (), (), (), (), (), {}, {"here": True}, (_search(met),))

    monkeypatch.setattr(pipeline, "export", export)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export", "--model", "hybrid-m", "--int8", "--max-drop", "0.5", "--json"])
    assert (exit_.value.code or 0) == code
    assert json.loads(capsys.readouterr().out) == {"here": True}


class TestRefusals:
    """One sentence, before any slow work."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--max-drop", "0.5"], "add --int8"),
            (["--int8", "--max-drop=-0.1"], "0 to 100 points"),
            (["--int8", "--max-drop", "101"], "0 to 100 points"),
            (["--int8", "--max-drop", "nan"], "0 to 100 points"),
            (["--int8", "--max-drop", "1", "--calib", "random"], "give real images"),
            (["--int8", "--confident"], "add --max-drop"),
        ],
    )
    def test_options(self, refusal, options, says):
        assert says in refusal("--model", "hybrid-m", *options)

    def test_images_without_classes(self, refusal):
        """Random weights have no class names, so nobody knows what the bundled images show."""
        message = refusal(
            *("--model", "conv-s-035", "--weights", "random", "--num-classes", "7"),
            *("--int8", "--max-drop", "1"),
        )
        assert "known answers" in message
        assert "imagenet-cc-by/evaluation" in message

    def test_calibration_images_among_the_held_out(self, refusal):
        from mnv4_deploy.models.weights import DATA

        folder = DATA / "hybrid-m-cifar10" / "evaluation"
        message = refusal(
            *("--model", "hybrid-m", "--int8", "--max-drop", "1", "--calib", folder),
            *("--calib-images", 500),
        )
        assert "both the calibration and the evaluation set" in message

    @pytest.fixture
    def refusal(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(pipeline._Export, "run", lambda _: pytest.fail("the export began"))

        def run(*options):
            with pytest.raises(SystemExit) as exit_:
                cli.main(["export", "--out", str(tmp_path / "out"), *map(str, options)])
            assert exit_.value.code == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            (line,) = captured.err.splitlines()
            assert not Path(tmp_path / "out").exists()
            return line

        return run


def test_figures_and_words_are_whole_at_every_width():
    assert_whole_at_every_width(lambda console: print_budget(_search(), console))
