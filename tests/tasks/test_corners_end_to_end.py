"""A second task goes the whole way, and nothing outside its own file knows of it."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from mnv4_deploy.drift.records import DriftRequest
from mnv4_deploy.errors import ImagesError, UnsupportedError
from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.pipelines.drift import drift
from mnv4_deploy.pipelines.export import export
from mnv4_deploy.progress import Progress
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.terminal.drift import print_drift
from mnv4_deploy.terminal.export import print_export
from tests.tasks.corner_task import CORNER_TASK, CORNERS, SIDE, SPEC, TRUTH, CornerSource

pytestmark = pytest.mark.usefixtures("no_child")
BUDGET_PX = 0.5


def make_folder(folder, count, seed, *, truth=True):
    """Images of many sizes, whose corners are where the network itself sees them, nearly."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    module = CornerSource().load().module
    known = {}
    for number in range(count):
        sides = rng.integers(20, 45, 2)
        colours = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        image = Image.fromarray(colours).resize((int(sides[0]), int(sides[1])))
        image.save(folder / f"{number:03}.png")
        seen = normalize(CORNER_TASK.prepare(image, SPEC)[None], SPEC)
        with torch.no_grad():
            points = module(torch.from_numpy(seen).permute(0, 3, 1, 2))["points"][0].numpy()
        known[f"{number:03}.png"] = (points + rng.normal(0, 0.2, points.shape)).tolist()
    if truth:
        (folder / TRUTH).write_text(json.dumps(known))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("corners")
    return make_folder(root / "calib", 24, 0, truth=False), make_folder(root / "eval", 40, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, folders):
    calib, evaluation = folders
    request = ExportRequest(
        CornerSource(),
        tmp_path_factory.mktemp("export") / "out",
        task=CORNER_TASK,
        int8=True,
        calibration=str(calib),
        calibration_images=24,
        evaluation=str(evaluation),
        evaluation_images=40,
        max_drop=BUDGET_PX,
    )
    return export(request)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory, exported, folders):
    out = tmp_path_factory.mktemp("drift") / "out"
    files = {artifact.path.name: artifact.path for artifact in exported.artifacts}
    request = DriftRequest(
        str(files["corners-fp32.onnx"]),
        str(files["corners-int8.tflite"]),
        task=CORNER_TASK,
        data=str(folders[1]),
        workers=2,
        layer_images=4,
        fail_if=("mae_increase_px > 0.5", "mae_px < 1000", "worst_layer_sqnr_db < 1"),
        out=out,
    )
    return drift(request, Progress(show=False)), out


def test_export_gives_both_outputs_by_name_in_both_formats(exported, folders):
    files = {artifact.path.name: artifact.path for artifact in exported.artifacts}
    assert sorted(files) == [
        f"corners-{precision}.{format_}"
        for precision in ("fp32", "int8")
        for format_ in ("onnx", "tflite")
    ]
    assert all(deviation.ok for deviation in exported.deviations)
    found = CORNER_TASK.find_images(str(folders[1]), "evaluation", CornerSource().load())
    pixels = np.stack([ref.pixels(SPEC, CORNER_TASK.prepare) for ref in found.refs[:8]])
    assert (pixels[:, -1, -1] == 128).any()  # its own preparation: grey beside a small image
    outputs = {name: open_image_runner(path, SPEC).outputs(pixels) for name, path in files.items()}
    for found_ in outputs.values():
        assert {name: values.shape for name, values in found_.items()} == {
            "points": (8, CORNERS, 2),
            "sizes": (8, CORNERS, 1),
        }
    reference = outputs["corners-fp32.onnx"]
    for name, found_ in outputs.items():
        limit = 1e-3 if "fp32" in name else 2.0
        assert np.abs(found_["points"] - reference["points"]).max() < limit, name


