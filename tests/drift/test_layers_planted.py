"""Layers of files whose every tensor is computed a second time, by hand, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.layers.compare import compare_layers
from mnv4_deploy.layers.networks.onnx_network import OnnxNetwork
from mnv4_deploy.layers.networks.tflite_network import TfliteNetwork
from mnv4_deploy.layers.records import LayerDrift
from tests.drift.layers_factory import (
    INPUTS,
    LAYERS,
    Net,
    calibrated,
    make_pixels,
    make_subject,
    random_net,
    reference,
    sqnr,
    write_onnx,
    write_tflite,
)

pytestmark = pytest.mark.usefixtures("no_child")
PIXELS = make_pixels(8)
NET = random_net()
WRITERS = {"onnx": write_onnx, "tflite": write_tflite}
Write = Callable[[Net, Path], Path]


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


def layers(folder: Path, write: Write, *, candidate: Net, net: Net = NET) -> dict[str, LayerDrift]:
    """By name, in running order; every layer must have been found."""
    suffix = write.__name__.removeprefix("write_")
    files = (write(net, folder / f"float.{suffix}"), write(candidate, folder / f"int8.{suffix}"))
    found = compare_layers(make_subject(files[0]), make_subject(files[1]), PIXELS)
    assert found.images == len(PIXELS)
    assert found.unmatched == ()
    assert found.notes == ()
    assert len(found.layers) == len(LAYERS)
    return dict(zip(LAYERS, found.layers, strict=True))


def alone(net: Net, name: str) -> np.ndarray:
    """What the int8 layer makes of the float network's own tensors."""
    truth = reference(NET, PIXELS)
    inputs = [net.quantized(i, truth[i]) for i in INPUTS[name]]
    return net.quantized(name, net.dequantized().layer(name, *inputs))


def test_a_file_against_itself_is_equal_everywhere(tmp_path: Path, write: Write) -> None:
    for net in (NET, calibrated(NET, PIXELS)):
        found = layers(tmp_path, write, net=net, candidate=net)
        for layer in found.values():
            assert layer.accumulated.sqnr_db == 200
            assert layer.accumulated.cosine == pytest.approx(1)
            assert layer.isolated is not None
            assert layer.isolated.sqnr_db == 200


