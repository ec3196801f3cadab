"""Subjects: where preprocessing, labels and calibration are found, and what is refused."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.drift.declared import manifest_of
from mnv4_deploy.drift.model_ref import check_pair, open_model_ref
from mnv4_deploy.errors import (
    InputError,
    ModelFileError,
    UnknownModelError,
    UnsupportedError,
    WeightsError,
)
from mnv4_deploy.exporters.to_tflite.metadata import (
    append_labels,
    image_classifier_metadata,
)
from mnv4_deploy.images.options import parse_options
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.source import ZooSource
from mnv4_deploy.models.weights import imagenet_labels
from tests.astray import EVERYTHING, NO_FILES, TOO_LARGE
from tests.drift.classifiers import LABELS, OWN, SPEC, make_onnx, make_subject, make_tflite
from tests.time_limit import in_time

GIVEN = {"mean": "0.1,0.2,0.3", "std": "0.5"}


def write_manifest(path, precision="int8", **changes):
    """A manifest as an export writes it, beside ``path``."""
    entry = {
        "file": path.name,
        "precision": precision,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    preprocessing = OWN["preprocessing"] | {"crop_pct": 0.875}
    document = {
        "preprocessing": preprocessing,
        "labels": [f"manifest's {label}" for label in LABELS],
        "calibration": {"image_sha256": ["a" * 64, "b" * 64]},
        "files": [{"file": "other.onnx"}, entry],
    }
    document |= changes
    (path.parent / "manifest.json").write_text(json.dumps(document), encoding="utf-8")


# Where the facts come from


def test_a_file_tells_its_own_preprocessing(tmp_path):
    for path in (make_onnx(tmp_path / "x.onnx"), make_tflite(tmp_path / "x.tflite")):
        subject = open_model_ref(str(path))
        assert subject.kind == path.suffix[1:] and subject.name == path.name
        assert subject.preprocessing == SPEC and subject.preprocessing_from == "file"
        assert subject.labels == LABELS and subject.num_classes == 7
        assert subject.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert subject.size_bytes == path.stat().st_size
        assert not subject.calibration_sha256 and not subject.notes


@pytest.mark.usefixtures("no_child")
def test_the_manifest_counts_before_the_file(tmp_path):
    path = make_onnx(tmp_path / "x.onnx")
    write_manifest(path)
    subject = open_model_ref(str(path))
    assert subject.preprocessing == dataclasses.replace(SPEC, crop_pct=0.875)
    assert subject.preprocessing_from == "manifest"
    assert subject.labels[0] == "manifest's class 0"
    assert subject.calibration_sha256 == ("a" * 64, "b" * 64)
    write_manifest(path, precision="float32")
    assert open_model_ref(str(path)).calibration_sha256 == ()  # it was calibrated on nothing


@pytest.mark.usefixtures("no_child")
def test_a_manifest_of_another_version_is_ignored_and_told(tmp_path):
    path = make_onnx(tmp_path / "x.onnx")
    write_manifest(path)
    make_onnx(path, metadata={**OWN, "more": "text"})
    subject = open_model_ref(str(path))
    assert subject.preprocessing == SPEC and subject.preprocessing_from == "file"
    assert not subject.calibration_sha256
    (note,) = subject.notes
    assert "another version" in note and "x.onnx" in note
    (tmp_path / "manifest.json").write_text("{")
    assert "JSON" in open_model_ref(str(path)).notes[0]
    write_manifest(path, labels=["half of a pair: \ud800", *LABELS[1:]])
    assert "JSON" in open_model_ref(str(path)).notes[0]
    write_manifest(path, files="nonsense")
    assert open_model_ref(str(path)).notes == ()


@pytest.mark.parametrize("name", [*NO_FILES, *TOO_LARGE])
def test_a_manifest_that_is_no_file_is_not_read_and_told(tmp_path, name):
    path = tmp_path / "x.onnx"
    path.touch()
    EVERYTHING[name](tmp_path / "manifest.json")
    with in_time():
        entry, manifest, notes = manifest_of(path, "")
    assert (entry, manifest, len(notes)) == ({}, {}, 1)


@pytest.mark.parametrize(
    "broken",
    [
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0, 0.5]},
        {"mean": [float("nan")] * 3},
        {"crop_pct": 0},
        {"interpolation": "magic"},
        {"std": "0.5"},
        {"mean": [10**400, 0, 0]},
    ],
)
@pytest.mark.usefixtures("no_child")
def test_broken_metadata_counts_as_not_said(tmp_path, broken):
    metadata = {"preprocessing": OWN["preprocessing"] | broken, "labels": ["one"]}
    path = make_onnx(tmp_path / "x.onnx", metadata=metadata)
    with pytest.raises(InputError, match=r"--mean and --std"):
        open_model_ref(str(path))
    subject = open_model_ref(str(path), overrides=GIVEN)
    assert subject.labels == () and subject.preprocessing_from == "options"


@pytest.mark.usefixtures("no_child")
def test_options_override_what_a_file_says(tmp_path):
    path = make_onnx(tmp_path / "x.onnx")
    subject = open_model_ref(str(path), overrides={"mean": "0.1,0.2,0.3", "crop_pct": "0.9"})
    assert subject.preprocessing == dataclasses.replace(SPEC, mean=(0.1, 0.2, 0.3), crop_pct=0.9)
    assert subject.preprocessing_from == "options"


@pytest.mark.usefixtures("no_child")
def test_a_silent_file_needs_options(tmp_path):
    path = make_onnx(tmp_path / "x.onnx", metadata=None)
    for incomplete in ({}, {"mean": "0.5"}, {"std": "0.5"}):
        with pytest.raises(InputError, match=r"x\.onnx does not say .* --mean and --std"):
            open_model_ref(str(path), overrides=incomplete)
    subject = open_model_ref(str(path), overrides=GIVEN)
    assert subject.preprocessing == Preprocessing(8, 10, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.usefixtures("no_child")
def test_tflite_metadata_of_other_makers(tmp_path, colours):
    """The record that Android's libraries read, here without our own beside it."""
    prescribed = image_classifier_metadata(
        name="x",
        description="",
        input_name="image",
        mean=[127.5] * colours,
        std=[64.0] * colours,
        output_names=["logits"],
        has_labels=True,
    )
    path = make_tflite(tmp_path / "x.tflite", metadata={"TFLITE_METADATA": prescribed})
    append_labels(path, LABELS)
    subject = open_model_ref(str(path))
    assert subject.preprocessing.mean == pytest.approx((0.5, 0.5, 0.5))
    assert subject.preprocessing.std == pytest.approx((64 / 255,) * 3)
    assert subject.preprocessing_from == "file" and subject.labels == LABELS


