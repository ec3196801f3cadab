"""Split depthwise convolutions that XNNPACK has no kernel for into ones that it has.

XNNPACK's depthwise kernels have up to 25 taps. A larger one (7x7 of EfficientViT and ConvNeXt)
runs as a grouped convolution of one channel a group: 454 us in int8 for 16 channels on 14x14,
where a 5x5 takes 12. The rows -r and r of a kernel are a kernel of 2 rows dilated by 2r, padded
alike on both sides; so a kernel of 7 rows is the sum of one of 3 and two of 2 rows, each on the
whole map. Rows that meet nothing but padding on a low map are left out: their sum would be all
zeros, for which int8 has no scale.

Changes: a depthwise convolution of more than 25 taps, not dilated, of odd sides, padded with
zeros by half its height, with at most 25 taps in 3 of its rows.
Refuses: other depthwise convolutions of more than 25 taps.
"""

from __future__ import annotations

from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import LayerGraph, RewriteReport, replace_layer

_MOST_TAPS = 25


class SummedDepthwise(nn.Module):
    """The sum of convolutions of the same input."""

    def __init__(self, parts: list[nn.Conv2d]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.parts[0](x)
        for part in list(self.parts)[1:]:
            total = total + part(x)
        return total


def split_depthwise(module: nn.Module, example: Tensor) -> RewriteReport:
    layers = LayerGraph.trace(module, example)
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for node in layers.layers(nn.Conv2d):
        path = str(node.target)
        conv = layers.layer(node)
        assert isinstance(conv, nn.Conv2d)
        rows, columns = conv.kernel_size
        if conv.groups != conv.in_channels or conv.groups == 1 or rows * columns <= _MOST_TAPS:
            continue
        if (reason := _refusal(conv)) is not None:
            refused.append((path, reason))
        else:
            replace_layer(
                module,
                path,
                SummedDepthwise(_parts(conv, layers.shape(node.all_input_nodes[0])[-2])),
            )
            changed.append(path)
    return RewriteReport("split_depthwise", tuple(changed), tuple(refused))


def _refusal(conv: nn.Conv2d) -> str | None:
    rows, columns = conv.kernel_size
    if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return "it is dilated or not padded with zeros"
    if not rows % 2 or conv.padding[0] != rows // 2:
        return "it is not padded by half its height"
    if 3 * columns > _MOST_TAPS:
        return f"3 of its rows have more than {_MOST_TAPS} taps"
    return None


def _parts(conv: nn.Conv2d, height: int) -> list[nn.Conv2d]:
    """The convolutions that ``conv`` is the sum of, for maps of ``height``."""
    rows, columns = conv.kernel_size
    assert not isinstance(conv.padding, str)
    parts: list[nn.Conv2d] = []
    for reach in range(1, max(1, min(rows // 2, height - 1)) + 1):
        # The first part has the middle row, too.
        step = 2 * reach if parts else reach
        weight = conv.weight.detach()[:, :, rows // 2 - reach : rows // 2 + reach + 1 : step]
        part = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (weight.shape[2], columns),
            stride=conv.stride,  # type: ignore[arg-type]
            padding=(reach, conv.padding[1]),
            dilation=(step, 1),
            groups=conv.groups,
            bias=False,
            device="meta",
            dtype=weight.dtype,
        )
        part.weight = nn.Parameter(weight.clone())
        parts.append(part)
    parts[0].bias = conv.bias
    return parts
