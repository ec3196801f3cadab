"""Mobile MQA in the layout that is fastest in onnxruntime on a CPU.

K and V are shared by all heads, so the heads of a position are just more query rows: the
head-major channels of an NHWC query map reshape straight to ``[B, H*W*h, d]``. onnxruntime lets
the convolution's own layout reorder write NHWC, so each permute here costs nothing beyond that
reorder, in float (blocked convolutions) as in int8 (NHWC convolutions).
Sums of kernel times of Hybrid-M, fp32, 256 px, AVX2: 0.98 of the NCHW products of the reference
form, 0.97 of the stock form.

Shape legend: see ``models/mobile_mqa.py``; N = H*W positions, R = N*h query rows.

Changes, for every ``MultiQueryAttention``:
- the logit scale 1/sqrt(d) goes into the query projection;
- a border map behind K's or V's projection (``fold_pre_norm``) is added behind the permute,
  where it does not keep the permute from the reorder;
- where K and V are not strided, Q, K and V become one convolution and a split: 8 convolutions
  and 8 reorders fewer in Hybrid-M.
Refuses: nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import ConvPlusMap, RewriteReport, replace_layer
from mnv4_deploy.models.mobile_mqa import MultiQueryAttention


class _Rows(nn.Module):
    """``[B, C, H, W]`` through ``layer`` to rows ``[B, N, C_out]``, plus a border map."""

    border: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        border_map: Tensor | None = None
        projection = layer if isinstance(layer, nn.Conv2d) else layer.proj
        if isinstance(projection, ConvPlusMap):
            border_map = projection.bias_map.permute(0, 2, 3, 1).flatten(1, 2)
            layer.proj = projection.conv
        self.layer = layer
        self.register_buffer("border", border_map)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x).permute(0, 2, 3, 1).flatten(1, 2)
        return rows if self.border is None else rows + self.border


class MqaRows(nn.Module):
    """Equal to ``MultiQueryAttention``."""

    def __init__(self, attention: MultiQueryAttention) -> None:
        super().__init__()
        self.widths = [attention.heads * attention.key_dim, *2 * (attention.key_dim,)]
        self.key_dim = attention.key_dim
        self.output = attention.output
        projections = [attention.query, attention.key, attention.value]
        with torch.no_grad():
            scale = self.key_dim**-0.5
            attention.query.proj.weight.mul_(scale)
            if attention.query.proj.bias is not None:
                attention.query.proj.bias.mul_(scale)
        self.merged = all(type(p.proj) is nn.Conv2d and p.stride == 1 for p in projections)
        if self.merged:
            self.qkv = _Rows(_concatenated([p.proj for p in projections]))
        else:
            self.query, self.key, self.value = (_Rows(p) for p in projections)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if self.merged:
            q_BNC, k_BPd, v_BPd = self.qkv(x).split(self.widths, dim=-1)
        else:
            q_BNC, k_BPd, v_BPd = self.query(x), self.key(x), self.value(x)
        q_BRd = q_BNC.reshape(batch, -1, self.key_dim)
        weights_BRP = torch.matmul(q_BRd, k_BPd.transpose(1, 2)).softmax(dim=-1)
        mixed_BRd = torch.matmul(weights_BRP, v_BPd)
        mixed = mixed_BRd.reshape(batch, height, width, self.widths[0])
        y: Tensor = self.output(mixed.permute(0, 3, 1, 2))
        return y


def _concatenated(convs: list[nn.Conv2d]) -> nn.Conv2d:
    """One 1x1 convolution with the output channels of all ``convs``."""
    first = convs[0].weight
    biases = [torch.zeros_like(c.weight[:, 0, 0, 0]) if c.bias is None else c.bias for c in convs]
    merged = nn.Conv2d(
        first.shape[1], sum(c.out_channels for c in convs), 1, device="meta", dtype=first.dtype
    )
    merged.weight = nn.Parameter(torch.cat([c.weight for c in convs]).detach())
    merged.bias = nn.Parameter(torch.cat(biases).detach())
    return merged


def mqa_for_ort(module: nn.Module, example: Tensor) -> RewriteReport:
    del example
    changed: list[str] = []
    for path, layer in list(module.named_modules()):
        if isinstance(layer, MultiQueryAttention):
            replace_layer(module, path, MqaRows(layer))
            changed.append(path)
    return RewriteReport("mqa_for_ort", tuple(changed))
