"""The MobileNetV4 paper's roofline totals (int8, unfused, attention products excluded)."""

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.errors import UnknownModelError
from mnv4_deploy.models.layer_costs import LayerCost, layer_costs
from mnv4_deploy.profiles.costs.model_time import model_time
from tests.models.test_macs import COUNTS

# side, MACs of the attention products, operational intensity (MACs/byte), megabytes,
# ModelTime over MACTime at the ridge points of the Pixel 6 CPU and the Pixel 8 EdgeTPU
ROOFLINE = {
    "conv-s": (224, 0, 23.9, 7.782, 1.61, 18.15),
    "conv-m": (256, 0, 43.3, 24.941, 1.22, 10.02),
    "conv-l": (384, 0, 73.0, 87.363, 1.11, 5.94),
    "hybrid-m": (256, 41_943_040, 43.6, 28.220, 1.20, 9.96),
    "hybrid-l": (384, 339_738_624, 74.3, 99.274, 1.10, 5.84),
}


@pytest.mark.parametrize("name", ROOFLINE)
def test_the_papers_roofline(name: str) -> None:
    side, products, intensity, megabytes, on_cpu, on_edgetpu = ROOFLINE[name]
    layers = layer_costs(name, (side, side))
    assert (side, sum(layer.macs for layer in layers)) == COUNTS[name][1:]
    assert sum(layer.macs for layer in layers if layer.attention) == products
    int8 = [(layer.macs, layer.elements) for layer in layers if not layer.attention]
    macs, moved = (sum(column) for column in zip(*int8, strict=True))
    assert round(macs / moved, 1) == intensity
    assert round(moved / 1e6, 3) == megabytes
    assert round(model_time(int8, 31.2) / macs, 2) == on_cpu
    assert round(model_time(int8, 433.8) / macs, 2) == on_edgetpu


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.depthwise = nn.Conv2d(8, 8, (1, 3), groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.down(x)))
        rows = x.flatten(2)
        rows = rows @ rows.transpose(1, 2)
        y: Tensor = self.head(rows)
        return y


def test_layers_by_hand_in_the_order_they_run() -> None:
    module = Mixed()
    layers = layer_costs(module, (8, 12))
    assert layers == (
        LayerCost("down", "Conv2d", 192 * 27, 216, 288, 192),  # [1,8,4,6]
        LayerCost("depthwise", "Conv2d", 128 * 3, 24, 192, 128),  # [1,8,4,4]
        LayerCost("up", "ConvTranspose2d", 128 * 8, 64, 128, 256),  # [1,4,8,8]
        LayerCost("", "matmul", 16 * 64, 0, 512, 16),
        LayerCost("head", "Linear", 20 * 4, 20, 16, 20),
    )
    assert [layer.attention for layer in layers] == [False, False, False, True, False]
    assert layer_costs(module, (8, 12)) == layers  # the hooks of the first call are gone
    assert module(torch.zeros(1, 3, 8, 12)).shape == (1, 4, 5)


def test_classes_and_unknown_models() -> None:
    ten = layer_costs("conv-s", (64, 64), num_classes=10)
    assert (ten[-1].module, ten[-1].weight_elements) == ("classifier", 12_800)
    with pytest.raises(UnknownModelError):
        layer_costs("conv-xs", (64, 64))
