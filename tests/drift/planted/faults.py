"""The defects, as data: where each is planted, what drift must say, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv4_deploy.exporters.records import FORMATS
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.layers.records import CauseKind
from mnv4_deploy.models.records import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.records import ModelRef
from tests.drift.planted import stock
from tests.drift.planted.bench import SPEC, Bench, Edit, photographs
from tests.drift.planted.edit_onnx import OnnxEdit

Files = tuple[Path, Path]  # the float32 reference and the int8 candidate
_HALF = Preprocessing(SPEC.height, SPEC.width, (0.5,) * 3, (0.5,) * 3)
_RNG = np.random.default_rng


@dataclass(frozen=True)
class Fault:
    """``at`` is the module it is planted in, "input" or "all layers"; "or" is between names."""

    name: str
    at: str
    cause: CauseKind
    plant: Callable[[Bench], Files]
    formats: tuple[Format, ...] = FORMATS

    def files(self, bench: Bench) -> Files:
        """The files of the format, planted once."""
        if self.name not in bench.made:
            bench.made[self.name] = self.plant(bench)
        return bench.made[self.name]

    def build(self, bench: Bench) -> tuple[ModelRef, ModelRef]:
        reference, candidate = self.files(bench)
        return bench.subject(reference), bench.subject(candidate)

    def found_at(self, module: str) -> bool:
        """Converters name a fused layer after any of its parts: all lie below ``at``."""
        places = self.at.split(" or ")
        return any(module == at or module.startswith(f"{at}.") for at in places)


def sound(bench: Bench) -> Files:
    if "sound" not in bench.made:
        bench.made["sound"] = bench.base, bench.quantize(bench.base, "sound")
    return bench.made["sound"]


def _outlier_channel(bench: Bench) -> Files:
    """One channel 100 times as large, undone in the next layer: the same function."""
    edited = bench.edit(bench.base)
    weight, bias = (a.copy() for a in edited.weights("block1.expand"))
    weight[5] *= 100
    bias[5] *= 100
    edited.set_weights("block1.expand", weight, bias)
    weight, bias = (a.copy() for a in edited.weights("block1.depthwise"))
    weight[5] /= 100
    edited.set_weights("block1.depthwise", weight, bias)
    reference = bench.save(edited, "outlier", "fp32")
    return reference, bench.quantize(reference, "outlier")


def _clipped(bench: Bench) -> Files:
    edited = bench.edit(bench.quantize(bench.base, "clipped"))
    edited.stretch_range("block2.expand", 1 / 4)
    return bench.base, bench.save(edited, "clipped", "int8")


def _unused_range(bench: Bench) -> Files:
    edited = bench.edit(bench.quantize(bench.base, "unused"))
    edited.stretch_range("block1.project", 16)
    return bench.base, bench.save(edited, "unused", "int8")


def _padded_infinity(bench: Bench) -> Files:
    """The lowest float, as converters write the minus infinity around a max-pool.

    XNNPACK refuses the file with float32's, so for TFLite it is float16's.
    """
    edited = bench.edit(bench.base)
    lowest = np.finfo(np.float32 if bench.format == "onnx" else np.float16).min
    edited.set_padding("pool", float(lowest))
    reference = bench.save(edited, "padded", "fp32")
    return reference, bench.quantize(reference, "padded")


def _overflowing_bias(bench: Bench) -> Files:
    """A channel of hardly any weights and a large bias, which is 10**10 steps of its scale."""
    edited = bench.edit(bench.base)
    weight, bias = (a.copy() for a in edited.weights("block2.expand"))
    weight[7] *= 1e-6
    bias[7] = 8.0
    edited.set_weights("block2.expand", weight, bias)
    reference = bench.save(edited, "overflow", "fp32")
    quantized = bench.edit(bench.quantize(reference, "overflow"))
    scales = np.abs(weight).max(axis=(1, 2, 3)) / 63
    codes = np.round(weight / scales[:, None, None, None])
    quantized.set_quantized_weights("block2.expand", codes, scales, bias)
    return reference, bench.save(quantized, "overflow", "int8")


def _depthwise_spread(bench: Bench) -> Files:
    """Channels with weights up to 200 times apart, undone around it, and one scale for all."""
    edited = bench.edit(bench.base)
    weight, bias = (a.copy() for a in edited.weights("block1.expand"))
    factor = 200 ** _RNG(0).uniform(0, 1, len(bias))
    # Half of it is undone on either side, so that no activation is spread as much.
    edited.set_weights(
        "block1.expand", weight / np.sqrt(factor)[:, None, None, None], bias / np.sqrt(factor)
    )
    weight, bias = edited.weights("block1.depthwise")
    weight, bias = weight * factor[:, None, None, None], bias * np.sqrt(factor)
    edited.set_weights("block1.depthwise", weight, bias)
    project, offset = edited.weights("block1.project")
    edited.set_weights("block1.project", project / np.sqrt(factor)[None, :, None, None], offset)
    reference = bench.save(edited, "spread", "fp32")
    quantized = bench.edit(bench.quantize(reference, "spread"))
    scale = np.abs(weight).max(keepdims=True).reshape(1) / 63
    quantized.set_quantized_weights("block1.depthwise", np.round(weight / scale), scale, bias)
    return reference, bench.save(quantized, "spread", "int8")


def _wide_logits(bench: Bench) -> Files:
    """Two thirds of a gate's channels always open or shut, by logits of 300."""
    edited = bench.edit(bench.base)
    weight, bias = (a.copy() for a in edited.weights("gate.logits"))
    bias[0::3] += 300
    bias[1::3] -= 300
    edited.set_weights("gate.logits", weight, bias)
    reference = bench.save(edited, "logits", "fp32")
    return reference, bench.quantize(reference, "logits")