def test_each_layer_alone_agrees_with_numpy(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    found = layers(tmp_path, write, candidate=net)
    truth = reference(NET, PIXELS)
    for name, layer in found.items():
        assert layer.isolated is not None
        # Kernels round products of integers; a code that differs now and then is allowed.
        assert layer.isolated.sqnr_db == pytest.approx(
            sqnr(truth[name], alone(net, name)), abs=0.7
        )


def test_through_the_network_agrees_with_numpy(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    found = layers(tmp_path, write, candidate=net)
    truth = reference(NET, PIXELS)
    values = {"input": net.quantized("input", truth["input"])}
    for name in LAYERS:
        inputs = (values[i] for i in INPUTS[name])
        values[name] = net.quantized(name, net.dequantized().layer(name, *inputs))
        expected = sqnr(truth[name], values[name])
        assert found[name].accumulated.sqnr_db == pytest.approx(expected, abs=0.3)
        cosine = np.vdot(truth[name], values[name]) / (
            np.linalg.norm(truth[name]) * np.linalg.norm(values[name])
        )
        assert found[name].accumulated.cosine == pytest.approx(cosine, abs=1e-4)


def test_a_damaged_layer_shows_in_later_ones_only_through_the_network(
    tmp_path: Path, write: Write
) -> None:
    net = calibrated(NET, PIXELS)
    sound = layers(tmp_path, write, candidate=net)
    spoilt = layers(tmp_path, write, candidate=replace(net, weight_steps={"conv1": 32}))
    for name in ("conv2", "add", "mean", "logits"):
        assert spoilt[name].isolated == sound[name].isolated
        assert spoilt[name].accumulated.sqnr_db < sound[name].accumulated.sqnr_db - 3
    assert spoilt["conv1"].damage > 10 * sound["conv1"].damage
    assert max(spoilt, key=lambda name: spoilt[name].damage) == "conv1"


def test_clipping_is_counted(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    low, high = net.ranges["conv2"]
    net = replace(net, ranges={**net.ranges, "conv2": (low / 3, high / 3)})
    use = layers(tmp_path, write, candidate=net)["conv2"].output
    assert use is not None
    values = reference(NET, PIXELS)["conv2"]
    scale, zero_point = net.scale("conv2")
    assert (use.scale, use.zero_point) == (pytest.approx(scale), zero_point)
    assert use.low == pytest.approx((-128 - zero_point) * scale)
    assert use.high == pytest.approx((127 - zero_point) * scale)
    assert (use.seen_low, use.seen_high) == (pytest.approx(low), pytest.approx(high))
    outside = (values < use.low) | (values > use.high)
    assert use.clipped_percent == pytest.approx(100 * outside.mean(), abs=0.02)
    assert use.used_percent == pytest.approx(100)
    error = (net.quantized("conv2", values) - values) ** 2
    assert use.clipping_share == pytest.approx(error[outside].sum() / error.sum(), abs=1e-4)
    assert use.clipping_share > 0.9


def test_an_unused_range_is_measured(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    low, high = net.ranges["add"]
    net = replace(net, ranges={**net.ranges, "add": (low * 4, high * 4)})
    use = layers(tmp_path, write, candidate=net)["add"].output
    assert use is not None
    assert use.used_percent == pytest.approx(25, abs=0.5)
    assert (use.clipped_percent, use.clipping_share) == (0, 0)


def test_evidence(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    found = layers(tmp_path, write, candidate=net)
    truth = reference(NET, PIXELS)
    for name, layer in found.items():
        peaks = np.abs(truth[name]).max(axis=(0, 2, 3) if truth[name].ndim == 4 else 0)
        np.testing.assert_allclose(layer.evidence.channel_peaks, peaks, rtol=1e-5)
        assert layer.evidence.depthwise == (name == "conv2")
        assert layer.evidence.padding is None
    for name in ("conv1", "conv2", "logits"):
        evidence = found[name].evidence
        weight, left = (n.weights[f"{name}.weight"] for n in (NET, net.dequantized()))
        own = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        np.testing.assert_allclose(evidence.weight_peaks, own, rtol=1e-6)
        np.testing.assert_allclose(evidence.weight_scales, net.weight_codes(name)[1], rtol=1e-6)
        assert evidence.weight_sqnr_db == pytest.approx(sqnr(weight, left), abs=0.01)
        codes = net.bias_codes(name, INPUTS[name][0])
        assert evidence.bias_codes_max == np.abs(codes).max()
    for name in ("add", "mean"):
        assert found[name].evidence.weight_peaks is None
        assert found[name].evidence.weight_sqnr_db is None


def test_a_wrong_bias_is_a_constant_error(tmp_path: Path, write: Write) -> None:
    net = calibrated(NET, PIXELS)
    # Far above what int8 resolves, and within the range of the result.
    biases = NET.weights["logits.bias"] + np.array([0.4, -0.3, 0.3, -0.4, 0.2])
    wrong = replace(net, weights={**NET.weights, "logits.bias": biases})
    low, high = net.ranges["logits"]
    wrong = replace(wrong, ranges={**net.ranges, "logits": (low - 1, high + 1)})
    found = layers(tmp_path, write, candidate=wrong)
    assert found["logits"].evidence.bias_error_share > 0.98
    assert found["conv2"].evidence.bias_error_share < 0.3


def test_across_formats_float_files_agree_in_every_layer(tmp_path: Path) -> None:
    files = write_onnx(NET, tmp_path / "net.onnx"), write_tflite(NET, tmp_path / "net.tflite")
    for pair in (files, files[::-1]):
        found = compare_layers(make_subject(pair[0]), make_subject(pair[1]), PIXELS)
        assert found.unmatched == ()
        assert len(found.layers) == len(LAYERS)
        for layer in found.layers:
            assert layer.accumulated.sqnr_db > 100
            assert layer.isolated is not None
            assert layer.isolated.sqnr_db > 100


def test_across_formats_int8_is_the_same_as_within(tmp_path: Path) -> None:
    net = calibrated(NET, PIXELS)
    within = layers(tmp_path, write_tflite, candidate=net)
    files = write_onnx(NET, tmp_path / "net.onnx"), tmp_path / "int8.tflite"
    across = compare_layers(make_subject(files[0]), make_subject(files[1]), PIXELS)
    for name, layer in zip(LAYERS, across.layers, strict=True):
        assert layer.isolated is not None
        isolated = within[name].isolated
        assert isolated is not None
        assert layer.isolated.sqnr_db == pytest.approx(isolated.sqnr_db, abs=1e-2)
        assert layer.evidence.weight_sqnr_db == within[name].evidence.weight_sqnr_db


def test_the_first_layer_alone_gets_what_the_reference_sees(tmp_path: Path, write: Write) -> None:
    """Another normalisation spoils what runs through the network, and no layer on its own."""
    suffix = write.__name__.removeprefix("write_")
    subject = make_subject(write(NET, tmp_path / f"net.{suffix}"))
    other = replace(subject.preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = compare_layers(subject, replace(subject, preprocessing=other), PIXELS)
    for layer in found.layers:
        assert layer.accumulated.sqnr_db < 20
        assert layer.isolated is not None
        assert layer.isolated.sqnr_db == 200


@pytest.mark.parametrize(
    "error", [ModelFileError("it cannot load the copy."), MemoryError("net: std::bad_alloc")]
)
def test_without_isolation_the_rest_is_still_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, error: Exception
) -> None:
    def isolate(*_: object) -> None:
        raise error

    for network in (OnnxNetwork, TfliteNetwork):
        monkeypatch.setattr(network, "isolate", isolate)
    path = write(NET, tmp_path / f"net.{write.__name__.removeprefix('write_')}")
    found = compare_layers(make_subject(path), make_subject(path), PIXELS)
    assert found.notes == (f"No layer could be run on its own: {error}",)
    assert len(found.layers) == len(LAYERS)
    assert all(layer.isolated is None for layer in found.layers)
    assert all(layer.accumulated.sqnr_db == 200 for layer in found.layers)


def test_progress_is_told(tmp_path: Path) -> None:
    subject = make_subject(write_onnx(NET, tmp_path / "net.onnx"))
    seen: list[tuple[int, int]] = []
    compare_layers(subject, subject, PIXELS[:3], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