@pytest.mark.usefixtures("no_child")
def test_pixels_without_normalisation_mean_what_the_quantization_says(tmp_path):
    prescribed = image_classifier_metadata(
        name="x",
        description="",
        input_name="codes",
        mean=[0.0],
        std=[1.0],
        output_names=["logits"],
        has_labels=False,
    )
    path = make_tflite(
        tmp_path / "x.tflite", metadata={"TFLITE_METADATA": prescribed}, quantization=(1 / 64, 128)
    )
    spec = open_model_ref(str(path)).preprocessing
    # Code 128 stands for 0 and code 192 for 1.
    assert [
        (128 / 255 - spec.mean[0]) / spec.std[0],
        (192 / 255 - spec.mean[0]) / spec.std[0],
    ] == (pytest.approx([0, 1], abs=1e-6))


@pytest.mark.parametrize("size", range(0, 400, 25))
def test_damaged_tflite_metadata_is_as_good_as_none(tmp_path, size):
    whole = image_classifier_metadata(
        name="x",
        description="",
        input_name="image",
        mean=[127.5] * 3,
        std=[64.0] * 3,
        output_names=["logits"],
        has_labels=True,
    )
    from mnv4_deploy.drift.tflite_normalization import read_normalization

    path = make_tflite(tmp_path / "x.tflite", metadata={"TFLITE_METADATA": whole[:size] or b"\0"})
    assert read_normalization(str(path)) in (None, ((127.5,) * 3, (64.0,) * 3))


