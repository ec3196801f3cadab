"""Linear attention with rotary embeddings (MLLA) as products, and tokens that stay in place.

Shape legend: see ``models/networks/mlla.py``; p = d/2 pairs of channels of a head.

Changes, for all ``Blocks`` of MLLA and the ``LinearAttention`` in it:
- Tokens are NHWC maps throughout, so that neither linear layers nor convolutions move them.
- The projection to q and k becomes four, to the even and to the odd channel of every pair. A
  turn is then four products and two sums of whole tensors, with nothing to take apart; products
  of q and k do not change when the channels of both are permuted alike.
- The factor 1/N is in the constants that turn k.
- The normalisers of all heads are one product, with the mean of k spread over a block per head.
- The residual around a position encoding is the centre tap of its convolution.
- ELU + 1 is written with exp, for which both runtimes have a fast kernel: the converter to TFLite
  makes ELU a SELECT that XNNPACK does not take, and onnxruntime's Elu takes 2.5 times as long.
For ONNX, k is transposed within the product, which onnxruntime can, and its mean over the tokens
is a product, which takes a quarter of the time.
In int8 files all from the projections to the normalised sums of values stays in float: q and k
are exponentials, and the normaliser divides by their sum. The sum with the local position
embedding is in 8 bits: in float, onnxruntime took 1.08 times as long for all of MLLA-T.
Refuses: nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport, map_sizes, replace_layer
from mnv4_deploy.exporters.rewrites.fold_residual import with_identity
from mnv4_deploy.models.networks.mlla import (
    NORMALIZER_EPS,
    Blocks,
    LinearAttention,
    MllaBlock,
    rope_angles,
)


class TurnedProducts(nn.Module):
    """From the projections to the normalised sums of values, for one height and width."""

    cos: Tensor
    sin: Tensor
    key_cos: Tensor
    key_sin: Tensor
    blocks: Tensor

    def __init__(self, heads: int, channels: int, size: tuple[int, int], like: Tensor) -> None:
        super().__init__()
        self.heads = heads
        angles = torch.from_numpy(rope_angles(*size, channels)).unsqueeze(0)
        # [C/2, h]: 1 where a pair of channels belongs to a head.
        blocks = torch.eye(heads).repeat_interleave(channels // 2 // heads, dim=0)
        tokens = size[0] * size[1]
        for name, values in (
            ("cos", angles.cos()),
            ("sin", angles.sin()),
            ("key_cos", angles.cos() / tokens),
            ("key_sin", angles.sin() / tokens),
            ("blocks", blocks),
        ):
            self.register_buffer(name, values.to(like))

    def forward(
        self, q_even: Tensor, q_odd: Tensor, k_even: Tensor, k_odd: Tensor, x_BHWC: Tensor
    ) -> Tensor:
        batch, height, width, channels = x_BHWC.shape
        tokens, heads = height * width, self.heads
        pairs = channels // heads // 2
        q_even, q_odd = _elu_plus_1(q_even), _elu_plus_1(q_odd)
        k_even, k_odd = _elu_plus_1(k_even), _elu_plus_1(k_odd)

        q_B2Nhp = _turn(q_even, q_odd, self.cos, self.sin).reshape(batch, 2, tokens, heads, pairs)
        k_B2Nhp = _turn(k_even, k_odd, self.key_cos, self.key_sin).reshape(q_B2Nhp.shape)
        v_BhNd = x_BHWC.reshape(batch, tokens, heads, -1).permute(0, 2, 1, 3)
        q_BhNd = q_B2Nhp.permute(0, 3, 2, 1, 4).reshape(v_BhNd.shape)
        y_BhNd = q_BhNd @ (self._transposed(k_B2Nhp) @ v_BhNd)

        sums_BNh = self._by_mean(q_even, k_even) + self._by_mean(q_odd, k_odd)
        normalizer = (1 / (sums_BNh + NORMALIZER_EPS)).unsqueeze(-1)
        y = y_BhNd.permute(0, 2, 1, 3) * normalizer
        return y.reshape(batch, height, width, channels)

    def _by_mean(self, q: Tensor, k: Tensor) -> Tensor:
        """Products ``[B, N, h]`` of one half of q with the mean of k over the tokens."""
        batch, _, _, half = q.shape
        mean = self._mean(k).reshape(batch, half, 1)
        return q.reshape(batch, -1, half) @ (mean * self.blocks)

    def _transposed(self, k_B2Nhp: Tensor) -> Tensor:
        """``[B, h, d, N]``."""
        batch, _, tokens, heads, _ = k_B2Nhp.shape
        return k_B2Nhp.permute(0, 3, 1, 4, 2).reshape(batch, heads, -1, tokens)

    def _mean(self, k_BHWp: Tensor) -> Tensor:
        return k_BHWp.mean(dim=(1, 2))


class TurnedProductsForOnnx(TurnedProducts):
    averaging: Tensor

    def __init__(self, heads: int, channels: int, size: tuple[int, int], like: Tensor) -> None:
        super().__init__(heads, channels, size, like)
        tokens = size[0] * size[1]
        self.register_buffer("averaging", like.new_full((1, 1, tokens), 1 / tokens))

    def _transposed(self, k_B2Nhp: Tensor) -> Tensor:
        batch, _, tokens, heads, _ = k_B2Nhp.shape
        k_BhNd = k_B2Nhp.permute(0, 3, 2, 1, 4).reshape(batch, heads, tokens, -1)
        return k_BhNd.transpose(2, 3)

    def _mean(self, k_BHWp: Tensor) -> Tensor:
        return self.averaging @ k_BHWp.flatten(1, 2)


def _elu_plus_1(x: Tensor) -> Tensor:
    """``max(x, 0) + exp(min(x, 0))``, without a ReLU: to have one behind a linear layer, the
    converter would compute the layer twice.
    """
    negative = x.clamp(max=0)
    return (x - negative) + negative.exp()


def _turn(even: Tensor, odd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``[B, 2, H, W, C/2]``, the even channels before the odd ones."""
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=1)


