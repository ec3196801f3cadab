"""Mobile MQA as convolutions, reshapes and two batch products.

K and V are shared by all heads, so the heads of a position are just more query rows: the
head-major channels of an NHWC query map reshape straight to ``[B, N*h, d]``, and the result
straight back. The logit scale 1/sqrt(d) goes into the query projection. In TFLite the permutes
cancel against the NHWC convolutions', and no transpose is left. onnxruntime lets a convolution's
own layout reorder write NHWC, so each permute costs nothing beyond that reorder, in float
(blocked convolutions) as in int8 (NHWC convolutions); the ONNX form moreover
- adds a border map behind K's or V's projection (``fold_pre_norm``) behind the permute, where
  it does not keep the permute from the reorder;
- makes one convolution and a split of the projections that read the block's input itself: of
  Q, K and V without strides (8 convolutions and 8 reorders fewer in Hybrid-M), of K and V
  where only the queries are strided.
Sums of kernel times of Hybrid-M, fp32, 256 px, AVX2: 0.98 of the NCHW products of the reference
form, 0.97 of the stock form.

With a query stride two more things change. Up-sampling adds nothing up over channels, and its
weights sum to one: the output projection comes first, on the smaller map. And the mean of a
window is a depthwise convolution: unlike a pooling it exists in int8, and the norm before it can
be folded into it, for which ``pool_queries_by_convolution`` has to come before the folds.

Shape legend: see ``models/networks/mobile_mqa.py``; R = N*h query rows.

Changes: every ``MultiQueryAttention``. Refuses: a pooling that is called with several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnv4_deploy.exporters.rewrites.base import (
    ConvPlusMap,
    RewriteReport,
    inputs_of,
    replace_layer,
)
from mnv4_deploy.models.networks.mobile_mqa import MultiQueryAttention, SameAvgPool2d, pad_before


class _QueryRows(nn.Module):
    """What both forms share: all but the projections."""

    def __init__(self, attention: MultiQueryAttention) -> None:
        super().__init__()
        self.key_dim = attention.key_dim
        self.mixed_channels = attention.heads * attention.value_dim
        self.upsamples = attention.query_stride != (1, 1)
        proj = attention.query.proj
        scale = self.key_dim**-0.5
        # New parameters, because another layer may share the old ones.
        proj.weight = nn.Parameter(proj.weight.detach() * scale)
        if proj.bias is not None:
            proj.bias = nn.Parameter(proj.bias.detach() * scale)

    def attend(self, q_map: Tensor, q: Tensor, k_BPd: Tensor, v_BPe: Tensor) -> Tensor:
        """The attended map ``[B, h*e, ...]`` as large as ``q_map``; ``q`` is ``[B, ..., h*d]``."""
        batch, _, height, width = q_map.shape
        q_BRd = q.reshape(batch, -1, self.key_dim)
        weights_BRP = torch.matmul(q_BRd, k_BPd.transpose(1, 2)).softmax(dim=-1)
        mixed_BRe = torch.matmul(weights_BRP, v_BPe)
        return mixed_BRe.reshape(batch, height, width, self.mixed_channels).permute(0, 3, 1, 2)

    def upsampled(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` as large as ``x``."""
        if not self.upsamples:
            return y
        return functional.interpolate(y, size=x.shape[-2:], mode="bilinear")


class MqaForTflite(_QueryRows):
    """Equal to ``MultiQueryAttention``; the permutes cancel against the NHWC convolutions'."""

    def __init__(self, attention: MultiQueryAttention) -> None:
        super().__init__(attention)
        self.query, self.key = attention.query, attention.key
        self.value, self.output = attention.value, attention.output

    def forward(self, x: Tensor) -> Tensor:
        q_map = self.query(x)
        k_BPd = self.key(x).permute(0, 2, 3, 1).flatten(1, 2)
        v_BPe = self.value(x).permute(0, 2, 3, 1).flatten(1, 2)
        mixed = self.attend(q_map, q_map.permute(0, 2, 3, 1), k_BPd, v_BPe)
        return self.upsampled(self.output(mixed), x)


