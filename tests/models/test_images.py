"""Image sets: shipped ones, folders good and bad, choice and provenance."""

import csv
import hashlib
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images import sets as images
from mnv4_deploy.models import weights
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import ReferenceModel, imagenet_labels, load_reference
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.astray import NO_FILES
from tests.time_limit import in_time

SPEC = Preprocessing(32, 48)


def _bundled(split: str, reference: ReferenceModel) -> images.ImageSet:
    return CLASSIFICATION.find_images("bundled", split, reference)


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (40, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: 20 cats and 6 dogs."""
    root = tmp_path / "pets"
    for i in range(26):
        paint(root / ("cat" if i < 20 else "dog") / f"{i:02}.png", i)
    return root


@pytest.fixture(scope="module")
def unlabelled() -> ReferenceModel:
    return load_reference("conv-s-035", "random", num_classes=7)


# Shipped images


def test_cifar_model_gets_the_cifar_sample() -> None:
    reference = load_reference("hybrid-m")
    calibration = _bundled("calibration", reference)
    evaluation = _bundled("evaluation", reference)
    assert (len(calibration.refs), len(evaluation.refs)) == (200, 1000)
    for found, each in ((calibration, 20), (evaluation, 100)):
        assert found.kind == "bundled" and found.name.startswith("hybrid-m-cifar10/")
        assert Counter(ref.truth for ref in found.refs) == dict.fromkeys(range(10), each)
        assert all(reference.labels[ref.truth or 0] == ref.class_name for ref in found.refs)
    chosen = [images.select(found) for found in (calibration, evaluation)]
    assert chosen[0].source.overlap(chosen[1].source) == 0
    assert chosen[0].source.overlap(chosen[0].source) == 200


def test_imagenet_heads_get_the_photographs(unlabelled: ReferenceModel) -> None:
    imagenet = replace(unlabelled, labels=imagenet_labels(1000), num_classes=1000)
    sources = []
    for found, count in (
        (_bundled("calibration", imagenet), 128),
        (_bundled("evaluation", imagenet), 64),
    ):
        labels = [ref.truth for ref in found.refs]
        assert len(set(labels)) == count and None not in labels
        sources.append(images.select(found).source)
        assert sources[-1].count == count and not sources[-1].skipped
    assert sources[0].overlap(sources[1]) == 0
    assert {ref.truth for ref in _bundled("calibration", unlabelled).refs} == {None}


def test_every_shipped_photograph_has_its_attribution() -> None:
    root = weights.DATA / "imagenet-cc-by"
    with (root / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shipped = {path.relative_to(root).as_posix() for path in root.rglob("*.jpg")}
    assert {row["file"] for row in rows} == shipped and len(rows) == 192
    for row in rows:
        assert row["author"] and row["source_url"].startswith("http")
        assert row["license"] == "https://creativecommons.org/licenses/by/2.0/"
    attribution = (weights.DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for source in ("CIFAR-10", "Krizhevsky", "Attribution 2.0", "labels.csv"):
        assert source in attribution
    assert "WordNet" in (weights.DATA / "LABELS.md").read_text(encoding="utf-8")


def test_label_indices_agree_with_the_label_names() -> None:
    names = imagenet_labels(1000)
    assert names[0].startswith("tench") and names[305].startswith("dung beetle")
    assert names[999].startswith("toilet tissue")
    assert imagenet_labels(10) == ()


# Folders


def test_folder_with_classes(folder: Path) -> None:
    paint(folder / "loose.JPG")
    paint(folder / "cat" / "deep" / "er" / "x.webp")
    (folder / "notes.txt").write_text("no image")
    (folder / "cat" / "._00.png").write_bytes(b"resource fork")
    found = images.open_folder(folder)
    assert found.kind == "folder" and found.name == "pets"
    by_name = {str(ref.path.relative_to(folder)): ref.class_name for ref in found.refs}
    assert len(by_name) == 28
    assert by_name["cat/00.png"] == by_name["cat/deep/er/x.webp"] == "cat"
    assert by_name["dog/25.png"] == "dog" and by_name["loose.JPG"] == ""
    assert {ref.truth for ref in found.refs} == {None}  # what a class is, a task knows


def test_links_are_followed_but_never_round_in_circles(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "cat").symlink_to(folder / "cat")
    (root / "again").symlink_to(root)
    assert len(images.open_folder(root).refs) == 20


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("gone", "does not exist"), ("file", "not a folder"), ("empty", "no images")],
)
def test_unusable_folders(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "empty" / "readme.txt").write_text("x")
    with pytest.raises(ImagesError, match=complaint):
        images.open_folder(tmp_path / name)


def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def deny_dogs(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # Permission bits would not do: root, as in many containers, reads everything.
    monkeypatch.setattr(os, "scandir", deny_dogs)
    with pytest.raises(ImagesError, match="cannot be read"):
        images.open_folder(folder)


# Selection


def test_selection_is_spread_deterministic_and_nested(folder: Path) -> None:
    found = images.open_folder(folder)
    sixteen = images.select(found, 16)
    names = sorted(ref.class_name for ref in sixteen.refs)  # type: ignore[union-attr]
    assert names == 10 * ["cat"] + 6 * ["dog"]
    assert images.select(found, 16) == sixteen
    assert images.select(found, 20).refs[:16] == sixteen.refs
    assert images.select(found, 16, seed=1).refs != sixteen.refs
    assert images.select(found).source.count == 26


def test_provenance_hashes_the_files(folder: Path) -> None:
    source = images.select(images.open_folder(folder), 16).source
    chosen = images.select(images.open_folder(folder), 16)
    expected = tuple(hashlib.sha256(ref.path.read_bytes()).hexdigest() for ref in chosen.refs)  # type: ignore[union-attr]
    assert source.image_sha256 == expected
    listing = "".join(f"{digest}\n" for digest in expected)
    assert source.sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_damaged_images_are_named_and_replaced(folder: Path) -> None:
    whole = paint(folder / "dog" / "whole.jpg", size=(200, 200)).read_bytes()
    (folder / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "empty.png").touch()
    (folder / "dog" / "text.png").write_text("hello")
    Image.new("RGB", (5000, 2)).save(folder / "dog" / "strip.png")
    chosen = images.select(images.open_folder(folder))
    reasons = {image.name: image.reason for image in chosen.source.skipped}
    assert set(reasons) == {f"dog/{x}" for x in ("cut.jpg", "empty.png", "text.png", "strip.png")}
    assert "truncated" in reasons["dog/cut.jpg"]
    assert reasons["dog/empty.png"] == "empty file" and reasons["dog/text.png"] == "not an image"
    assert "5000x2" in reasons["dog/strip.png"]
    assert chosen.source.count == 27
    assert len(chosen.pixels(SPEC)) == 27


def test_too_few_good_images(tmp_path: Path) -> None:
    for i in range(15):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(ImagesError, match=r"15 good images.*bad\.png: not an image.*16"):
        images.select(images.open_folder(tmp_path))
    paint(tmp_path / "bad.png")
    assert images.select(images.open_folder(tmp_path)).source.count == 16
    with pytest.raises(ImagesError, match="5 images are too few"):
        images.select(images.open_folder(tmp_path), 5)


# Arrays


def test_pixels_are_those_of_the_tasks_own_preparation(folder: Path) -> None:
    chosen = images.select(images.open_folder(folder), 18)
    pixels = chosen.pixels(SPEC)
    assert pixels.shape == (18, 32, 48, 3) and pixels.dtype == np.uint8
    grey = chosen.pixels(SPEC, lambda image, spec: np.full((*image.size, spec.width), 7, np.uint8))
    assert grey.shape == (18, 40, 36, 48) and (grey == 7).all()


def test_an_image_that_vanishes_in_between_is_an_error(folder: Path) -> None:
    chosen = images.select(images.open_folder(folder))
    chosen.refs[3].path.unlink()  # type: ignore[union-attr]
    with pytest.raises(ImagesError, match="run again"):
        chosen.pixels(SPEC)


# What can never be an image


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_passed_over(folder: Path, name: str) -> None:
    NO_FILES[name](folder / "cat" / "00x.png")
    with in_time():
        found = images.open_folder(folder)
        chosen = images.select(found)
        for ref in found.refs:
            ref.pixels(SPEC)
    assert len(found.refs) == chosen.source.count == 26
    assert not chosen.source.skipped


@pytest.mark.parametrize("name", NO_FILES)
def test_what_takes_the_place_of_an_image_is_not_read(folder: Path, name: str) -> None:
    found = images.open_folder(folder)
    chosen = images.select(found)
    path = folder / "cat" / "00.png"
    path.unlink()
    NO_FILES[name](path)
    with in_time():
        (skipped,) = images.select(found).source.skipped
        with pytest.raises(ImagesError):
            chosen.pixels(SPEC)
    assert skipped.name == "cat/00.png"


def test_an_image_of_a_terabyte_is_not_hashed(folder: Path) -> None:
    path = folder / "cat" / "00.png"
    os.truncate(path, 1 << 40)  # a whole image, and a hole behind it
    with in_time():
        (skipped,) = images.select(images.open_folder(folder)).source.skipped
    assert skipped.name == "cat/00.png"


def test_random_images_are_called_random() -> None:
    noise = images.random_images(16, seed=2)
    assert noise.source.kind == "random" and noise.source.count == 16
    arrays = noise.pixels(SPEC)
    assert len({a.tobytes() for a in arrays}) == 16
    assert 120 < np.mean(arrays) < 135
    again = images.random_images(16, seed=2)
    np.testing.assert_array_equal(arrays, again.pixels(SPEC))
    assert noise.truth == 16 * (None,)
    with pytest.raises(ImagesError, match="too few"):
        images.random_images(3)
