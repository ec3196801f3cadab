"""Mobile MQA as an ordinary PyTorch model writes it: the stock side of the comparisons.

Both forms follow the usual multi-head idiom (heads split into an axis of their own, K and V
broadcast over it); nothing in them is arranged for a converter or a runtime.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from mnv4_deploy.models.mobile_mqa import MultiQueryAttention

AttentionForm = Literal["matmul", "sdpa"]


class StockAttention(nn.Module):
    """Equal to ``MultiQueryAttention``, with its weights."""

    def __init__(self, attention: MultiQueryAttention, form: AttentionForm) -> None:
        super().__init__()
        self.heads, self.key_dim, self.form = attention.heads, attention.key_dim, form
        self.query, self.key = attention.query, attention.key
        self.value, self.output = attention.value, attention.output

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q = self.query(x).reshape(batch, self.heads, self.key_dim, -1).transpose(-1, -2)
        k = self.key(x).reshape(batch, self.key_dim, -1).transpose(1, 2).unsqueeze(1)
        v = self.value(x).reshape(batch, self.key_dim, -1).transpose(1, 2).unsqueeze(1)
        if self.form == "sdpa":
            o = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            weights = ((q * self.key_dim**-0.5) @ k.transpose(-1, -2)).softmax(dim=-1)
            o = weights @ v
        o = o.transpose(-1, -2).reshape(batch, self.heads * self.key_dim, height, width)
        y: Tensor = self.output(o)
        return y


def with_stock_attention(model: nn.Module, form: AttentionForm) -> nn.Module:
    """A copy of ``model`` whose attention is written in ``form``."""
    stock = copy.deepcopy(model)
    for path, layer in list(stock.named_modules()):
        if isinstance(layer, MultiQueryAttention):
            parent, _, name = path.rpartition(".")
            setattr(stock.get_submodule(parent), name, StockAttention(layer, form))
    with torch.no_grad():
        probe = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(stock(probe), model(probe), rtol=1e-3, atol=1e-4)
    return stock
