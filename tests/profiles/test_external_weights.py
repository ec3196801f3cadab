"""Weights beside an .onnx file: read as onnx reads them, and refused wherever they lead astray."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files import regular
from mnv4_deploy.profiles.graph.onnx.external_weights import (
    check_weights,
    external_files,
    load_weights,
    open_weights,
)
from mnv4_deploy.profiles.graph.onnx.renamed import renamed_copy
from mnv4_deploy.profiles.runtimes.ort.session import open_session
from tests.astray import EVERYTHING, OUTSIDE
from tests.device.small_models import X, onnx_with_weights_beside
from tests.time_limit import in_time

onnx = pytest.importorskip("onnx")
WEIGHTS = np.arange(1, 17, dtype=np.float32)


def loaded(path: Path):
    return onnx.load(str(path), load_external_data=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A whole model, whose only node has no name."""
    folder = tmp_path / "model"
    folder.mkdir()
    made = onnx_with_weights_beside(folder / "net.onnx", "w.bin")
    model = loaded(made)
    model.graph.node[0].name = ""
    made.write_bytes(model.SerializeToString())
    return made


def inspected(path: Path) -> None:
    from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here

    inspect_here(str(path))


def graph(path: Path) -> None:
    from mnv4_deploy.profiles.graph.onnx.read import read_onnx

    read_onnx(path)


def checked(path: Path) -> None:
    check_weights(path, loaded(path))


def renamed(path: Path) -> None:
    renamed_copy(path, path.parent.parent / "copy")


def drift(path: Path) -> None:
    from mnv4_deploy.layers.networks.onnx_network import OnnxNetwork

    OnnxNetwork(path, None)


def parity(path: Path) -> None:
    from mnv4_deploy.parity.onnx_layers import onnx_plan

    onnx_plan(path, None, None, path.parent.parent)


@pytest.mark.parametrize("read", [inspected, graph, checked, renamed, drift, parity])
@pytest.mark.parametrize("name", EVERYTHING)
def test_every_reader_refuses_them_by_name(path: Path, name: str, read) -> None:
    path.with_name("w.bin").unlink()
    EVERYTHING[name](path.with_name("w.bin"))
    with in_time(), pytest.raises(ModelFileError) as caught:
        read(path)
    assert "w.bin" in str(caught.value) and str(path) in str(caught.value)
    assert not list(path.parent.parent.rglob("*.onnx"))[1:]  # no copy either


def test_they_are_loaded_as_onnx_does(path: Path) -> None:
    expected = onnx.load(str(path))
    model = loaded(path)
    assert external_files(model) == ("w.bin",)
    load_weights(path, model)
    assert model == expected
    assert external_files(model) == ()
    # Several tensors of one file, one of them without a length.
    second = loaded(path)
    tensor = second.graph.initializer.add()
    tensor.CopyFrom(second.graph.initializer[0])
    tensor.dims[:] = [1, 6]
    del tensor.external_data[1:]
    entry = tensor.external_data.add()
    entry.key, entry.value = "offset", "40"
    load_weights(path, second)
    assert tensor.raw_data == WEIGHTS[10:].tobytes()
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(second.graph.initializer[0]), [WEIGHTS]
    )


def test_a_model_behind_a_link_has_its_weights_beside_the_link(path: Path) -> None:
    stored = path.parent.parent / "blobs" / "0a1b"
    stored.parent.mkdir()
    path.rename(stored)
    path.symlink_to(stored)
    for reader in (inspected, graph, checked):
        reader(path)
    path.with_name("w.bin").rename(stored.with_name("w.bin"))
    for reader in (inspected, graph, checked):
        with pytest.raises(ModelFileError, match=r"w\.bin"):
            reader(path)


def test_links_within_the_folder_are_files_to_every_reader(path: Path) -> None:
    weights = path.with_name("w.bin")
    weights.rename(path.with_name("real.bin"))
    weights.symlink_to("real.bin")
    for read in (inspected, graph, checked, renamed):
        read(path)
    copy = renamed_copy(path, path.parent.parent / "copy")
    assert not copy.with_name("w.bin").is_symlink()
    (y,) = open_session(copy).run(None, {"x": X})
    np.testing.assert_array_equal(y, X + WEIGHTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "1"),
        ("offset", "-4"),
        ("offset", "9" * 30),
        ("offset", "x"),
        ("length", "65"),
        ("length", "-1"),
        ("length", ""),
    ],
)
def test_places_that_the_file_does_not_have(path: Path, key: str, value: str) -> None:
    model = loaded(path)
    for entry in model.graph.initializer[0].external_data:
        entry.value = value if entry.key == key else entry.value
    with pytest.raises(ModelFileError, match=r"w\.bin"):
        load_weights(path, model)


def test_a_place_that_is_given_twice_is_looked_at_twice(path: Path) -> None:
    """Which one counts is for each runtime to say."""
    for first in (True, False):
        model = loaded(path)
        entries = model.graph.initializer[0].external_data
        places = ["../x.bin", "w.bin"] if first else ["w.bin", "../x.bin"]
        del entries[:]
        for place in places:
            entry = entries.add()
            entry.key, entry.value = "location", place
        with pytest.raises(ModelFileError, match=r"x\.bin"):
            check_weights(path, model)


@pytest.mark.parametrize("change", OUTSIDE)
def test_a_copy_takes_no_link_that_comes_in_between(
    path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked and opened is what the copy has, whatever its name means by then."""
    from mnv4_deploy.profiles.graph.onnx import renamed as module

    weights = path.with_name("w.bin")
    content = weights.read_bytes()

    def then_change(source: Path, location: str):
        file = open_weights(source, location)
        weights.unlink()
        OUTSIDE[change](weights)
        return file

    monkeypatch.setattr(module, "open_weights", then_change)
    copy = renamed_copy(path, path.parent.parent / "copy").with_name("w.bin")
    assert copy.read_bytes() == content and not copy.is_symlink()


def test_weights_have_a_limit_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv4_deploy.profiles.graph.onnx.external_weights.MAX_BYTES", 64 + 100)
    with pytest.raises(ModelFileError):
        checked(path)
    weights = path.with_name("w.bin")
    monkeypatch.undo()
    os.truncate(weights, regular.MAX_BYTES)
    with in_time(), pytest.raises(ModelFileError):
        checked(path)
