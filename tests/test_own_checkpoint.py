"""A checkpoint of somebody's own training: names of its classes, its preprocessing, its images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mnv4_deploy
from mnv4_deploy.cli import app as cli
from mnv4_deploy.errors import ImagesError, InputError
from mnv4_deploy.images.preprocessing import normalize, to_uint8
from mnv4_deploy.models import zoo
from mnv4_deploy.models.randomize import randomize
from mnv4_deploy.terminal.export import print_export
from tests.tiny_network import CONV_TINY, put_into_zoo

pytestmark = pytest.mark.usefixtures("no_child", "converted_once")

# As a file system may list them, not as ImageFolder sorts them.
FOLDERS = ("tulip", "Rose", "daisy", "iris", "lily")
SORTED = ["Rose", "daisy", "iris", "lily", "tulip"]
SIDE = 32


@pytest.fixture(autouse=True)
def _tiny_in_zoo(monkeypatch):
    put_into_zoo(CONV_TINY, monkeypatch)


@pytest.fixture
def state(photos):
    """Trained: the classifier solves for the right answer of every photograph."""
    module = zoo.build(CONV_TINY.name, num_classes=len(FOLDERS))
    randomize(module, 0)
    features = []
    module.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    images = [path for name in SORTED for path in sorted((photos / name).iterdir())]
    with torch.inference_mode():
        for path in images:
            module(_input(path))
        right = torch.eye(len(SORTED)).repeat_interleave(len(images) // len(SORTED), dim=0)
        solution = torch.linalg.pinv(torch.cat(features).double()) @ right.double()
        return module.state_dict() | {
            "classifier.weight": solution.T.float().contiguous(),
            "classifier.bias": torch.zeros(len(SORTED)),
        }


@pytest.fixture
def mine(tmp_path, state):
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in FOLDERS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize((48, 40)).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def export(tmp_path, mine, photos):
    def export_(**options):
        asked = {
            "weights": str(mine),
            "formats": ("onnx",),
            "size": (SIDE, SIDE),
            "int8": True,
            "calibration_images": 16,
            "evaluation": str(photos),
        }
        return mnv4_deploy.export(CONV_TINY.name, tmp_path / "out", **{**asked, **options})

    return export_


def _input(path, **given):
    size = {"height": SIDE, "width": SIDE}
    spec = replace(zoo.entry(CONV_TINY.name).preprocessing, **{**size, **given})
    x = normalize(to_uint8(Image.open(path), spec)[None], spec)
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def _top1(state, photos, order=SORTED, **given):
    """Of PyTorch, worked out here; ``order`` is that of the classes."""
    module = zoo.build(CONV_TINY.name, num_classes=len(FOLDERS))
    module.load_state_dict(state)
    with torch.inference_mode():
        right = [
            int(module(_input(path, **given)).argmax()) == index
            for index, name in enumerate(order)
            for path in (photos / name).iterdir()
        ]
    return 100 * sum(right) / len(right)


def test_the_evaluation_folder_names_the_classes(export, state, photos, capsys):
    result = export(max_drop=100.0)
    assert result.budget_met
    manifest = result.manifest
    assert (manifest["labels"], manifest["labels_from"]) == (SORTED, "evaluation folder")
    (drift,) = result.drifts
    assert drift.labelled == 20
    assert drift.figures["top1_reference"] == pytest.approx(_top1(state, photos)) == 100
    assert json.loads(mnv4_deploy.inspect(result.artifacts[0].path).metadata["labels"]) == SORTED
    print_export(result)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"from the evaluation folder ({', '.join(SORTED)})" in shown


def _own_size(monkeypatch):
    """What the zoo says that the network's images are of is what it was trained with."""
    found = zoo.entry(CONV_TINY.name)
    trained = replace(found.preprocessing, height=SIDE, width=SIDE)
    monkeypatch.setattr(zoo, "entry", lambda _: replace(found, preprocessing=trained))


def test_a_size_that_costs_accuracy_is_a_warning(export, state, photos, monkeypatch):
    """The weights are right on every photograph at 32x32, which is now their own size."""
    _own_size(monkeypatch)
    larger = _top1(state, photos, height=2 * SIDE, width=2 * SIDE)
    assert larger < 60
    manifest = export(size=(2 * SIDE, 2 * SIDE), int8=False).manifest
    (warning,) = [text for text in manifest["warnings"] if "--size" in text]
    assert f"is {larger:.1f} %, and 100.0 % at 32x32" in warning


def test_the_size_of_the_weights_is_no_warning(export, monkeypatch):
    _own_size(monkeypatch)
    assert not any("--size" in text for text in export(int8=False).manifest["warnings"])


def test_the_checkpoint_counts_before_the_folder(tmp_path, export, state):
    names = sorted(FOLDERS, key=str.casefold)
    save_file(state, tmp_path / "m.safetensors", metadata={"classes": json.dumps(names)})
    manifest = export(weights=str(tmp_path / "m.safetensors"), int8=False).manifest
    assert (manifest["labels"], manifest["labels_from"]) == (names, "weights")


