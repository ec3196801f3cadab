"""Runners against the runtimes called directly, and against outputs known by hand."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto

from mnv4_deploy.drift.model_ref import open_model_ref
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.sessions.open import open_runner
from tests.drift.classifiers import SPEC, logits, make_onnx, make_subject, make_tflite


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 10, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_onnx(tmp_path, images, batch):
    runner = open_runner(make_subject(make_onnx(tmp_path / "x.onnx", batch=batch)))
    assert runner.batch == (2 if batch == 2 else 1)
    np.testing.assert_allclose(runner.outputs(images)["logits"], logits(images), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_tflite(tmp_path, images, batch):
    runner = open_runner(make_subject(make_tflite(tmp_path / "x.tflite", batch=batch)))
    assert runner.batch == batch
    np.testing.assert_allclose(runner.outputs(images)["logits"], logits(images), atol=1e-5)


def test_inputs_are_normalised_and_channels_last(tmp_path, images):
    expected = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    for path in (make_onnx(tmp_path / "x.onnx"), make_tflite(tmp_path / "x.tflite")):
        seen = open_runner(make_subject(path)).inputs(images)
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_files_that_take_pixels(tmp_path, images):
    """They normalise by themselves, so both outputs and what the network sees are the same."""
    path = make_onnx(tmp_path / "x.onnx", dtype=TensorProto.UINT8)
    runner = open_runner(make_subject(path))
    np.testing.assert_allclose(runner.outputs(images)["logits"], logits(images), atol=1e-5)
    expected = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    np.testing.assert_allclose(runner.inputs(images), expected, atol=1e-6)


def test_an_8_bit_input_holds_what_its_codes_hold(tmp_path, images):
    scale, zero_point = 0.02, 118
    path = make_tflite(tmp_path / "x.tflite", quantization=(scale, zero_point))
    runner = open_runner(make_subject(path))
    seen = runner.inputs(images)
    real = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    clipped = np.clip(real, -zero_point * scale, (255 - zero_point) * scale)
    assert np.abs(seen - clipped).max() <= 0.501 * scale
    np.testing.assert_allclose(seen / scale, np.round(seen / scale), atol=1e-3)
    # The outputs are those of the rounded input.
    weights = np.linalg.lstsq(real.mean(axis=(1, 2)), logits(images), rcond=None)[0]
    rounded = seen.mean(axis=(1, 2)) @ weights
    np.testing.assert_allclose(runner.outputs(images)["logits"], rounded, atol=1e-4)


@pytest.mark.parametrize("zero_point", [127, 128])
def test_normalisation_and_quantization_that_cancel_leave_pixels_alone(
    tmp_path, images, zero_point
):
    """TensorFlow's files: mean and std of 127.5, and that as the input's scale."""
    half = dataclasses.replace(SPEC, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    path = make_tflite(tmp_path / "x.tflite", quantization=(2 / 255, zero_point))
    runner = open_runner(make_subject(path, preprocessing=half))
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for image, row in zip(images, runner.outputs(images)["logits"], strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        direct = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        np.testing.assert_allclose(row, direct, atol=1e-5)


def test_pytorch_one_image_at_a_time():
    subject = open_model_ref("hybrid-m", overrides={"size": "64"})
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    runner = open_runner(subject)
    together = runner.outputs(images)["logits"]
    assert together.shape == (3, 10) and runner.batch == 1 and torch.get_num_threads() == 1
    for i in range(3):
        np.testing.assert_array_equal(runner.outputs(images[i : i + 1])["logits"][0], together[i])
    x = torch.from_numpy(images / 255 - np.array(subject.preprocessing.mean))
    x = (x / torch.tensor(subject.preprocessing.std)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = load_reference("hybrid-m").module(x).numpy()
    np.testing.assert_allclose(together, expected, atol=1e-4)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_free_size_takes_the_subjects(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "onnx":
        make_onnx(path, sides=("H", "W"), batch="N")
    else:
        make_tflite(path, free_size=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 14, 3), np.uint8)
    larger = dataclasses.replace(SPEC, height=12, width=14)
    runner = open_runner(make_subject(path, preprocessing=larger))
    np.testing.assert_allclose(runner.outputs(images)["logits"], logits(images), atol=1e-5)


def test_what_the_runtime_gives_is_what_comes_out(tmp_path, images):
    path = make_onnx(tmp_path / "x.onnx", softmax=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    runner = open_runner(make_subject(path))
    for image, row in zip(runner.inputs(images), runner.outputs(images)["logits"], strict=True):
        (direct,) = session.run(None, {"input": image.transpose(2, 0, 1)[None]})
        np.testing.assert_array_equal(row, direct[0])
