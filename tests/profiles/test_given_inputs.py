"""Values of inputs: as given, as their names ask for, and refused where they do not fit."""

from __future__ import annotations

import math
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.errors import InputError, ModelFileError
from mnv4_deploy.profiles.graph.given_inputs import fitted, read_given, shapes_with
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values, made_up_note

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "expected"),
    [
        ("16000", (), "int64", 16000),
        ("16000", (1,), "float32", [16000]),
        ("1", (2, 2), "float32", [[1, 1], [1, 1]]),
        ("1,2,3,4", (2, 2), "int32", [[1, 2], [3, 4]]),
        ("true", (1,), "bool", [True]),
        ("0x10", (1,), "uint8", [16]),
        ("-1.5e3", (), "float64", -1500),
        ("7", (0, 3), "float32", np.zeros((0, 3))),
    ],
)
def test_numbers(text: str, shape: tuple[int, ...], dtype: str, expected: Any) -> None:
    given = read_given([f"x={text}"])["x"]
    array = fitted("x", given, shape, dtype)
    assert (array.dtype.name, array.shape) == (dtype, shape)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "said"),
    [
        ("x=1.5", (1,), "int64", "does not fit int64"),
        ("x=300", (1,), "uint8", "does not fit uint8"),
        ("x=2", (1,), "bool", "does not fit bool"),
        ("x=1,2,3", (2, 2), "int64", "gives 3 numbers, but the input has 2x2: give 1 number or 4"),
        ("x=inf", (1,), "int64", "does not fit int64"),
    ],
)
def test_numbers_that_do_not_fit(text: str, shape: tuple[int, ...], dtype: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fitted("x", read_given([text])["x"], shape, dtype)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["x"], "give NAME=VALUE"),
        (["x="], "give NAME=VALUE"),
        (["x=abc"], "is no number"),
        (["x=1", "x=2"], "gives x twice"),
        (["x=gone.npy"], "gone.npy does not exist"),
    ],
)
def test_texts_that_are_no_values(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_given(texts)


def test_arrays_of_files(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([5], np.int64)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "both.npz", a=a, b=b)
    np.savez(tmp_path / "one.npz", other=a)
    for texts in (
        [f"a={tmp_path}/a.npy"],
        [f"a={tmp_path}/both.npz"],
        [f"a={tmp_path}/one.npz"],
        [f"{tmp_path}/both.npz"],
    ):
        given = read_given(texts)
        np.testing.assert_array_equal(fitted("a", given["a"], (2, 3), "float32"), a)
    assert read_given([f"{tmp_path}/both.npz"]).keys() == {"a", "b"}
    given = read_given([f"a={tmp_path}/a.npy"])
    with pytest.raises(InputError, match=r"a\.npy has float32 for input a, which takes float64"):
        fitted("a", given["a"], (2, 3), "float64")
    with pytest.raises(InputError, match=r"has 2x3 for input a, which takes 2x4"):
        fitted("a", given["a"], (2, 4), "float32")
    with pytest.raises(InputError, match="does not say for which input"):
        read_given([f"{tmp_path}/a.npy"])
    with pytest.raises(InputError, match="no 'c'"):
        read_given([f"c={tmp_path}/both.npz"])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04nothing"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damaged_files_of_arrays(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="or damaged: write it with"):
        read_given([f"x={path}"])


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(b"\x93NUMPY\x01\x00\x09\x00{'descr':'", id="header that does not end"),
        pytest.param(b"\x93NUMPY\x01\x00\x04\x00a b\n", id="header that is no expression"),
        pytest.param(b"no array at all", id="other bytes"),
    ],
)
def test_damaged_members_of_archives(tmp_path: Path, member: bytes) -> None:
    """NumPy evaluates headers, and what that raises is no ValueError."""
    path = tmp_path / "values.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(InputError, match="or damaged: write it with"):
        read_given([str(path)])
    encrypted = bytearray(path.read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1  # the flag alone
    path.write_bytes(encrypted)
    with pytest.raises(InputError, match="or damaged: write it with"):
        read_given([str(path)])


def test_arrays_with_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="no file of plain arrays"):
        read_given([f"x={tmp_path}/x.npy"])


def test_given_arrays_tell_shapes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    given = read_given([f"x={tmp_path}/x.npy", "n=1,2,3"])
    assert shapes_with({}, given, {"x": 2, "n": 1}) == {"x": (2, 5), "n": (3,)}
    with pytest.raises(InputError, match="leave out --shape"):
        shapes_with({"x": (2, 6)}, given, {"x": 2, "n": 1})
    with pytest.raises(InputError, match="no input n to give a value: it has x"):
        shapes_with({}, given, {"x": 2})