@pytest.mark.parametrize("text", ["\n".join(FOLDERS) + "\n", json.dumps(FOLDERS)])
def test_a_file_of_names_counts_before_all(tmp_path, export, state, text):
    """Its order is that of the outputs, whatever the folders' is."""
    save_file(state, tmp_path / "m.safetensors", metadata={"classes": json.dumps(SORTED)})
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    result = export(weights=str(tmp_path / "m.safetensors"), labels=tmp_path / "classes.txt")
    assert result.manifest["labels"] == list(FOLDERS)
    assert result.manifest["labels_from"] == "labels file"
    assert result.manifest["options"]["labels"] == "classes.txt"
    expected = _top1(state, tmp_path / "photos", FOLDERS)
    assert result.drifts[0].figures["top1_reference"] == pytest.approx(expected) != 100


def test_labels_of_the_images(tmp_path, export):
    """One class for all: the share of it among the answers is the accuracy."""
    lines = [f"{name}/{index}.png,2" for name in FOLDERS for index in range(4)]
    (tmp_path / "truth.csv").write_text("file,label\n" + "\n".join(lines), encoding="utf-8")
    manifest = export(labels=tmp_path / "truth.csv").manifest
    assert manifest["drift"][0]["figures"]["top1_reference"] == pytest.approx(20)
    assert (manifest["labels"], manifest["labels_from"]) == ([], "")


@pytest.mark.parametrize("text", ["a\nb\nc\n", "", "a\n\nb\nc\nd\n", "nowhere.png,1\n"])
def test_a_file_that_is_neither(tmp_path, export, text):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"classes\.txt has .* 5 classes: give the name of each"):
        export(labels=tmp_path / "classes.txt")
    with pytest.raises(InputError, match="cannot be read"):
        export(labels=tmp_path / "missing.txt")
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit(export, photos):
    for path in (photos / "iris").iterdir():
        path.unlink()
    with pytest.raises(ImagesError, match=r"4 subfolders.*5 classes"):
        export()


def test_numbers_are_indices_and_no_names(export, photos):
    for index, name in enumerate(FOLDERS):
        (photos / name).rename(photos / str(index))
    manifest = export().manifest
    assert (manifest["labels"], manifest["labels_from"]) == ([], "")
    assert manifest["drift"][0]["labelled"] == 20


def test_preprocessing_that_is_given(export, state, photos):
    mean, std = (0.9, 0.1, 0.1), (0.1, 0.5, 0.9)
    result = export(mean=mean, std=std)
    spec = result.manifest["preprocessing"]
    assert (spec["mean"], spec["std"]) == (mean, std)
    assert result.manifest["preprocessing_from"] == "options"
    expected = _top1(state, photos, mean=mean, std=std)
    assert result.drifts[0].figures["top1_reference"] == pytest.approx(expected) != 100
    assert not any("preprocessing" in warning for warning in result.manifest["warnings"])


@pytest.mark.parametrize("given", [{}, {"crop_pct": 0.5}, {"interpolation": "bilinear"}])
def test_preprocessing_that_is_assumed(export, given, capsys):
    result = export(**given)
    spec = result.manifest["preprocessing"]
    assert given.items() <= spec.items()
    assert result.manifest["preprocessing_from"] == "assumed"
    (warning,) = (text for text in result.manifest["warnings"] if "preprocessing" in text)
    assert "mine.pth" in warning and "--mean" in warning and spec["interpolation"] in warning
    print_export(result)
    assert "warning The preprocessing of mine.pth" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (123.7, 116.3, 103.5)},
        {"std": (0.0, 0.2, 0.2)},
        {"crop_pct": 0.0},
        {"crop_pct": float("nan")},
        {"interpolation": "nearest"},
    ],
)
def test_preprocessing_that_is_not_possible(export, wrong, tmp_path):
    (option,) = wrong
    with pytest.raises(InputError, match=option.replace("_", ".")):
        export(**wrong)
    assert not (tmp_path / "out").exists()


def test_built_in_photographs_are_said_to_be_strangers(export, photos):
    def strangers(**options):
        result = export(overwrite=True, **options)
        return [text for text in result.manifest["warnings"] if "photographs" in text]

    (warning,) = strangers()
    assert "--calib" in warning and "5 classes" in warning
    half = photos.parent / "half"
    photos_of = [path for name in FOLDERS for path in (photos / name).iterdir()]
    half.mkdir()
    for index, path in enumerate(photos_of):
        Image.open(path).rotate(180).save(half / f"{index}.png")
    assert strangers(calibration=str(half)) == []
    assert strangers(weights="random", num_classes=5) == []


def test_accuracy_that_is_not_told_is_told_of(export):
    def told(**options):
        return [t for t in export(overwrite=True, **options).manifest["warnings"] if "top-1" in t]

    assert told() == []
    (warning,) = told(int8=False)
    assert "--int8" in warning
    (warning,) = told(evaluation="bundled")
    assert "--eval" in warning


def test_the_whole_command(mine, photos, tmp_path, capsys):
    arguments = ["--mean", "0.5", "--std", "0.5,0.5,0.4", "--crop-pct", "0.9"]
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                *("export", "--model", CONV_TINY.name, "--weights", str(mine), "--json"),
                *("--eval", str(photos), "--size", str(SIDE), "--format", "onnx", *arguments),
                *("--interpolation", "bilinear", "--out", str(tmp_path / "out")),
            ]
        )
    assert not stop.value.code
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["preprocessing"] == {
        "height": SIDE,
        "width": SIDE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.4],
        "crop_pct": 0.9,
        "interpolation": "bilinear",
    }
    assert (manifest["labels"], manifest["preprocessing_from"]) == (SORTED, "options")
    assert str(tmp_path) not in json.dumps(manifest)