class MqaForOnnx(_QueryRows):
    """Equal to ``MultiQueryAttention``."""

    def __init__(self, attention: MultiQueryAttention) -> None:
        super().__init__(attention)
        self.output = attention.output
        query, key, value = attention.query, attention.key, attention.value
        merged = [p.proj for p in (query, key, value) if len(p) == 1]  # not strided
        self.merges = len(merged)
        self.widths = [conv.out_channels for conv in merged]
        if self.merges == 3:
            self.qkv = _Rows(_concatenated(merged))
        elif self.merges == 2:
            self.query, self.kv = query, _Rows(_concatenated(merged))
        else:
            self.query, self.key, self.value = query, _Rows(key), _Rows(value)

    def forward(self, x: Tensor) -> Tensor:
        if self.merges == 3:
            q, k_BPd, v_BPe = self.qkv(x).split(self.widths, dim=-1)
            return self.output(self.attend(x, q, k_BPd, v_BPe))  # type: ignore[no-any-return]
        q_map = self.query(x)
        if self.merges == 2:
            k_BPd, v_BPe = self.kv(x).split(self.widths, dim=-1)
        else:
            k_BPd, v_BPe = self.key(x), self.value(x)
        mixed = self.attend(q_map, q_map.permute(0, 2, 3, 1), k_BPd, v_BPe)
        return self.upsampled(self.output(mixed), x)


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


def _concatenated(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One 1x1 convolution with the output channels of all ``convs``."""
    first = convs[0].weight
    biases = [torch.zeros_like(c.weight[:, 0, 0, 0]) if c.bias is None else c.bias for c in convs]
    merged = nn.Conv2d(
        first.shape[1], sum(c.out_channels for c in convs), 1, device="meta", dtype=first.dtype
    )
    merged.weight = nn.Parameter(torch.cat([c.weight for c in convs]).detach())
    merged.bias = nn.Parameter(torch.cat(biases).detach())
    return merged


class _Corrected(nn.Module):
    """A convolution whose result is scaled, at each position, by ``factors`` ``[1, 1, h, w]``."""

    factors: Tensor

    def __init__(self, conv: nn.Conv2d, factors: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) * self.factors
        return y


def _mean_as_convolution(pool: SameAvgPool2d, x: Tensor) -> nn.Module:
    """Equal to ``pool`` for maps of the size of ``x``.

    Where windows hang over the border, the convolution divides by whole windows, and the factors
    make that the number of pixels inside. It pads both ends alike, as norms are folded into
    convolutions only: where the second end needs one cell more, the kernel begins with zeros.
    """
    first = [pad_before(n, s) for n, s in zip(x.shape[-2:], pool.stride, strict=True)]
    last = [-n % s - b for n, s, b in zip(x.shape[-2:], pool.stride, first, strict=True)]
    kernel = torch.full(pool.stride, 1 / math.prod(pool.stride), dtype=x.dtype)
    kernel = functional.pad(kernel, (last[1] - first[1], 0, last[0] - first[0], 0))
    channels = x.shape[1]
    conv = nn.Conv2d(
        channels,
        channels,
        (kernel.shape[0], kernel.shape[1]),
        stride=pool.stride,
        padding=(last[0], last[1]),
        groups=channels,
        bias=False,
        device="meta",
    )
    conv.weight = nn.Parameter(kernel.expand(channels, 1, -1, -1).clone())
    if not any(last):
        return conv
    inside = functional.conv2d(
        torch.ones_like(x[:1, :1]), conv.weight[:1], stride=pool.stride, padding=(last[0], last[1])
    )
    return _Corrected(conv, 1 / inside.detach())


def pool_queries_by_convolution(module: nn.Module, example: Tensor) -> RewriteReport:
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for path, inputs in inputs_of(module, example, SameAvgPool2d).items():
        pool = module.get_submodule(path)
        assert isinstance(pool, SameAvgPool2d)
        sizes = {x.shape[-2:] for x in inputs}
        if len(sizes) == 1:
            replace_layer(module, path, _mean_as_convolution(pool, inputs[0]))
            changed.append(path)
        else:
            refused.append((path, f"it is called with {len(sizes)} sizes"))
    return RewriteReport("pool_queries_by_convolution", tuple(changed), tuple(refused))


def mqa_for_tflite(module: nn.Module, example: Tensor) -> RewriteReport:
    del example
    return _replace_each(module, MqaForTflite, "mqa_for_tflite")


def mqa_for_onnx(module: nn.Module, example: Tensor) -> RewriteReport:
    del example
    return _replace_each(module, MqaForOnnx, "mqa_for_onnx")


def _replace_each(
    module: nn.Module, form: type[MqaForTflite | MqaForOnnx], name: str
) -> RewriteReport:
    forms: dict[nn.Module, nn.Module] = {}
    changed: list[str] = []
    # Under every name: an attention that two blocks share stays shared.
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layer, MultiQueryAttention):
            if layer not in forms:
                forms[layer] = form(layer)
            replace_layer(module, path, forms[layer])
            changed.append(path)
    return RewriteReport(name, tuple(changed))
