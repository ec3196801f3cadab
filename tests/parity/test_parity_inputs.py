"""What goes in: images, arrays and random numbers, and one sentence for what cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.errors import DeployError, ImagesError, InputError, UnsupportedError
from mnv4_deploy.parity.arrays_file import open_arrays
from mnv4_deploy.parity.inputs import Inputs, open_inputs
from mnv4_deploy.parity.records import ParityRequest
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.records.graph import ModelGraph
from tests.parity.checks import convs, facts_of
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import add, tensor

IMAGE = TensorFacts("image", (1, 2, 3), "float32")
MASK = TensorFacts("mask", (1, 2), "int8")


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


def opened(path: Path, data: str, **options: Any) -> tuple[Inputs, ModelGraph]:
    facts = facts_of(path)

    def graph_of(shapes: Mapping[str, tuple[int, ...]]) -> ModelGraph:
        return read_graph_of(path, shapes)

    return open_inputs(ParityRequest(str(path), ("x",), data=data, **options), facts, graph_of)


def test_random_codes_use_the_whole_range_and_repeat(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, ("a", "b"))
    inputs, graph = opened(path, "random", images=3, seed=1)
    assert (inputs.count, graph.inputs) == (3, (0,))
    arrays = [inputs.make(at)[0] for at in range(3)]
    assert all(array.dtype == np.int8 and array.shape == (1, 8, 8, 4) for array in arrays)
    assert min(a.min() for a in arrays) < -120
    assert max(a.max() for a in arrays) > 120
    assert np.array_equal(arrays[1], inputs.make(1)[0])
    assert not np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], opened(path, "random", seed=2)[0].make(0)[0])


def test_two_inputs_get_other_numbers(tmp_path: Path) -> None:
    b = TfliteBuilder()
    left, right = (tensor(b, name, (1, 6)) for name in ("left", "right"))
    path = b.write(tmp_path / "two.tflite", (left, right), (add(b, left, right, "sum"),))
    inputs, _ = opened(path, "bundled")
    assert inputs.notes == (f"The inputs are random: {path} takes no images that it describes.",)
    first, second = inputs.make(0)
    assert not np.array_equal(first, second)
    assert abs(np.std(np.stack([inputs.make(at)[0] for at in range(16)])) - 1) < 0.3


def test_a_folder_for_a_file_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, ("a", "b"), "float32")
    with pytest.raises(DeployError, match="RGB"):
        opened(path, str(tmp_path))


@pytest.mark.parametrize("count", [0, 5000])
def test_a_number_of_inputs_that_makes_no_sense(tmp_path: Path, count: int) -> None:
    path, _ = convs(tmp_path, ("a", "b"))
    with pytest.raises(UnsupportedError, match=f"--images {count} makes no sense"):
        opened(path, "random", images=count)


def test_data_that_is_nothing(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, ("a", "b"))
    with pytest.raises(ImagesError, match=r"no folder of images and no .npz file"):
        opened(path, str(tmp_path / "nothing"))


def test_arrays_by_name_whatever_their_order(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, mask=zeros(1, 2, dtype="int8"), image=zeros(4, 1, 2, 3), other=zeros(7))
    arrays = open_arrays(path, [IMAGE, MASK], 16)
    assert arrays.count == 4
    image, mask = arrays.row(3)
    assert (image.shape, mask.shape) == ((1, 2, 3), (1, 2))


def test_arrays_in_order_and_rows_of_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    rows = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    np.savez(path, rows)
    arrays = open_arrays(path, [IMAGE], 16)
    assert arrays.count == 3
    assert np.array_equal(arrays.row(1)[0], rows[1:2])


def test_one_array_is_one_inference(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, zeros(1, 2, 3))
    assert open_arrays(path, [IMAGE], 16).count == 1


def test_open_sides_take_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, zeros(5, 2, 3))
    arrays = open_arrays(path, [TensorFacts("x", ("batch", 2, 3), "float32")], 16)
    assert (arrays.count, arrays.row(0)[0].shape) == (1, (5, 2, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": zeros(1, 2, 3, dtype="float64")}, "has float64 for 'image'.*save it as"),
        ({"image": zeros(1, 3, 3)}, r"has \[1, 3, 3\] for 'image', which takes \[1, 2, 3\]"),
        ({"a": zeros(1), "b": zeros(1)}, "holds 'a', 'b', but the model takes 'image'"),
        ({}, "holds nothing, but"),
        ({"image": zeros(0, 1, 2, 3)}, "without any inference"),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], message: str
) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        open_arrays(path, [IMAGE], 16)


def test_unequal_numbers_of_inferences(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, image=zeros(4, 1, 2, 3), mask=zeros(3, 1, 2, dtype="int8"))
    with pytest.raises(InputError, match="holds 3 and 4 inferences"):
        open_arrays(path, [IMAGE, MASK], 16)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00"])
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"write it with numpy.savez"):
        open_arrays(path, [IMAGE], 16)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"no .npz file of plain arrays"):
        open_arrays(path, [IMAGE], 16)


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_arrays(tmp_path / "in.npz", [IMAGE], 16)


def test_images_go_through_the_preprocessing_that_the_file_names(tmp_path: Path) -> None:
    b = TfliteBuilder()
    image = tensor(b, "image", (1, 8, 8, 3))
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    out = tensor(b, "out", (1, 3))
    b.op("MEAN", (image, axes), (out,), "ReducerOptions", keepDims=False)
    spec = {"height": 8, "width": 8, "mean": [0.0, 0.25, 0.5], "std": [1.0, 0.5, 0.25]}
    spec |= {"crop_pct": 1.0, "interpolation": "bilinear"}
    b.metadata("mnv4_deploy", json.dumps({"preprocessing": spec}).encode())
    path = b.write(tmp_path / "classifier.tflite", (image,), (out,))
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 20), (255, 255, 0)).save(folder / "yellow.png")
    inputs, graph = opened(path, str(folder))
    assert (inputs.count, inputs.title, graph.format) == (1, "images", "tflite")
    (array,) = inputs.make(0)
    assert array.shape == (1, 8, 8, 3)
    # (pixel / 255 - mean) / std
    assert np.allclose(array, [1.0, 1.5, -2.0], atol=1e-6)
    (folder / "yellow.png").write_bytes(b"not an image")
    with pytest.raises(ImagesError, match=r"yellow.png cannot be read as an image"):
        inputs.make(0)
    bundled, _ = opened(path, "bundled", images=3)
    assert bundled.count == 3
    assert bundled.make(2)[0].shape == (1, 8, 8, 3)