def test_values_go_to_devices(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    request = MeasureRequest("m.onnx", inputs=read_given([f"x={tmp_path}/x.npy", "n=3"]))
    assert from_plain(MeasureRequest, to_plain(request)) == request


IMAGE = InputSpec("image", (1, 3, 48, 64), "float32")
AUDIO = InputSpec("audio", (2, 400), "float32")


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("sr", (), "int64", 16000),
        ("sampleRate", (1,), "float32", [16000]),
        ("attention_mask", (1, 4), "int64", [[1, 1, 1, 1]]),
        ("encoder_mask", (1, 2), "bool", [[True, True]]),
        ("audio_lengths", (2,), "int64", [400, 400]),
        ("inputLengths", (2,), "int32", [400, 400]),
        ("position_ids", (2, 3), "int64", [[0, 1, 2], [0, 1, 2]]),
        ("orig_target_sizes", (1, 2), "int64", [[48, 64]]),
        ("im_shape", (1, 2), "float32", [[48, 64]]),
        ("scale_factor", (1, 2), "float32", [[1, 1]]),
        ("iou_threshold", (1,), "float32", [0.5]),
        ("max_trip_count", (), "int64", 1),
        ("input_ids", (1, 3), "int64", [[0, 0, 0]]),
        ("token_type_ids", (1, 3), "int64", [[0, 0, 0]]),
    ],
)
def test_names_tell_values(name: str, shape: tuple[int, ...], dtype: str, expected: Any) -> None:
    first = IMAGE if "size" in name or "shape" in name else AUDIO
    specs = [first, InputSpec(name, shape, dtype)]
    array = input_values(specs, {})[1]
    assert (array.dtype.name, array.shape) == (dtype, shape)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", ["x", "image", "mask_free_image_quantized"])
def test_codes_and_images_stay_random(name: str) -> None:
    for dtype in ("uint8", "int8"):
        (array,) = input_values([InputSpec(name, (4, 64), dtype)], {})
        assert len(np.unique(array)) > 50
    (array,) = input_values([InputSpec("x", (4, 64), "float32")], {})
    assert array.std() == pytest.approx(1, abs=0.2)


def test_what_was_made_up_is_said() -> None:
    specs = [AUDIO, InputSpec("sr", (), "int64"), InputSpec("mask", (1, 4), "int64")]
    (note,) = made_up_note(specs, {})
    assert "sr = 16000" in note
    assert "mask = 1 everywhere" in note
    assert made_up_note(specs, read_given(["sr=8000", "mask=1"])) == ()


def dynamic(path: Path, dims: list[Any], *, needs: int | None = None) -> Path:
    """A file whose input x has ``dims``, and runs with ``needs`` in the last one alone."""
    nodes = [onnx.helper.make_node("Neg", ["x"], ["y"])]
    stored = []
    if needs is not None:
        nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
        stored = [onnx.numpy_helper.from_array(np.ones((needs, 2), np.float32), "w")]
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", FLOAT, dims)],
        [onnx.helper.make_tensor_value_info("y", FLOAT, None)],
        stored,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("dims", "needs", "proposed"),
    [
        (["n", 3, "h", "w"], None, "--shape x=1x3x224x224"),
        (["n", "h", "w", 3], None, "--shape x=1x224x224x3"),
        (["n", "t"], 512, "--shape x=1x512"),
        (["n", "t"], 16000, "--shape x=1x16000"),
    ],
)
def test_proposed_shapes_run(
    tmp_path: Path, dims: list[Any], needs: int | None, proposed: str
) -> None:
    from mnv4_deploy.cli.profile import parse_shape
    from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner

    path = dynamic(tmp_path / "m.onnx", dims, needs=needs)
    with pytest.raises(ModelFileError) as raised:
        OrtRunner(path)
    assert proposed in str(raised.value)
    shape = dict([parse_shape(proposed.removeprefix("--shape "))])
    with closing(OrtRunner(path, RunSettings(shapes=shape))) as runner:
        runner.run()


def test_a_given_array_is_what_runs(tmp_path: Path) -> None:
    """The output of the file is minus its input."""
    from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner

    array = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.save(tmp_path / "x.npy", array)
    given = read_given([f"x={tmp_path}/x.npy"])
    path = dynamic(tmp_path / "m.onnx", ["n", 3, "h", "w"])
    with closing(OrtRunner(path, RunSettings(given=given))) as runner:
        np.testing.assert_array_equal(runner._plain.run(None, runner._feeds)[0], -array)


def test_a_side_of_size_zero_is_kept(tmp_path: Path) -> None:
    from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner

    path = dynamic(tmp_path / "m.onnx", [1, 0, 8])
    with closing(OrtRunner(path)) as runner:
        runner.run()
        assert math.prod(runner._feeds["x"].shape) == 0