def test_the_budget_is_in_the_tasks_own_metric(exported):
    assert exported.budget_met
    for search, found in zip(exported.searches, exported.drifts, strict=True):
        assert (search.metric, search.unit, search.max_drop) == (
            "mae_increase_px",
            "px",
            BUDGET_PX,
        )
        assert search.chosen.drop == found.figures["mae_increase_px"] <= BUDGET_PX
        assert found.labelled == search.chosen.images == 40
    (onnx, tflite) = exported.drifts
    # Answers are off by a normal error of 0.2 px: 0.16 px on average.
    for found in (onnx, tflite):
        assert found.figures["mae_reference_px"] == pytest.approx(0.16, abs=0.02)
    manifest = exported.manifest
    assert manifest["task"]["name"] == "corners" and manifest["task"]["unit"] == "px"
    assert [output["name"] for output in manifest["outputs"]] == ["points", "sizes"]


def test_drift_finds_in_worker_processes_what_export_found(exported, drifted):
    result, _ = drifted
    figures = CORNER_TASK.figures(result.output)
    assert result.workers == 2 and result.output.images == result.output.labelled == 40
    (_, tflite) = exported.drifts
    # The same images; the reference is the other format's float32 file.
    assert figures["mae_px"] == pytest.approx(tflite.figures["mae_px"], rel=1e-4)
    assert figures["mae_reference_px"] == pytest.approx(
        tflite.figures["mae_reference_px"], rel=1e-3
    )
    modules = {layer.module for layer in result.layers.layers}
    assert {"stem", "body", "size_head"} <= modules
    assert not [note for note in result.layers.notes if "differ" in note]


def test_limits_are_of_its_metrics(drifted, exported, folders):
    result, _ = drifted
    by_metric = {limit.metric: limit for limit in result.limits}
    assert not by_metric["mae_increase_px"].exceeded
    assert by_metric["mae_px"].exceeded and result.failed
    path = str(exported.artifacts[0].path)
    request = DriftRequest(path, path, task=CORNER_TASK, data=str(folders[1]))
    for condition, complaint in (("top1 > 1", "mae_px"), ("mae_px", "METRIC OP")):
        with pytest.raises(UnsupportedError, match=complaint):
            drift(
                DriftRequest(path, path, task=CORNER_TASK, fail_if=(condition,)),
                Progress(show=False),
            )
    unlabelled = DriftRequest(
        path, path, task=CORNER_TASK, data=str(folders[0]), fail_if=("mae_px > 1",)
    )
    with pytest.raises(UnsupportedError, match=TRUTH):
        drift(unlabelled, Progress(show=False))
    with pytest.raises(UnsupportedError, match="a classifier has one output"):
        drift(DriftRequest(path, path, data=request.data), Progress(show=False))


def test_a_budget_needs_known_answers(tmp_path, folders):
    request = ExportRequest(
        CornerSource(),
        tmp_path / "out",
        task=CORNER_TASK,
        int8=True,
        calibration=str(folders[1]),
        evaluation=str(folders[0]),
        max_drop=1.0,
    )
    with pytest.raises(ImagesError, match=TRUTH):
        export(request)
    with pytest.raises(UnsupportedError, match=f"0 to {SIDE} px"):
        ExportRequest(CornerSource(), tmp_path, task=CORNER_TASK, int8=True, max_drop=100.0)


def test_json_page_and_terminal_say_its_figures_and_none_of_anothers(drifted, exported):
    result, out = drifted
    document = json.loads((out / "drift.json").read_text())
    assert document["task"] == "corners"
    figures = CORNER_TASK.figures(result.output)
    for name, value in figures.items():
        assert document["metrics"][name] == pytest.approx(value)
    assert document["output"]["mae_px"] == pytest.approx(result.output.mae_px)
    assert "path" not in document["output"]["worst"][0]
    page = (out / "drift-report.html").read_text()
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    print_drift(result, console=console)
    print_export(exported, console)
    printed = stream.getvalue()
    increase = f"{figures['mae_increase_px']:.4f} px"
    moved = f"{result.output.worst[0].moved_px:.4f} px"
    assert increase in page and moved in page and result.output.worst[0].name in page
    assert f"{figures['median_sqnr_db']:.1f} dB" in printed and "MAE" in printed
    for text in (json.dumps(document), page, printed):
        for word in ("top1", "top-1", "Top-1", "McNemar", "KL "):
            assert word not in text, word
