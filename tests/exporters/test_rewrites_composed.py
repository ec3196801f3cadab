"""The whole TFLite chain on every model: exact in float64, and nothing left to fold."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.models import zoo
from mnv4_deploy.models.layers import LayerScale
from mnv4_deploy.models.mobile_mqa import MultiQueryAttention

# Square, non-square, odd. At a stride of 32 these are the smallest with a border and no interior.
SIZES = ((64, 64), (64, 96), (65, 97))


@pytest.mark.parametrize("name", zoo.names())
def test_chain_is_exact(name: str, random_module: Callable[[str], nn.Module]) -> None:
    reference = copy.deepcopy(random_module(name)).double()
    for height, width in SIZES:
        x = torch.randn(1, 3, height, width, dtype=torch.float64)
        rewritten = rewrite(reference, "tflite", (height, width))
        with torch.no_grad():
            expected, actual = reference(x), rewritten.module(x)
        assert expected.std() > 1e-3
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= 1e-9, f"{height}x{width}"
        for layer in rewritten.module.modules():
            assert not isinstance(layer, nn.BatchNorm2d | LayerScale | MultiQueryAttention)