class LinearAttentionNhwc(nn.Module):
    """``LinearAttention`` on ``[B, H, W, C]``, for one height and width."""

    def __init__(
        self,
        attention: LinearAttention,
        size: tuple[int, int],
        products: type[TurnedProducts],
    ) -> None:
        super().__init__()
        qk = attention.qk
        channels = qk.in_features
        self.q_even, self.q_odd = _outputs(qk, 0, channels), _outputs(qk, 1, channels)
        self.k_even = _outputs(qk, channels, 2 * channels)
        self.k_odd = _outputs(qk, channels + 1, 2 * channels)
        self.products = products(attention.heads, channels, size, qk.weight.detach())
        self.lepe = attention.lepe

    def forward(self, x: Tensor) -> Tensor:
        q_even, q_odd, k_even, k_odd = (
            project(x) for project in (self.q_even, self.q_odd, self.k_even, self.k_odd)
        )
        y: Tensor = self.products(q_even, q_odd, k_even, k_odd, x)
        return y + _conv(self.lepe, x)


def _outputs(linear: nn.Linear, start: int, stop: int) -> nn.Linear:
    """Every second output of ``linear``."""
    part = nn.Linear(
        linear.in_features, (stop - start + 1) // 2, device="meta", dtype=linear.weight.dtype
    )
    part.weight = nn.Parameter(linear.weight.detach()[start:stop:2].clone())
    part.bias = nn.Parameter(linear.bias.detach()[start:stop:2].clone())
    return part


def _conv(conv: nn.Module, x_BHWC: Tensor) -> Tensor:
    """The permutes cancel against those that the converter puts around a convolution."""
    y: Tensor = conv(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y


class MllaBlockNhwc(nn.Module):
    """``MllaBlock`` on ``[B, H, W, C]``, for one height and width."""

    def __init__(
        self, block: MllaBlock, size: tuple[int, int], products: type[TurnedProducts]
    ) -> None:
        super().__init__()
        self.cpe1, self.cpe2 = with_identity(block.cpe1), with_identity(block.cpe2)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.in_proj, self.act_proj = block.in_proj, block.act_proj
        self.dwc, self.act = block.dwc, block.act
        self.attn = LinearAttentionNhwc(block.attn, size, products)
        self.out_proj, self.mlp = block.out_proj, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = _conv(self.cpe1, x)
        normed = self.norm1(x)
        gate = self.act(self.act_proj(normed))
        y = self.act(_conv(self.dwc, self.in_proj(normed)))
        x = x + self.out_proj(self.attn(y) * gate)
        x = _conv(self.cpe2, x)
        z: Tensor = x + self.mlp(self.norm2(x))
        return z


class BlocksNhwc(nn.ModuleList):
    """``Blocks`` for maps ``[B, C, H, W]`` of one height and width."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self:
            x = block(x)
        return x.permute(0, 3, 1, 2)


def linear_attention_for_tflite(module: nn.Module, example: Tensor) -> RewriteReport:
    return _rewritten("linear_attention_for_tflite", module, example, TurnedProducts)


def linear_attention_for_onnx(module: nn.Module, example: Tensor) -> RewriteReport:
    return _rewritten("linear_attention_for_onnx", module, example, TurnedProductsForOnnx)


def _rewritten(
    name: str, module: nn.Module, example: Tensor, products: type[TurnedProducts]
) -> RewriteReport:
    sizes = map_sizes(module, example, Blocks)
    for path, size in sizes.items():
        blocks = [b for b in module.get_submodule(path).children() if isinstance(b, MllaBlock)]
        replace_layer(module, path, BlocksNhwc(MllaBlockNhwc(b, size, products) for b in blocks))
    kept = tuple(p for p, m in module.named_modules() if isinstance(m, TurnedProducts))
    return RewriteReport(name, tuple(sizes), float_modules=kept)
