"""MLLA's rewrites: nothing computed changes, and whole files run in one XNNPACK partition."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.chains import Rewritten, rewrite
from mnv4_deploy.exporters.rewrites.layer_norm import fold_layer_norm, layer_norm_for_tflite
from mnv4_deploy.exporters.rewrites.linear_attention import TurnedProducts
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.models.networks.mlla import Mlla
from mnv4_deploy.models.networks.mlla_variants import Variant
from mnv4_deploy.models.randomize import randomize
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.records.files import FileFacts

Images = npt.NDArray[np.float32]
SIZE = (64, 96)
# Of the networks that become files: behind a halving, with two heads.
DEPTHS, BLOCKS = (0, 1), 1


def small(*, depths: tuple[int, ...] = (1, 1), features_only: bool = False) -> Mlla:
    heads = tuple(2**stage for stage in range(len(depths)))
    network = Mlla(
        Variant("small", "", 64, 32, depths, heads), num_classes=7, features_only=features_only
    )
    randomize(network, 0, size=(64, 64))
    return network


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
@pytest.mark.parametrize("size", [(64, 64), (75, 50), (33, 97)])
def test_nothing_computed_changes(format_: str, size: tuple[int, int]) -> None:
    network = small(depths=(1, 2)).double()
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).double()
    rewritten = rewrite(network, format_, size)
    with torch.inference_mode():
        expected = network(image)
        error = (rewritten.module(image) - expected).norm() / expected.norm()
    assert error < 1e-12
    assert "LinearAttention" not in {type(m).__name__ for m in rewritten.module.modules()}
    changed = {report.name: report.changed for report in rewritten.reports}
    stages = ("layers.0.blocks", "layers.1.blocks")
    assert changed[f"linear_attention_for_{format_}"] == stages


def test_feature_maps_are_rewritten_too() -> None:
    network = small(features_only=True).double()
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        for found, expected in zip(
            rewrite(network, "tflite", SIZE).module(image), network(image), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_other_networks_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    reports = rewrite(network, "tflite", (32, 32)).reports
    names = ("linear_attention_for_tflite", "fold_layer_norm", "layer_norm_for_tflite")
    assert [r.changed for r in reports if r.name in names] == [(), (), ()]


class TwoNorms(nn.Module):
    """One norm that only linear layers read, one whose result is also added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(6), nn.LayerNorm(6)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.c = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.second(self.a(y) * self.b(y))
        z: Tensor = y + self.c(y)
        return z


def test_norms_are_folded_into_all_their_readers_or_none() -> None:
    network = TwoNorms()
    randomize_plain(network)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double() + 3
    expected = network(x)
    report = fold_layer_norm(network, x)
    assert report.changed == ("first",)
    assert report.refused == (("second", "something other than linear layers reads it"),)
    assert not list(network.first.parameters())
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
    report = layer_norm_for_tflite(network, x)
    assert report.changed == report.float_modules == ("first", "second")
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


def test_norms_over_two_axes_are_refused() -> None:
    network = nn.Sequential(nn.LayerNorm((5, 6)), nn.Linear(6, 2)).double()
    x = torch.zeros(1, 5, 6).double()
    for rewriting in (fold_layer_norm, layer_norm_for_tflite):
        report = rewriting(network, x)
        assert not report.changed
        assert report.refused == (("0", "it normalises more than the last axis"),)