def test_pytorch_models_by_name():
    subject = open_model_ref("hybrid-m")
    assert (subject.kind, subject.path) == ("torch", "")
    assert subject.source == ZooSource("hybrid-m")
    assert subject.preprocessing == Preprocessing(96, 96) and subject.preprocessing_from == "model"
    assert subject.labels[:2] == ("airplane", "automobile") and subject.num_classes == 10
    assert len(subject.sha256) == 64
    smaller = open_model_ref("hybrid-m", overrides={"size": "64", **GIVEN})
    assert smaller.preprocessing == Preprocessing(64, 64, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    random = open_model_ref("conv-s-035", weights="random:3")
    assert random.labels == () and random.num_classes == 1000 and random.sha256 == ""


# What is refused


@pytest.mark.parametrize(
    ("text", "weights", "error", "complaint"),
    [
        ("hybrid-n", "bundled", UnknownModelError, "hybrid-m.*given by its path"),
        ("gone.onnx", "bundled", ModelFileError, "does not exist"),
        ("no/such/thing", "bundled", ModelFileError, "does not exist"),
        ("conv-s", "bundled", WeightsError, "no bundled weights"),
        ("hybrid-m", "random:x", WeightsError, "not a seed"),
        ("a\0b", "bundled", UnknownModelError, "no model"),
    ],
)
def test_names_that_are_nothing(text, weights, error, complaint):
    with pytest.raises(error, match=complaint):
        open_model_ref(text, weights=weights)


def test_damaged_files(tmp_path):
    for name, maker in (("x.onnx", make_onnx), ("x.tflite", make_tflite)):
        path = maker(tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ModelFileError, match=r"damaged|neither"):
            open_model_ref(str(path))
    with pytest.raises(ModelFileError, match="not a file"):
        open_model_ref(str(tmp_path))


def make_network(path, inputs, outputs):
    """Nothing but the declared inputs and outputs: (name, type, shape)."""
    value = helper.make_tensor_value_info
    nodes = []
    constants = []
    for name, dtype, shape in outputs:
        fixed = [side if isinstance(side, int) else 1 for side in shape]
        array = np.zeros(fixed, helper.tensor_dtype_to_np_dtype(dtype))
        constants.append(numpy_helper.from_array(array, f"{name}.value"))
        nodes.append(helper.make_node("Identity", [f"{name}.value"], [name]))
    graph = helper.make_graph(
        nodes, "net", [value(*i) for i in inputs], [value(*o) for o in outputs], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return str(path)


FLOAT = TensorProto.FLOAT
IMAGE = ("image", FLOAT, [1, 3, 8, 8])
CLASSES = ("logits", FLOAT, [1, 5])


@pytest.mark.parametrize(
    ("inputs", "outputs", "complaint"),
    [
        ([IMAGE, ("mask", FLOAT, [1, 8, 8])], [CLASSES], "2 inputs .*'mask'"),
        ([("tokens", FLOAT, [1, 77])], [CLASSES], r"'tokens' float32 \[1, 77\].*no RGB image"),
        ([("grey", FLOAT, [1, 1, 8, 8])], [CLASSES], "no RGB image"),
        (
            [IMAGE],
            [("boxes", FLOAT, [1, 100, 4])],
            r"'boxes' float32 \[1, 100, 4\]: a classifier",
        ),
        ([IMAGE], [CLASSES, ("scores", FLOAT, [1, 3])], "'logits'.*'scores'.*one output"),
        ([("image", TensorProto.INT64, [1, 3, 8, 8])], [CLASSES], "int64.*needs float32"),
        ([("image", TensorProto.INT8, [1, 3, 8, 8])], [CLASSES], "does not say in which scale"),
        ([IMAGE], [("logits", TensorProto.UINT8, [1, 5])], "does not say in which scale"),
        ([IMAGE], [("logits", FLOAT, [2, 5])], r"'logits' float32 \[2, 5\]: a classifier"),
    ],
)
@pytest.mark.usefixtures("no_child")
def test_what_is_no_image_classifier(tmp_path, inputs, outputs, complaint):
    path = make_network(tmp_path / "x.onnx", inputs, outputs)
    with pytest.raises(UnsupportedError, match=complaint):
        open_model_ref(path, overrides=GIVEN)


def test_a_file_that_fails_only_when_it_runs(tmp_path):
    value = helper.make_tensor_value_info
    far = numpy_helper.from_array(np.array([10**6]), "far")
    flat = numpy_helper.from_array(np.array([1, -1]), "flat")
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["row"]),
        helper.make_node("Gather", ["row", "far"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(nodes, "net", [value(*IMAGE)], [value(*CLASSES)], [far, flat])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ModelFileError, match=r"cannot run .*x\.onnx"):
        open_model_ref(str(tmp_path / "x.onnx"), overrides=GIVEN)


@pytest.mark.usefixtures("no_child")
def test_a_batch_that_cannot_be_filled(tmp_path):
    path = make_onnx(tmp_path / "x.onnx", batch=1 << 20)
    with pytest.raises(UnsupportedError, match="1,048,576 images at once"):
        open_model_ref(str(path))


@pytest.mark.usefixtures("no_child")
def test_free_batch_and_free_sides(tmp_path):
    free = make_onnx(tmp_path / "free.onnx", batch="N", sides=("H", "W"))
    assert open_model_ref(str(free)).preprocessing == SPEC
    given = open_model_ref(str(free), overrides={"size": "12x16"})
    assert (given.preprocessing.height, given.preprocessing.width) == (12, 16)
    silent = make_onnx(tmp_path / "silent.onnx", sides=("H", "W"), metadata=None)
    with pytest.raises(InputError, match="--size"):
        open_model_ref(str(silent), overrides=GIVEN)
    fixed = make_onnx(tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match="takes images of 8x10, not 8x8"):
        open_model_ref(str(fixed), overrides={"size": "8"})


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"mean": "123.675,116.28,103.53"}, "--mean 0.485,0.456,0.406"),
        ({"mean": "0.5,0.5"}, "three numbers"),
        ({"mean": "a,b,c"}, "three numbers"),
        ({"mean": "nan"}, "three numbers"),
        ({"mean": "-1"}, "not possible"),
        ({"std": "0,1,1"}, "above 0"),
        ({"std": "58.395"}, "--std 0.229"),
        ({"crop_pct": "1.5"}, "--crop-pct"),
        ({"crop_pct": "x"}, "--crop-pct"),
        ({"interpolation": "nearest"}, "bilinear or bicubic"),
        ({"size": "big"}, "not an input size"),
        ({"size": "0"}, "1 to 4096"),
        ({"colour": "BGR"}, "no preprocessing option 'colour'"),
    ],
)
def test_options_that_are_wrong(overrides, complaint):
    with pytest.raises(InputError, match=complaint):
        parse_options(overrides)


