"""Attention as ordinary PyTorch models write it: the stock side of the comparisons.

There are two usual forms, products and softmax ("matmul") and scaled_dot_product_attention
("sdpa"); a mechanism that has no softmax is stock as its reference module is. Mobile MQA follows
the usual multi-head idiom (heads split into an axis of their own, K and V broadcast over it).
Nothing here is arranged for a converter or a runtime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    position_bias,
)
from mnv4_deploy.models.networks.mobile_mqa import MultiQueryAttention

AttentionForm = Literal["matmul", "sdpa"]


class StockAttention(nn.Module):
    """Equal to ``MultiQueryAttention``, with its weights."""

    def __init__(self, attention: MultiQueryAttention, form: AttentionForm) -> None:
        super().__init__()
        self.heads, self.key_dim, self.form = attention.heads, attention.key_dim, form
        self.value_dim, self.upsamples = attention.value_dim, attention.query_stride != (1, 1)
        self.query, self.key = attention.query, attention.key
        self.value, self.output = attention.value, attention.output

    def forward(self, x: Tensor) -> Tensor:
        q_map = self.query(x)
        batch, _, height, width = q_map.shape
        q = q_map.reshape(batch, self.heads, self.key_dim, -1).transpose(-1, -2)
        k = self.key(x).reshape(batch, self.key_dim, -1).transpose(1, 2).unsqueeze(1)
        v = self.value(x).reshape(batch, self.value_dim, -1).transpose(1, 2).unsqueeze(1)
        if self.form == "sdpa":
            o = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            weights = ((q * self.key_dim**-0.5) @ k.transpose(-1, -2)).softmax(dim=-1)
            o = weights @ v
        o = o.transpose(-1, -2).reshape(batch, self.heads * self.value_dim, height, width)
        if self.upsamples:
            o = nn.functional.interpolate(o, size=x.shape[-2:], mode="bilinear")
        y: Tensor = self.output(o)
        return y


class StockCascadedAttention(nn.Module):
    """Equal to ``CascadedGroupAttention``, with its weights; in sdpa the bias is the mask.

    As in the published code and timm's, the biases of all pairs of positions are looked up once
    in evaluation mode and kept in a plain attribute: to an exporter they are constants.
    """

    def __init__(self, attention: CascadedGroupAttention, form: AttentionForm) -> None:
        super().__init__()
        self.heads, self.key_dim, self.form = attention.heads, attention.key_dim, form
        self.value_dim, self.window = attention.value_dim, attention.window
        self.qkvs, self.dws, self.proj = attention.qkvs, attention.dws, attention.proj
        self.attention_biases = attention.attention_biases
        self.kept_biases: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if (height, width) not in self.kept_biases:
            self.kept_biases[height, width] = position_bias(self.attention_biases, x).detach()
        bias_hNN = self.kept_biases[height, width]
        groups = x.chunk(self.heads, dim=1)
        found: list[Tensor] = []
        for head in range(self.heads):
            group = groups[head] + found[-1] if found else groups[head]
            q, k, v = self.qkvs[head](group).split(
                [self.key_dim, self.key_dim, self.value_dim], dim=1
            )
            q, k, v = self.dws[head](q).flatten(2), k.flatten(2), v.flatten(2)
            if self.form == "sdpa":
                q_BNK, k_BNK, v_BNd = (part.transpose(-2, -1) for part in (q, k, v))
                o = nn.functional.scaled_dot_product_attention(
                    q_BNK, k_BNK, v_BNd, attn_mask=bias_hNN[head]
                ).transpose(-2, -1)
            else:
                logits = q.transpose(-2, -1) @ k * self.key_dim**-0.5 + bias_hNN[head]
                o = v @ logits.softmax(dim=-1).transpose(-2, -1)
            found.append(o.reshape(batch, self.value_dim, height, width))
        y: Tensor = self.proj(torch.cat(found, dim=1))
        return y


_WRITTEN_AS: dict[type[nn.Module], Callable[[Any, AttentionForm], nn.Module]] = {
    MultiQueryAttention: StockAttention,
    CascadedGroupAttention: StockCascadedAttention,
}


def attention_forms(model: nn.Module) -> tuple[AttentionForm, ...]:
    """The usual ways to write the attention of ``model``; () where there is but one."""
    return ("matmul", "sdpa") if any(type(m) in _WRITTEN_AS for m in model.modules()) else ()


def with_stock_attention(
    model: nn.Module, form: AttentionForm, size: tuple[int, int]
) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose attention is written in ``form``.

    It has run once, on an image of ``size`` (height, width), as any model has before an export.
    """
    stock = copy.deepcopy(model).eval()
    changed = False
    for path, layer in list(stock.named_modules()):
        if type(layer) in _WRITTEN_AS:
            parent, _, name = path.rpartition(".")
            written = _WRITTEN_AS[type(layer)](layer, form)
            setattr(stock.get_submodule(parent), name, written.eval())
            changed = True
    if changed:
        _check_equal(stock, model)
    with torch.no_grad():
        stock(torch.zeros(1, 3, *size))
    return stock


def _check_equal(stock: nn.Module, model: nn.Module) -> None:
    """In float64, because deep attention with random weights amplifies rounding."""
    probe = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        actual, expected = (copy.deepcopy(m).double().eval()(probe) for m in (stock, model))
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)
