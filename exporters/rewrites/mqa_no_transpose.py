"""Mobile MQA as 1x1 convolutions, reshapes and two batch products, without a transpose in NHWC.

K and V are shared by all heads, so the heads of a position are just more query rows: the
head-major channels of the NHWC query map reshape straight to ``[B, H*W*h, d]``, and the result
straight back. The logit scale 1/sqrt(d) goes into the query convolution.

Shape legend: see ``models/mobile_mqa.py``; R = H*W*h query rows.

Changes: every ``MultiQueryAttention``. Refuses: nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport, replace_layer
from mnv4_deploy.models.mobile_mqa import MultiQueryAttention


class MqaNhwc(nn.Module):
    """Equal to ``MultiQueryAttention``; the permutes cancel against the NHWC convolutions'."""

    def __init__(self, attention: MultiQueryAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.key_dim = attention.key_dim
        self.query, self.key = attention.query, attention.key
        self.value, self.output = attention.value, attention.output
        with torch.no_grad():
            scale = self.key_dim**-0.5
            self.query.proj.weight.mul_(scale)
            if self.query.proj.bias is not None:
                self.query.proj.bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows = height * width * self.heads
        q_BRd = self.query(x).permute(0, 2, 3, 1).reshape(batch, rows, self.key_dim)
        k_BPd = self.key(x).permute(0, 2, 3, 1).reshape(batch, -1, self.key_dim)
        v_BPd = self.value(x).permute(0, 2, 3, 1).reshape(batch, -1, self.key_dim)
        weights_BRP = torch.matmul(q_BRd, k_BPd.transpose(1, 2)).softmax(dim=-1)
        mixed_BRd = torch.matmul(weights_BRP, v_BPd)
        mixed = mixed_BRd.reshape(batch, height, width, self.heads * self.key_dim)
        y: Tensor = self.output(mixed.permute(0, 3, 1, 2))
        return y


def mqa_no_transpose(module: nn.Module, example: Tensor) -> RewriteReport:
    del example
    changed: list[str] = []
    for path, layer in list(module.named_modules()):
        if isinstance(layer, MultiQueryAttention):
            replace_layer(module, path, MqaNhwc(layer))
            changed.append(path)
    return RewriteReport("mqa_no_transpose", tuple(changed))