def _coarse_sigmoid(bench: Bench) -> Files:
    edited = bench.edit(bench.quantize(bench.base, "sigmoid"))
    assert isinstance(edited, OnnxEdit)
    edited.quantize_result("Sigmoid", 1 / 8)
    return bench.base, bench.save(edited, "sigmoid", "int8")


def _small_probabilities(bench: Bench) -> Files:
    """A thousand classes' probabilities in the steps of 1/256 that TFLite's kernel has."""
    reference, candidate = bench.probabilities, bench.path("probabilities", "int8")
    if bench.format == "onnx":
        edited = OnnxEdit(bench.quantize(reference, "probabilities"))
        edited.quantize_result("Softmax", 1 / 256)
        edited.write(candidate)
    else:
        stock.quantize_tflite("static_wi8_ai8", reference, candidate, bench.calibration)
    return reference, candidate


def _four_bits(bench: Bench) -> Files:
    candidate = bench.path("four-bits", "int8")
    if bench.format == "onnx":
        stock.quantize_onnx_4(bench.base, candidate)
    else:
        stock.quantize_tflite("weight_only_wi4_afp32", bench.base, candidate)
    return bench.base, candidate


def _dynamic(bench: Bench) -> Files:
    """One scale for all channels that are read, found at run time: an outlier sets it."""
    edited = bench.edit(bench.base)
    weight, bias = (a.copy() for a in edited.weights("block1.expand"))
    bias[5] += 100
    edited.set_weights("block1.expand", weight, bias)
    weight, bias = (a.copy() for a in edited.weights("block1.depthwise"))
    weight[5] /= 100
    edited.set_weights("block1.depthwise", weight, bias)
    reference = bench.save(edited, "dynamic", "fp32")
    candidate = bench.path("dynamic", "int8")
    if bench.format == "onnx":
        stock.quantize_onnx_dynamic(reference, candidate)
    else:
        stock.quantize_tflite("dynamic_wi8_afp32", reference, candidate)
    return reference, candidate


def _clipped_16(bench: Bench) -> Files:
    candidate = bench.path("clipped-16", "int8")
    if bench.format == "onnx":
        stock.quantize_onnx_16(bench.base, candidate, bench.calibration)
    else:
        stock.quantize_tflite("static_wi8_ai16", bench.base, candidate, bench.calibration)
    edited = bench.edit(candidate)
    edited.stretch_range("block2.expand", 1 / 4)
    edited.write(candidate)
    return bench.base, candidate


def _bgr(bench: Bench) -> Files:
    """The candidate was made for blue, green and red, in this order."""
    edited = bench.edit(bench.base)
    weight, bias = edited.weights("stem")
    edited.set_weights("stem", weight[:, ::-1], bias)
    candidate = bench.save(edited, "bgr", "fp32")
    inputs = bench.calibration[..., ::-1]
    return bench.base, bench.quantize(candidate, "bgr", inputs)


