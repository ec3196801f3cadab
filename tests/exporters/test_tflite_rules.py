"""Networks of other people's operators and scales stay in one XNNPACK partition in int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.recipes import TfliteRecipe, recipe
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.models.records import OutputSpec
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.records.files import FileFacts

SIZE = 8
# What recipes kept in float before they read the table of what XNNPACK takes.
FEW = frozenset({"SOFTMAX", "GELU", "HARD_SWISH", "RELU", "AVERAGE_POOL_2D"})


class FloatOnly(nn.Module):
    """Operators between convolutions that ai-edge-quantizer has in int8, and XNNPACK has not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.maximum(self.left(x), self.right(x))
        x = x / (1 + x.abs()).sqrt()
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1)
        logits: Tensor = self.last(torch.minimum(x, self.right(x)))
        return logits


class FaintProduct(nn.Module):
    """A product that gets the scale of the strong map it is joined with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        for layer in (self.left, self.right):
            layer.weight.data *= 1e-2
            layer.bias.data *= 1e-2

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        logits: Tensor = self.last(torch.cat([self.left(x) * self.right(x), x], 1))
        return logits


class FaintJoined(nn.Module):
    """A faint map, joined with a strong one, that a convolution reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.faint = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last, self.other = nn.Conv2d(16, 4, 1), nn.Conv2d(8, 4, 1)
        self.faint.weight.data *= 1e-4
        self.faint.bias.data *= 1e-4
        self.other.weight.data *= 1e4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        faint = self.faint(x)
        return self.last(torch.cat([faint, x], 1)), self.other(faint)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "float only": (FloatOnly, 1),
    "faint product": (FaintProduct, 1),
    "faint joined": (FaintJoined, 2),
}
IMAGES = [
    np.random.default_rng(seed).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)
    for seed in range(8)
]


@pytest.fixture(scope="module")
def quantize(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, TfliteRecipe], tuple[Path, Path]]:
    """The float32 file of a network, made once, and its int8 form."""
    folder = tmp_path_factory.mktemp("rules")

    def quantize_(name: str, with_recipe: TfliteRecipe) -> tuple[Path, Path]:
        fp32, int8 = folder / f"{name}.tflite", folder / f"{name}-int8.tflite"
        if not fp32.exists():
            make, outputs = NETWORKS[name]
            torch.manual_seed(0)
            maps = [OutputSpec(name, is_map=True) for name in "ab"[:outputs]]
            export_tflite(make(), fp32, input_shape=(1, SIZE, SIZE), outputs=maps)
        quantize_tflite(fp32, int8, IMAGES, recipe=with_recipe)
        return fp32, int8

    return quantize_


def outputs(path: Path) -> list[npt.NDArray[np.float32]]:
    """The outputs for all images, in real numbers."""
    from ai_edge_litert.interpreter import Interpreter

    file = TfliteFile(path)
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), results = interpreter.get_input_details(), list(map(int, file.graph.outputs))
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in results]
    for image in IMAGES:
        values = image
        if given["dtype"] == np.int8:
            scale, zero = file.quantization(given["index"])
            values = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], values)
        interpreter.invoke()
        for index, tensor in enumerate(results):
            result = interpreter.get_tensor(tensor).astype(np.float32)
            if given["dtype"] == np.int8:
                scale, zero = file.quantization(tensor)
                result = (result - zero) * np.float32(scale)
            found[index].append(result)
    return [np.concatenate(arrays) for arrays in found]


def left(facts: FileFacts) -> Counter[str]:
    return Counter(operator.kind for operator in facts.not_delegated)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_one_partition_and_close_to_float(name, quantize):
    fp32, int8 = quantize(name, recipe("xnnpack"))
    facts = inspect_file(int8)
    assert (facts.partitions, left(facts)) == (1, Counter())
    assert [t.dtype for t in facts.inputs] == ["int8"]
    for expected, actual in zip(outputs(fp32), outputs(int8), strict=True):
        noise = np.square(expected - actual).sum()
        assert 10 * np.log10(np.square(expected).sum() / noise) > 25


@pytest.mark.parametrize(
    ("name", "partitions", "kinds"),
    [
        ("float only", 4, ["MAXIMUM", "SQRT", "DIV", "RSQRT"]),
        ("faint product", 2, ["MUL"]),
        ("faint joined", 2, ["QUANTIZE"]),
    ],
)
def test_without_the_table_operators_leave_xnnpack(name, partitions, kinds, quantize):
    naive = replace(recipe("xnnpack"), float_ops=FEW, scale_ratios=())
    facts = inspect_file(quantize(name, naive)[1])
    assert facts.partitions == partitions
    assert left(facts) == Counter(kinds)


def test_only_what_is_beyond_the_limits_stays_in_float(quantize):
    facts = inspect_file(quantize("faint product", recipe("xnnpack"))[1])
    computed = [o.compute for o in facts.operators if o.kind in ("MUL", "CONCATENATION")]
    assert computed == ["float32", "int8"]
    facts = inspect_file(quantize("faint joined", recipe("xnnpack"))[1])
    assert [o.compute for o in facts.operators if o.kind == "CONCATENATION"] == ["float32"]
    assert {o.compute for o in facts.operators if o.kind == "CONV_2D"} == {"int8"}


def test_integer_only_has_them_all_in_int8(quantize):
    facts = inspect_file(quantize("faint product", recipe("integer-only"))[1])
    assert set(facts.compute_histogram) == {"int8"}
    facts = inspect_file(quantize("float only", recipe("integer-only"))[1])
    floats = {o.kind for o in facts.operators if o.compute == "float32"}
    assert floats == {"ABS", "MINIMUM"}  # ai-edge-quantizer has these in float only
