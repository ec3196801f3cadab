"""Drift on the terminal: the figures of the result, whatever names files and images have."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from mnv4_deploy.drift.records import Limit
from mnv4_deploy.terminal.drift import print_drift
from mnv4_deploy.text import clean
from tests.drift.drift_factory import HOSTILE, make_result, with_names
from tests.widths import assert_whole_at_every_width


def printed(result, width=1000, **options):
    console = Console(width=width, record=True, file=io.StringIO())
    print_drift(result, console=console, **options)
    return console.export_text()


def row_of(text, name):
    """The figures behind the first line that starts with ``name``."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
    return [float(figure) for figure in re.findall(r"-?\d+\.\d+", line)]


@pytest.fixture(scope="module")
def result():
    return make_result()


def test_accuracies_intervals_and_the_test_are_the_results(result):
    text = printed(result)
    output = result.output
    expected = []
    for accuracy in (output.reference, output.candidate):
        top1 = accuracy.top1
        expected += [top1.percent, top1.low_percent, top1.high_percent]
    assert row_of(text, "top-1") == pytest.approx([*expected, output.top1_drop], abs=0.0051)
    assert row_of(text, "agreement")[0] == pytest.approx(output.agreement.percent, abs=0.0051)
    headline = next(line for line in text.splitlines() if "95 % interval" in line)
    assert [float(x) for x in re.findall(r"\d+\.\d+", headline)] == pytest.approx(
        [output.top1_drop, output.top1_drop_low, output.top1_drop_high], abs=0.0051
    )
    (sentence,) = [line for line in text.splitlines() if "McNemar" in line]
    flips = [int(x) for x in re.findall(r"\b(\d+) (?:images|it)\b", sentence)]
    assert flips == [output.flips.lost, output.flips.gained]
    assert ("could be chance" in sentence) == (output.flips.p_value >= 0.05)


@pytest.mark.parametrize("width", [80, 140])
def test_tables_keep_every_figure_and_fit(result, width):
    lines = printed(result, width).splitlines()
    tables = [line for line in lines if line.startswith(("top-", "agreement", "layer ", "block"))]
    assert len(tables) > 10
    assert max(map(len, tables)) <= width
    worst = result.layers.most_damaged(3)
    start = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    shown = [line for line in lines[start + 1 :] if "int8" in line][:3]
    for line, layer in zip(shown, worst, strict=True):
        assert [float(x) for x in re.findall(r" (\d+\.\d)(?= )", line)[:2]] == pytest.approx(
            [layer.isolated.sqnr_db, layer.accumulated.sqnr_db], abs=0.051
        )


def test_the_most_damaged_layers_come_first_and_as_many_as_asked_for(result):
    worst = result.layers.most_damaged(3)
    lines = printed(result, top=3).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    for line, layer in zip(lines[start + 1 : start + 4], worst, strict=True):
        assert line.startswith(layer.module[:10])
        assert f"{layer.isolated.sqnr_db:.1f}" in line
    assert lines[start + 4].startswith("isolated:")


def test_without_labels_and_layers_only_the_outputs_are_compared(result):
    output = replace(
        result.output,
        labelled=0,
        reference=None,
        candidate=None,
        top1_drop=None,
        top1_drop_low=None,
        top1_drop_high=None,
        top5_drop=None,
        flips=None,
        classes=(),
    )
    text = printed(replace(result, output=output, layers=None))
    assert "top-1" not in text and "went wrong" not in text and "Most damaged" not in text
    assert row_of(text, "agreement")[0] == pytest.approx(output.agreement.percent, abs=0.0051)
    assert "the true classes of these images are not known" in text and "SQNR" in text


def test_limits_notes_and_skipped_images_are_told(result):
    limits = (Limit("top1_drop > 0.5", "top1_drop", 0.7, True), Limit("kl > 1", "kl", 0.1, False))
    reference = replace(result.reference, notes=("the manifest is of another file",))
    text = printed(replace(result, limits=limits, reference=reference))
    assert "exceeded  top1_drop > 0.5  (top1_drop is 0.7)" in text
    assert "kept  kl > 1" in text
    assert "note: the manifest is of another file" in text
    for image in result.skipped[:5]:
        assert f"skipped {clean(image.name)}" in text


@pytest.mark.parametrize("name", [HOSTILE, "[bold red]m[/]", "[/nothing]"])
def test_names_are_text_and_no_markup(result, name):
    text = printed(with_names(result, name))
    assert clean(name)[:12] in text
    assert "\u202e" not in text and "\x07" not in text


def test_figures_and_words_are_whole_at_every_width(result):
    assert_whole_at_every_width(lambda console: print_drift(result, console=console))