def randomize_plain(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.double().parameters():
        parameter.data.normal_(0, 1, generator=generator)


@dataclass(frozen=True)
class Files:
    network: Mlla
    rewritten: Rewritten
    fp32: Path
    int8: Path
    images: Images  # [B, H, W, 3], not those of the calibration

    def expected(self) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            result = self.network(torch.from_numpy(self.images).permute(0, 3, 1, 2))
        logits: npt.NDArray[np.float32] = result.numpy()
        return logits


def images(count: int, seed: int) -> Images:
    """Smooth noise, so that neighbours are alike as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 12, generator=generator)
    fine = nn.functional.interpolate(coarse, SIZE, mode="bicubic")
    fine = fine + 0.2 * torch.randn(fine.shape, generator=generator)
    array: Images = np.ascontiguousarray(fine.permute(0, 2, 3, 1).numpy())
    return array


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("mlla-tflite")
    fp32, int8 = folder / "fp32.tflite", folder / "int8.tflite"
    network = small(depths=DEPTHS)
    rewritten = rewrite(network, "tflite", SIZE)
    export_tflite(rewritten.module, fp32, input_shape=(1, *SIZE))
    quantize_tflite(
        fp32,
        int8,
        [image[None] for image in images(12, 1)],
        recipe=recipe("xnnpack"),
        float_modules=rewritten.float_modules,
    )
    return Files(network, rewritten, fp32, int8, images(6, 2))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("mlla-onnx")
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    network = small(depths=DEPTHS)
    rewritten = rewrite(network, "onnx", SIZE)
    export_onnx(rewritten.module, fp32, input_shape=(1, *SIZE))
    calibration = [image[None].transpose(0, 3, 1, 2) for image in images(12, 1)]
    quantize_onnx(fp32, int8, calibration, float_modules=rewritten.float_modules)
    return Files(network, rewritten, fp32, int8, images(6, 2))


def run_tflite(path: Path, batch: Images) -> npt.NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in batch:
        value = image[None]
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            value = np.clip(np.round(value / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], value)
        interpreter.invoke()
        row = interpreter.get_tensor(sink["index"]).astype(np.float32)
        if sink["dtype"] == np.int8:
            scale, zero = sink["quantization"]
            row = (row - zero) * scale
        rows.append(row)
    return np.concatenate(rows)


def run_onnx(path: Path, batch: Images) -> npt.NDArray[np.float32]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"input": image[None].transpose(0, 3, 1, 2)})[0] for image in batch]
    return np.concatenate(rows)


def sqnr_db(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


def own(facts: FileFacts, module: str) -> list[str]:
    """Arithmetic of the operators of all modules of that name, in all blocks."""
    return [op.compute for op in facts.operators if f".{module}" in op.name]


def test_float_file_is_one_partition(tflite: Files) -> None:
    facts = inspect_file(tflite.fp32)
    assert facts.partitions == 1
    assert all(op.delegated for op in facts.operators)
    found = facts.histogram
    # Nine layers a block (q and k in halves) and the head: none is computed twice.
    assert found["FULLY_CONNECTED"] == 9 * BLOCKS + 1
    assert found["DEPTHWISE_CONV_2D"] == 4 * BLOCKS + 1
    # Heads of q, k, v and of the result; one behind the last stage, whose norm is not among them;
    # two around the stage without a block.
    assert found["TRANSPOSE"] <= 4 * BLOCKS + 3
    assert found["BATCH_MATMUL"] == 4 * BLOCKS
    np.testing.assert_allclose(
        run_tflite(tflite.fp32, tflite.images), tflite.expected(), rtol=1e-4, atol=1e-4
    )


def test_int8_file_is_one_partition_with_float_islands(tflite: Files) -> None:
    facts = inspect_file(tflite.int8)
    assert facts.partitions == 1
    assert all(op.delegated for op in facts.operators)
    for module in ("attn.products", "norm1", "norm2"):
        assert own(facts, module)
        assert not {"int8"} & set(own(facts, module))
    for module in ("attn.q_even", "attn.k_odd", "attn.lepe", "in_proj", "mlp.fc2", "cpe1"):
        assert "int8" in own(facts, module)
    kept = {p for p, m in tflite.rewritten.module.named_modules() if isinstance(m, TurnedProducts)}
    assert kept < set(tflite.rewritten.float_modules)
    assert sqnr_db(run_tflite(tflite.int8, tflite.images), tflite.expected()) > 18


def test_onnx_files(onnx: Files) -> None:
    found = run_onnx(onnx.fp32, onnx.images)
    np.testing.assert_allclose(found, onnx.expected(), rtol=1e-4, atol=1e-4)
    histogram = inspect_file(onnx.fp32).histogram
    assert histogram["LayerNormalization"] == 2 * BLOCKS + 1
    assert histogram["Gemm"] == 9 * BLOCKS + 1
    assert sqnr_db(run_onnx(onnx.int8, onnx.images), onnx.expected()) > 18
    executed = inspect_file(onnx.int8).executed_histogram
    assert executed is not None
    assert executed["QGemm"] == 9 * BLOCKS + 1
    # A normaliser and the products with its sums, in float.
    assert executed["FusedMatMul"] == BLOCKS and "QLinearMatMul" not in executed
