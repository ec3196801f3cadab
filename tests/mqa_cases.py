"""Mobile MQA layers that the tests of the model and of its rewrites share."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnv4_deploy.models.networks.layers import LayerScale
from mnv4_deploy.models.networks.mobile_mqa import MultiQueryAttention

CHANNELS = 12


@dataclass(frozen=True)
class Case:
    heads: int
    key_dim: int
    value_dim: int | None
    kv_stride: int
    query_stride: int | tuple[int, int]
    size: tuple[int, int]

    @property
    def id(self) -> str:
        query = self.query_stride
        vertical, horizontal = query if isinstance(query, tuple) else (query, query)
        return (
            f"h{self.heads}-d{self.key_dim}-e{self.value_dim}-kv{self.kv_stride}"
            f"-q{vertical}x{horizontal}-{self.size[0]}x{self.size[1]}"
        )

    def options(self) -> dict[str, object]:
        return {
            "heads": self.heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "kv_stride": self.kv_stride,
            "query_stride": self.query_stride,
        }


CASES = [
    Case(3, 8, None, 1, 1, (6, 6)),
    Case(3, 8, None, 2, 1, (5, 8)),
    Case(1, 1, 5, 1, 1, (1, 7)),
    Case(2, 5, 3, 3, 1, (7, 4)),
    Case(4, 3, 7, 1, 2, (6, 8)),
    Case(4, 6, 2, 2, 2, (8, 4)),
    Case(2, 4, 6, 2, 2, (7, 5)),
    Case(3, 4, None, 1, (1, 2), (5, 6)),
    Case(2, 4, 9, 2, (3, 1), (7, 3)),
    Case(2, 3, 5, 1, (4, 3), (9, 10)),
    Case(2, 3, 4, 2, 6, (13, 4)),
    Case(2, 4, 4, 2, 2, (1, 1)),
]


def settle(module: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with no weight, norm or layer scale that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            spread = 1.5 * float(layer.weight[0].numel()) ** -0.5
            layer.weight.data.normal_(0, spread, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.5, generator=generator)
            layer.running_mean.normal_(0, 0.5, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(layer, LayerScale):
            layer.gamma.data.uniform_(0.3, 1, generator=generator)
    return module.eval()


def attention(case: Case) -> MultiQueryAttention:
    """In float64."""
    layer = MultiQueryAttention(CHANNELS, **case.options()).double()  # type: ignore[arg-type]
    settle(layer)
    return layer


def image(size: tuple[int, int], *, batch: int = 2, channels: int = CHANNELS) -> Tensor:
    """``[B, C, H, W]`` in float64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
