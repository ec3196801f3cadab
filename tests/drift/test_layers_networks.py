"""Layers of real exports and of other people's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.exporters.recipes import RECIPES
from mnv4_deploy.exporters.records import FORMATS
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.quantize import cast_tflite_to_fp16, quantize_tflite
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.layers.compare import compare_layers
from mnv4_deploy.layers.networks.open_network import open_network
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.models.networks.mobilenetv4 import MobileNetV4
from mnv4_deploy.models.randomize import randomize
from mnv4_deploy.models.records import Preprocessing, WeightsSource
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.sessions.records import ModelRef
from tests.shared import Shared
from tests.sources import Loaded
from tests.tiny_network import TINY

pytestmark = pytest.mark.usefixtures("no_child")
SPEC = Preprocessing(64, 64)
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Exports:
    folder: Path
    pixels: Pixels
    reference: ReferenceModel

    def subject(self, name: str) -> ModelRef:
        kind = "torch" if name == "torch" else Path(name).suffix[1:]
        # An absolute name is that of a file elsewhere.
        path = "" if kind == "torch" else str(self.folder / name)
        source = Loaded(self.reference) if kind == "torch" else None
        return ModelRef(kind, name, path, SPEC, "file", "0" * 64, 1, source, num_classes=10)  # type: ignore[arg-type]

    def compare(self, reference: str, candidate: str) -> LayersDrift:
        return compare_layers(self.subject(reference), self.subject(candidate), self.pixels)


@pytest.fixture(scope="module")
def exports(shared: Shared) -> Exports:
    module = MobileNetV4(TINY, num_classes=10).eval()
    randomize(module, 0, size=(64, 64))
    source = WeightsSource("random", "random:0")
    reference = ReferenceModel("tiny", module, SPEC, (), source, 1, 10)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    images = [normalize(image[None], SPEC) for image in pixels]
    shape = (1, 64, 64)

    def export(folder: Path) -> None:
        fp32, int8 = ([folder / f"{p}.{f}" for f in FORMATS] for p in ("fp32", "int8"))
        export_onnx(rewrite(module, "onnx", (64, 64)).module, fp32[0], input_shape=shape)
        export_tflite(rewrite(module, "tflite", (64, 64)).module, fp32[1], input_shape=shape)
        nchw = [np.ascontiguousarray(image.transpose(0, 3, 1, 2)) for image in images]
        quantize_onnx(fp32[0], int8[0], nchw, method="minmax")
        quantize_tflite(fp32[1], int8[1], images, recipe=RECIPES["xnnpack"], method="minmax")
        cast_tflite_to_fp16(fp32[1], folder / "fp16.tflite")

    folder = shared.folder("tiny-exports", export)
    return Exports(folder, pixels, reference)


FLOATS = ("torch", "fp32.onnx", "fp32.tflite")


@pytest.mark.parametrize(("reference", "candidate"), list(permutations(FLOATS, 2)))
def test_float_networks_agree_in_every_layer(
    exports: Exports, reference: str, candidate: str
) -> None:
    found = exports.compare(reference, candidate)
    assert found.unmatched == ()
    assert found.notes == ()
    products = sum(layer.evidence.weight_peaks is not None for layer in found.layers)
    # Stem, 4 + 3 + 3 + 2 in the bottlenecks, 6 + 4 in the attentions, 2 at the end and the dense
    # layer are 26; four of them may be in sums or in one with others.
    assert 22 <= products <= 26
    for layer in found.layers:
        assert layer.accumulated.sqnr_db > 100, layer
        assert layer.isolated is not None, layer
        assert layer.isolated.sqnr_db > 100, layer
        assert layer.output is None
        sqnr = layer.evidence.weight_sqnr_db
        assert sqnr is None or sqnr > 100, layer


@pytest.mark.parametrize("candidate", ["int8.onnx", "int8.tflite"])
@pytest.mark.parametrize("reference", FLOATS)
def test_int8_layers_join_any_reference(exports: Exports, reference: str, candidate: str) -> None:
    found = exports.compare(reference, candidate)
    assert found.unmatched == ()
    # The bits that ordinary runs give, too: intermediate outputs undo no fusion.
    assert found.notes == ()
    for layer in found.layers:
        assert layer.isolated is not None, layer
        assert layer.isolated.sqnr_db > 25, layer
        assert layer.accumulated.sqnr_db > 5, layer
    integer = [layer for layer in found.layers if "int8" in layer.compute]
    assert all(layer.isolated.sqnr_db < 60 for layer in integer if layer.isolated)
    assert len(integer) > 0.8 * len(found.layers)
    used = [layer.output.used_percent for layer in integer if layer.output is not None]
    assert np.median(used) > 80
    # Alone, a layer mostly does better than with all the noise before it.
    better = [la.isolated.sqnr_db > la.accumulated.sqnr_db for la in found.layers if la.isolated]
    assert np.mean(better) > 0.9


def test_the_reference_does_not_change_what_is_found(exports: Exports) -> None:
    files = [exports.compare(reference, "int8.tflite") for reference in FLOATS]
    by_tensor = [{layer.tensor: layer for layer in found.layers} for found in files]
    common = set(by_tensor[0]) & set(by_tensor[1]) & set(by_tensor[2])
    # Across formats such a sum is taken together with the product it belongs to.
    common -= {n for n in common if by_tensor[0][n].kind == "ADD" and "attn" in n}
    assert len(common) >= 30
    for name in common:
        own = [layers[name].isolated for layers in by_tensor]
        first = own[0]
        assert first is not None
        for other in own[1:]:
            assert other is not None
            assert other.sqnr_db == pytest.approx(first.sqnr_db, abs=0.5)


def test_float16_weights_cost_what_ten_bits_cost(exports: Exports) -> None:
    found = exports.compare("fp32.tflite", "fp16.tflite")
    assert found.unmatched == ()
    products = [la for la in found.layers if la.evidence.weight_sqnr_db is not None]
    assert len(products) >= 22
    for layer in products:
        sqnr = layer.evidence.weight_sqnr_db
        assert sqnr is not None
        # Rounding to 11 significant bits: 6.02 * 11 + about 10 dB, less for subnormals.
        assert 68 < sqnr < 85


@pytest.mark.parametrize("format_", ["QDQ", "QOperator"])
def test_files_of_onnxruntimes_own_quantizer(
    exports: Exports, format_: str, tmp_path: Path
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(exports.pixels)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            image = next(self.images, None)
            if image is None:
                return None
            return {"input": np.ascontiguousarray(normalize(image, SPEC).transpose(2, 0, 1)[None])}

    path = str(tmp_path / f"{format_}.onnx")
    quantize_static(
        str(exports.folder / "fp32.onnx"),
        path,
        Reader(),
        quant_format=QuantFormat[format_],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    found = exports.compare("fp32.onnx", path)
    assert found.unmatched == ()
    assert sum(layer.output is not None for layer in found.layers) >= 30
    for layer in found.layers:
        assert layer.isolated is not None, layer
        assert layer.isolated.sqnr_db > 10, layer


def test_a_pytorch_reference_is_run_as_it_is(exports: Exports) -> None:
    """The rewritten layers end in what the module itself computes."""
    network = open_network(exports.subject("torch"), (64, 64), "tflite")
    image = exports.pixels[0]
    values = network.run(network.feed(image, SPEC))
    x = torch.from_numpy(normalize(image[None], SPEC)).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = exports.reference.module(x).numpy()
    np.testing.assert_allclose(values[network.outputs[0]], expected, rtol=1e-3, atol=1e-5)


def test_a_file_that_cannot_be_run(exports: Exports, tmp_path: Path) -> None:
    for name in ("fp32.onnx", "fp32.tflite"):
        broken = tmp_path / f"broken{Path(name).suffix}"
        broken.write_bytes((exports.folder / name).read_bytes()[:2000])
        with pytest.raises(ModelFileError, match="broken"):
            exports.compare(name, str(broken))


def third_party(name: str) -> Path:
    path = Path(__file__).parents[3] / "shared" / "data" / "third-party" / name
    if not path.exists():
        pytest.skip("needs the collection of other people's model files")
    return path


def _subject(exports: Exports, path: Path) -> ModelRef:
    spec = Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3)
    return replace(
        exports.subject("fp32.tflite"), path=str(path), name=path.name, preprocessing=spec
    )


def test_other_peoples_files_show_their_layers(exports: Exports) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    for name, count in (
        ("mobilenet_v1_0.25_224_float.tflite", 30),
        ("tf2_mobilenet_v2_1.0_224_ptq.tflite", 65),
    ):
        subject = _subject(exports, third_party(name))
        found = compare_layers(subject, subject, pixels)
        assert len(found.layers) == count
        assert found.unmatched == ()
        assert all(layer.accumulated.sqnr_db == 200 for layer in found.layers)
