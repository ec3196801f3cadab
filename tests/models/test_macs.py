"""Parameter and MAC counts, to the unit.

The expected numbers are those of timm's own implementation (1.0.31), counted independently.
"""

from functools import cache

import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo
from mnv4_deploy.models.macs import count_macs, count_parameters, macs_by_module

COUNTS = {  # parameters, side in pixels, MACs
    "conv-s": (3_774_024, 224, 186_005_568),
    "conv-m": (9_715_512, 256, 1_080_244_224),
    "conv-l": (32_590_864, 384, 6_376_220_672),
    "hybrid-m": (11_074_648, 256, 1_271_183_360),
    "hybrid-l": (37_764_624, 384, 7_711_877_120),
}
SCALED_PARAMETERS = {
    "conv-s-035": 1_905_384,
    "conv-s-050": 2_238_952,
    "hybrid-m-075": 7_313_528,
    "hybrid-l-075": 22_754_984,
}
OTHER_GMACS = [
    ("conv-s", 256, 0.24218),
    ("conv-m", 224, 0.82765),
    ("conv-m", 384, 2.42741),
    ("conv-l", 256, 2.83527),
    ("hybrid-m", 224, 0.96631),
    ("hybrid-m", 384, 2.97499),
]
STAGE_PARAMETERS = {  # stem, stride 4, 8, 16, 32
    "conv-s": (928, 10_368, 34_112, 272_160, 819_296),
    "conv-m": (928, 43_360, 59_552, 1_521_040, 5_330_592),
    "conv-l": (696, 25_632, 113_904, 3_216_288, 26_228_544),
    "hybrid-m": (928, 43_360, 59_712, 1_947_920, 6_262_688),
    "hybrid-l": (696, 25_632, 114_096, 3_901_152, 30_717_248),
}
HEAD_PARAMETERS = {"conv-s": 124_800, "conv-m": 247_680, "hybrid-m": 247_680}
TENSORS = {"conv-s": 278, "conv-m": 464, "conv-l": 614, "hybrid-m": 632, "hybrid-l": 787}


@cache
def build_meta(name: str, num_classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return zoo.build(name, num_classes=num_classes)


def test_every_model_is_covered() -> None:
    elsewhere = {name for name in zoo.names() if zoo.entry(name).family != "mobilenetv4"}
    assert set(COUNTS) | set(SCALED_PARAMETERS) == set(zoo.names()) - elsewhere


@pytest.mark.parametrize("name", COUNTS)
def test_published_models_to_the_unit(name: str) -> None:
    parameters, side, macs = COUNTS[name]
    assert count_parameters(build_meta(name)) == parameters
    assert count_macs(build_meta(name), (side, side)) == macs


@pytest.mark.parametrize(("name", "parameters"), SCALED_PARAMETERS.items())
def test_scaled_widths(name: str, parameters: int) -> None:
    assert count_parameters(build_meta(name)) == parameters


@pytest.mark.parametrize(("name", "side", "gmacs"), OTHER_GMACS)
def test_other_resolutions(name: str, side: int, gmacs: float) -> None:
    assert round(count_macs(build_meta(name), (side, side)) / 1e9, 5) == gmacs


@pytest.mark.parametrize("name", STAGE_PARAMETERS)
def test_parameters_by_stage(name: str) -> None:
    model = build_meta(name)
    blocks = model.get_submodule("blocks")
    stem = sum(count_parameters(model.get_submodule(part)) for part in ("conv_stem", "bn1"))
    stages = [count_parameters(stage) for stage in blocks.children()]
    assert (stem, *stages[:4]) == STAGE_PARAMETERS[name]
    assert stages[4] == HEAD_PARAMETERS.get(name, 493_440)
    head = sum(count_parameters(model.get_submodule(part)) for part in ("conv_head", "norm_head"))
    assert head == 1_231_360
    assert count_parameters(model.get_submodule("classifier")) == 1_281_000


@pytest.mark.parametrize(("name", "count"), TENSORS.items())
def test_state_dict_tensors(name: str, count: int) -> None:
    assert len(build_meta(name).state_dict()) == count


def test_classes_cost_exactly_the_classifier() -> None:
    fewer = count_macs("conv-s", (224, 224)) - count_macs("conv-s", (224, 224), num_classes=10)
    assert fewer == 990 * 1280
    parameters = count_parameters(build_meta("conv-s", num_classes=10))
    assert 3_774_024 - parameters == 990 * 1281


def test_a_built_module_counts_like_its_name_and_stays_usable() -> None:
    model = zoo.build("conv-s-035")
    assert count_macs(model, (64, 96)) == count_macs("conv-s-035", (64, 96))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_attention_products_are_counted_and_attributed() -> None:
    by_module = macs_by_module("hybrid-m", (256, 256))
    # Block A at stride 16: N = 16*16 queries, P = 8*8 keys, 4 heads of width 64, C = 160.
    queries, keys, heads, width, channels = 256, 64, 4, 64, 160
    projections = queries * channels * heads * width * 2 + keys * channels * width * 2
    depthwise = keys * channels * 9 * 2
    products = 2 * heads * queries * keys * width
    assert by_module["blocks.2.4.attn"] == projections + depthwise + products
    stages = sum(by_module[f"blocks.{stage}"] for stage in range(5))
    outside = by_module["conv_stem"] + by_module["conv_head"] + by_module["classifier"]
    assert stages + outside == by_module[""]