def test_options_that_are_right():
    read = parse_options({"mean": " 0.5 ", "std": "0.1, 0.2,1", "size": "192x320", "crop_pct": ""})
    assert read.mean == (0.5, 0.5, 0.5) and read.std == (0.1, 0.2, 1.0)
    assert read.size == (192, 320) and read.crop_pct is None and read.complete


# Pairs


def pair(tmp_path, **changes):
    mine = make_subject(tmp_path / "a.onnx")
    return mine, dataclasses.replace(make_subject(tmp_path / "b.tflite"), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": ()},
        {"labels": tuple(f"Class_{i}, something" for i in range(7))},
        {"preprocessing": dataclasses.replace(SPEC, mean=(0.40000001, 0.5, 0.6))},
    ],
)
def test_pairs_that_go_together(tmp_path, changes):
    check_pair(*pair(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"num_classes": 9, "labels": ()}, "reference classes 7, candidate classes 9"),
        ({"labels": (*LABELS[:6], "dog")}, "reference class 6 'class 6', candidate class 6 'dog'"),
        (
            {"preprocessing": dataclasses.replace(SPEC, mean=(0.5, 0.5, 0.5), crop_pct=0.9)},
            "reference mean 0.4,0.5,0.6, candidate mean 0.5,0.5,0.5; reference crop_pct 1, "
            "candidate crop_pct 0.9",
        ),
        (
            {"preprocessing": dataclasses.replace(SPEC, interpolation="bilinear")},
            "reference interpolation bicubic, candidate interpolation bilinear",
        ),
        (
            {"preprocessing": dataclasses.replace(SPEC, height=9)},
            "reference size 8x10, candidate size 9x10",
        ),
        ({"probabilities": True}, "reference output logits, candidate output probabilities"),
    ],
)
def test_differences_are_shown(tmp_path, changes, shown):
    with pytest.raises(InputError, match=re.escape(shown)) as caught:
        check_pair(*pair(tmp_path, **changes))
    assert "a.onnx and b.tflite" in str(caught.value) and "\n" not in str(caught.value)


def test_different_preprocessing_can_be_allowed_but_not_different_sizes(tmp_path):
    other = dataclasses.replace(SPEC, mean=(0.5, 0.5, 0.5), interpolation="bilinear")
    check_pair(*pair(tmp_path, preprocessing=other), allow_preprocessing=True)
    with pytest.raises(InputError, match="size"):
        check_pair(
            *pair(tmp_path, preprocessing=dataclasses.replace(SPEC, width=9)),
            allow_preprocessing=True,
        )


@pytest.mark.parametrize("larger_first", [True, False])
def test_the_background_class_is_named(tmp_path, larger_first):
    names = imagenet_labels(1000)
    mine, theirs = pair(tmp_path, num_classes=1001, labels=("background", *names))
    mine = dataclasses.replace(mine, num_classes=1000, labels=names)
    both = (theirs, mine) if larger_first else (mine, theirs)
    with pytest.raises(InputError, match=r"b\.tflite TensorFlow's background class comes first"):
        check_pair(*both)


@pytest.mark.usefixtures("no_child")
def test_a_softmax_at_the_end_is_seen(tmp_path):
    assert open_model_ref(str(make_onnx(tmp_path / "p.onnx", softmax=True))).probabilities
    assert not open_model_ref(str(make_onnx(tmp_path / "l.onnx"))).probabilities
