"""A second task through terminal, page and JSON: nothing of classification is in any of them."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mnv4_deploy.drift.limits import check, metrics
from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.reports.drift.drift_json import drift_to_dict
from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.tasks.report import CardLine, Comparison, ImageCard, Measured, Table, TaskReport
from mnv4_deploy.tasks.rows import ImageRows
from mnv4_deploy.terminal.drift import print_drift
from tests.drift.drift_factory import HOSTILE, make_layers, make_subject
from tests.drift.test_output_page import Page
from tests.tasks.corner_task import CORNERS, Corners

CLASSIFICATION = re.compile(r"top-?[15]|class|flip|McNemar|agreement|right went wrong", re.I)
OUTPUTS = (
    TensorFacts("points", (1, CORNERS, 2), "int8", (0.05,), (-128,)),
    TensorFacts("sizes", (1, CORNERS, 1), "float32"),
)


class Bare(Corners):
    """It says as little as a task can."""

    def report(self, summary, models):
        del summary, models
        return TaskReport((), "", (), ())


class Full(Corners):
    """It says one of everything; the cards and tables are the figures of ``summary``."""

    def report(self, summary, models):
        del models
        return TaskReport(
            comparisons=(
                Comparison("noise", "dB", candidate=Measured(summary.sqnr_db)),
                Comparison("reach", "px", Measured(12.5), Measured(12.25, 12, 12.5), 0.25, "px"),
            ),
            headline=f"The worst output has {summary.sqnr_db:.4f} dB.",
            sentences=(),
            key_figures=((f"{summary.cosine:.4f}", "cosine"),),
            cards_note="Where corners moved most.",
            cards=tuple(
                ImageCard(image.name, image.path, (CardLine("corner", "door", "wrong"),), "")
                for image in summary.worst
            ),
            tables=(Table("Distances", "", (("from", True), ("px", False)), (), "None."),),
        )


def result_of(task, name="room.jpg", *, layers=True):
    """Eight images without known corners; the candidate's points are off by 0.01 times index."""
    images = tuple(DatasetImage(f"/home/someone/{i}", f"{i}-{name}") for i in range(8))
    off = np.arange(8.0).reshape(8, 1, 1) / 100
    reference = {"points": np.full((8, CORNERS, 2), 2.0), "sizes": np.ones((8, CORNERS, 1))}
    candidate = {"points": reference["points"] + off, "sizes": reference["sizes"]}
    columns = task.columns(reference, candidate, [None] * 8, ())
    rows = ImageRows(np.arange(8), np.zeros((8, 32), np.uint8), columns)
    output = task.summarise(rows, images, ())
    compared = make_layers() if layers else None
    bare = {"labels": (), "num_classes": 0}
    return DriftResult(
        task=task,
        reference=make_subject("torch", "corners", **bare),
        candidate=make_subject("tflite", "corners-int8.tflite", outputs=OUTPUTS, **bare),
        data="rooms",
        output=output,
        layers=compared,
        skipped=(),
        limits=check(["sqnr_db < 40"], task, metrics(task, output, compared, 0)),
        seconds=3.0,
        images_per_second=12.0,
        resumed_images=0,
        workers=1,
    )


# Of 8 values an image 2^2 * 8 * 8 over 8 * (0 + 1 + 4 + ... + 49) / 100^2.
SQNR_DB = 10 * np.log10(32 / 0.014)


def figure(pattern, text):
    """The number that ``pattern`` finds first."""
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def printed(result):
    text = io.StringIO()
    print_drift(result, console=Console(file=text, width=140))
    return text.getvalue()


@pytest.mark.parametrize("task", [Corners(), Bare(), Full()])
@pytest.mark.parametrize("layers", [True, False])
def test_terminal_and_page_say_what_the_task_says_and_nothing_else(task, layers):
    result = result_of(task, layers=layers)
    page = Page(report_page(result))
    assert not page.faults
    for text in (printed(result), page.words):
        assert "'points' int8 [1, 4, 2], 'sizes' float32 [1, 4, 1]" in text
        limit = figure(r"sqnr_db < 40.*?sqnr_db is ([\d.]+)", text)
        assert limit == pytest.approx(SQNR_DB, abs=0.0051)
        assert "someone" not in text
        # Layers are a classifier's here: "classifier" is a module of the factory.
        assert not CLASSIFICATION.findall(text.replace("classifier", ""))
    assert ("Images that changed most" in page.words) == (not isinstance(task, Bare))
    assert len(page.with_class("wrong")) == (3 if isinstance(task, Full) else 0)


def test_figures_of_both_and_of_one_are_shown():
    text, page = printed(result_of(Full())), Page(report_page(result_of(Full())))
    for said in (text, page.words):
        headline = figure(r"The worst output has ([\d.]+) dB", said)
        assert headline == pytest.approx(SQNR_DB, abs=5.1e-5)
        assert figure(r"noise +([\d.]+) dB", said) == pytest.approx(SQNR_DB, abs=0.0051)
    row = next(line for line in text.splitlines() if line.startswith("reach"))
    assert [float(x) for x in re.findall(r"\d+\.?\d*", row)] == [12.5, 12.25, 12.0, 12.5, 0.25]
    reference, candidate = page.with_class("interval")
    assert reference["x1"] == reference["x2"]
    ends = (candidate["x1"], candidate["x2"], reference["x1"])  # in percent of the width
    low, high, at = (float(end.removesuffix("%")) for end in ends)
    assert low < high == at
    assert "reach: drop 0.25 px" in page.words
    assert "Distances None." in page.words


def test_json_has_the_summary_without_paths():
    document = json.loads(json.dumps(drift_to_dict(result_of(Corners())), allow_nan=False))
    assert document["task"] == "corners"
    assert document["output"]["mae_px"] is document["metrics"]["mae_px"] is None
    assert document["metrics"]["sqnr_db"] == pytest.approx(SQNR_DB)
    assert document["output"]["worst"] == [
        {"name": f"{index}-room.jpg", "moved_px": pytest.approx(index / 100)}
        for index in (7, 6, 5)
    ]
    assert [tensor["name"] for tensor in document["candidate"]["outputs"]] == ["points", "sizes"]
    assert "someone" not in json.dumps(document)


def test_hostile_names_are_only_text():
    result = result_of(Full(), HOSTILE)
    tensors = (replace(OUTPUTS[0], name=HOSTILE),)
    result = replace(result, candidate=replace(result.candidate, outputs=tensors))
    plain, hostile = Page(report_page(result_of(Full()))), Page(report_page(result))
    assert not hostile.faults
    assert len(hostile.tags) == len(plain.tags)
    for sign in ("\u202e", "\u2028", "\x07"):
        assert sign not in report_page(result) + printed(result)