def _other_normalisation(bench: Bench) -> Files:
    """The candidate was made for pixels of -1..1 instead of ImageNet's mean and deviation."""
    edited = bench.edit(bench.base)
    weight, bias = edited.weights("stem")
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    # (x - mean) / std of pixels x = x' * 0.5 + 0.5
    edited.set_weights(
        "stem",
        weight * (0.5 / std)[None, :, None, None],
        bias + (weight.sum(axis=(2, 3)) * ((0.5 - mean) / std)).sum(axis=1),
    )
    candidate = bench.save(edited, "half", "fp32")
    pixels = photographs("calibration", 24)
    return bench.base, bench.quantize(candidate, "half", normalize(pixels, _HALF))


def _random_calibration(bench: Bench) -> Files:
    """On what ``np.random.rand`` gives, as in many an example of a representative data set."""
    noise = _RNG(0).random(bench.calibration.shape, np.float32)
    return bench.base, bench.quantize(bench.base, "noise", noise)


def _changed(name: str, change: Callable[[Edit], None]) -> Callable[[Bench], Files]:
    """The candidate is the int8 form of a changed float file."""

    def plant(bench: Bench) -> Files:
        edited = bench.edit(bench.base)
        change(edited)
        candidate = bench.save(edited, name, "fp32")
        return bench.base, bench.quantize(candidate, name)

    return plant


def _swap(edited: Edit) -> None:
    edited.change_classes([0, 7, 2, 3, 4, 5, 6, 1, 8, 9])


def _rotate(edited: Edit) -> None:
    edited.change_classes([*range(1, 10), 0])


def _enlarge(edited: Edit) -> None:
    edited.change_classes([*range(10)], 1.5)


def _enlarge_inside(edited: Edit) -> None:
    weight, bias = edited.weights("block2.expand")
    edited.set_weights("block2.expand", weight * 1.5, bias * 1.5)


def _zero(edited: Edit) -> None:
    """The channel of the largest weights, which is certain to matter."""
    weight, bias = (array.copy() for array in edited.weights("block1.depthwise"))
    weight[np.abs(weight).sum(axis=(1, 2, 3)).argmax()] = 0
    edited.set_weights("block1.depthwise", weight, bias)


FAULTS = (
    Fault("two classes swapped", "output", "class order", _changed("swapped", _swap)),
    Fault("classes one further", "output", "class order", _changed("rotated", _rotate)),
    Fault("outputs 1.5 times as large", "output", "output scale", _changed("larger", _enlarge)),
    Fault(
        "a layer 1.5 times as large",
        "block2.expand",
        "wrong scale",
        _changed("wide", _enlarge_inside),
    ),
    Fault("a channel of zeros", "block1.depthwise", "lost channel", _changed("zeroed", _zero)),
    Fault("an outlier channel", "block1.expand", "outlier channel", _outlier_channel),
    Fault("a clipped layer", "block2.expand", "clipped activation", _clipped),
    Fault("wrong mean and deviation", "input", "normalisation", _other_normalisation),
    Fault("BGR for RGB", "input", "channel order", _bgr),
    Fault("padded with minus infinity", "pool", "padding constant", _padded_infinity),
    Fault("calibrated on noise", "all layers", "calibration data", _random_calibration),
    Fault("an overflowing bias", "block2.expand", "bias overflow", _overflowing_bias),
    Fault(
        "depthwise weights of one scale",
        "block1.depthwise",
        "depthwise weight spread",
        _depthwise_spread,
    ),
    Fault("a range 16 times too wide", "block1.project", "unused range", _unused_range),
    Fault("logits of 300", "gate", "softmax or sigmoid range", _wide_logits),
    Fault(
        "a sigmoid in steps of 1/8",
        "gate.sigmoid",
        "softmax or sigmoid range",
        _coarse_sigmoid,
        ("onnx",),  # the TFLite kernel takes no other step than 1/256
    ),
    Fault("weights of 4 bits", "all layers", "weights of few bits", _four_bits),
    Fault("an outlier read at run time", "block1.depthwise", "dynamic quantization", _dynamic),
    Fault("a clipped layer of 16 bits", "block2.expand", "clipped activation", _clipped_16),
    Fault("small probabilities", "softmax or logits", "8-bit probabilities", _small_probabilities),
)
