"""Drift on the terminal: the figures of the result, whatever names files and images have."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from mnv4_deploy.drift.records import Limit
from mnv4_deploy.terminal.drift import print_drift
from mnv4_deploy.text import clean
from tests.drift.drift_factory import HOSTILE, make_result, with_names


def printed(result, **options):
    console = Console(width=140, record=True, file=io.StringIO())
    print_drift(result, console=console, **options)
    return console.export_text()


@pytest.fixture(scope="module")
def result():
    return make_result()


def test_accuracies_intervals_and_the_verdict_are_the_results(result):
    text = printed(result)
    output = result.output
    for accuracy in (output.reference, output.candidate):
        top1 = accuracy.top1
        assert f"{top1.percent:.1f} % ({top1.low_percent:.1f}-{top1.high_percent:.1f})" in text
    assert f"{output.top1_drop:.2f}" in text
    verdict = "more than chance" if output.flips.p_value < 0.05 else "could be chance"
    assert f"{output.flips.lost} answers became wrong, {output.flips.gained}" in text
    assert verdict in text


def test_the_most_damaged_layers_come_first_and_as_many_as_asked_for(result):
    worst = result.layers.most_damaged(3)
    lines = printed(result, top=3).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    for line, layer in zip(lines[start + 1 : start + 4], worst, strict=True):
        assert line.startswith(layer.module[:10])
        assert f"{layer.isolated.sqnr_db:.1f}" in line
    assert lines[start + 4].startswith("alone:")


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
    assert "top-1" not in text and "became wrong" not in text and "Most damaged" not in text
    assert "agreement" in text and "SQNR" in text


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
