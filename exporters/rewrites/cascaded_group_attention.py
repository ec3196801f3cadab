"""Cascaded group attention (EfficientViT) without needless transposes, slices and gathers.

Shape legend: see ``models/networks/cascaded_group_attention.py``; M windows of all images.

TFLite. In NHWC the rows of a window's queries, keys and values are reshapes of what 1x1
convolutions write, if each has a convolution of its own. Windows of a map are cut out by one
transpose of rank 4, because a window's row of 7 positions and their channels lie together. The
position biases are constants, 1/sqrt(K) is in the queries' depthwise convolution. The cascade
stays in float in int8 files: it has 4 % of EfficientViT-M2's MACs, and in 8 bits each head would
need four more operators, and XNNPACK has neither softmax nor ReLU in int8.

ONNX. The same windows and constants, but the heads work on rows from end to end: keys and values
are products of rows with constants; only the queries, whose depthwise convolution needs a map,
go through two blocked convolutions. Keys have no bias: it adds the same to all logits of a
query. The output projection comes after the windows are one map again, so that the residual is
added inside the convolution. onnxruntime then transposes nothing but what is cut into windows.
The cascade is in float in int8 files, too: EfficientViT-M2 takes 0.95 of the time that it takes
with all of it in int8 (AVX2), and has 4 dB more SQNR.

Changes: every ``LocalWindowAttention``, after ``fold_batch_norm``.
Refuses: one with a norm that is not folded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mnv4_deploy.exporters.rewrites.base import RewriteReport, map_sizes, replace_layer
from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    LocalWindowAttention,
    position_bias,
    window_grid,
)


def _conv(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a ``ConvBatchNorm`` whose norm is folded into it."""
    conv = layer.get_submodule("conv")
    assert isinstance(conv, nn.Conv2d)
    return conv


def _part(conv: nn.Conv2d, start: int, stop: int) -> nn.Conv2d:
    """Output channels ``start`` to ``stop`` of a 1x1 convolution."""
    part = nn.Conv2d(conv.in_channels, stop - start, 1, device="meta", dtype=conv.weight.dtype)
    assert conv.bias is not None
    part.weight = nn.Parameter(conv.weight[start:stop].detach().clone())
    part.bias = nn.Parameter(conv.bias[start:stop].detach().clone())
    return part


class _HeadParts(nn.Module):
    """What the heads of both forms share; 1/sqrt(K) is in the queries."""

    bias_NN: Tensor

    def __init__(
        self, qkv: nn.Conv2d, depthwise: nn.Conv2d, key_dim: int, bias_NN: Tensor
    ) -> None:
        super().__init__()
        self.query = _part(qkv, 0, key_dim)
        self.depthwise = depthwise
        assert depthwise.bias is not None
        # New parameters, because another layer may share the old ones.
        depthwise.weight = nn.Parameter(depthwise.weight.detach() * key_dim**-0.5)
        depthwise.bias = nn.Parameter(depthwise.bias.detach() * key_dim**-0.5)
        self.register_buffer("bias_NN", bias_NN)


class _Head(_HeadParts):
    """One head: ``[M, d, H, W]`` to the same shape."""

    def __init__(
        self, qkv: nn.Conv2d, depthwise: nn.Conv2d, key_dim: int, bias_NN: Tensor
    ) -> None:
        super().__init__(qkv, depthwise, key_dim, bias_NN)
        self.key = _part(qkv, key_dim, 2 * key_dim)
        self.value = _part(qkv, 2 * key_dim, qkv.out_channels)

    def forward(self, group: Tensor) -> Tensor:
        windows, _, height, width = group.shape

        def rows(x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1).reshape(windows, height * width, -1)

        q_MNK = rows(self.depthwise(self.query(group)))
        k_MNK, v_MNd = rows(self.key(group)), rows(self.value(group))
        logits_MNN = torch.matmul(q_MNK, k_MNK.transpose(1, 2)) + self.bias_NN
        mixed_MNd = torch.matmul(logits_MNN.softmax(dim=-1), v_MNd)
        return mixed_MNd.reshape(windows, height, width, -1).permute(0, 3, 1, 2)


class _RowHead(_HeadParts):
    """One head: rows ``[M, H*W, d]`` to the same shape."""

    def __init__(
        self, qkv: nn.Conv2d, depthwise: nn.Conv2d, key_dim: int, bias_NN: Tensor
    ) -> None:
        super().__init__(qkv, depthwise, key_dim, bias_NN)
        self.key = _on_rows(_part(qkv, key_dim, 2 * key_dim), bias=False)
        self.value = _on_rows(_part(qkv, 2 * key_dim, qkv.out_channels))

    def forward(self, group_MNd: Tensor, height: int, width: int) -> Tensor:
        group = group_MNd.reshape(-1, height, width, group_MNd.shape[-1]).permute(0, 3, 1, 2)
        q_MNK = self.depthwise(self.query(group)).permute(0, 2, 3, 1).flatten(1, 2)
        logits_MNN = torch.matmul(q_MNK, self.key(group_MNd).transpose(1, 2)) + self.bias_NN
        return torch.matmul(logits_MNN.softmax(dim=-1), self.value(group_MNd))


def _on_rows(conv: nn.Conv2d, *, bias: bool = True) -> nn.Linear:
    """A 1x1 convolution for rows ``[..., C]``, with its bias or without."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=bias, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1))
    if bias:
        assert conv.bias is not None
        linear.bias = nn.Parameter(conv.bias.detach())
    return linear


class _Heads(nn.Module):
    """The heads of windows of ``height`` and ``width``, in one of their forms."""

    def __init__(
        self,
        attention: CascadedGroupAttention,
        height: int,
        width: int,
        form: type[_Head | _RowHead],
    ) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.value_dim = attention.value_dim
        like = attention.attention_biases.new_empty(height, width)
        bias_hNN = position_bias(attention.attention_biases, like).detach()
        self.heads = nn.ModuleList(
            form(_conv(qkv), _conv(depthwise), attention.key_dim, bias_NN)
            for qkv, depthwise, bias_NN in zip(
                attention.qkvs, attention.dws, bias_hNN, strict=True
            )
        )


class _Cascade(_Heads):
    """All heads of windows ``[M, C, H, W]``, one after another, and the ReLU behind them."""

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for index, head in enumerate(self.heads):
            group = x[:, index * self.value_dim : (index + 1) * self.value_dim]
            found.append(head(group + found[-1] if found else group))
        return torch.cat(found, dim=1).relu()


class _RowCascade(_Heads):
    """The same for rows ``[M, H*W, C]``."""

    def forward(self, rows_MNC: Tensor) -> Tensor:
        groups = torch.split(rows_MNC, self.value_dim, dim=-1)
        found: list[Tensor] = []
        for index, head in enumerate(self.heads):
            group = groups[index]
            found.append(head(group + found[-1] if found else group, self.height, self.width))
        return torch.cat(found, dim=-1).relu()


class _Windows(nn.Module):
    """What both forms of ``LocalWindowAttention`` share, its norms folded before."""

    def __init__(
        self,
        local: LocalWindowAttention,
        height: int,
        width: int,
        cascade: type[_Cascade | _RowCascade],
        head: type[_Head | _RowHead],
    ) -> None:
        super().__init__()
        self.window = local.attn.window
        self.grid = window_grid(height, width, self.window)
        whole = self.grid == (1, 1)
        sides = (height, width) if whole else (self.window, self.window)
        self.cascade = cascade(local.attn, *sides, head)
        self.proj = _conv(local.attn.proj[1])


class WindowsNhwc(_Windows):
    """Equal to ``LocalWindowAttention`` for maps of one size."""

    def __init__(self, local: LocalWindowAttention, height: int, width: int) -> None:
        super().__init__(local, height, width, _Cascade, _Head)

    def forward(self, x: Tensor) -> Tensor:
        if self.grid == (1, 1):
            y: Tensor = self.proj(self.cascade(x))
            return y
        batch, channels, height, width = x.shape
        (rows, columns), side = self.grid, self.window
        x = pad(x, (0, columns * side - width, 0, rows * side - height)).permute(0, 2, 3, 1)
        x = x.reshape(batch * rows, side, columns, side * channels).permute(0, 2, 1, 3)
        x = x.reshape(-1, side, side, channels).permute(0, 3, 1, 2)
        x = self.proj(self.cascade(x)).permute(0, 2, 3, 1)
        x = x.reshape(batch * rows, columns, side, side * channels).permute(0, 2, 1, 3)
        x = x.reshape(batch, rows * side, columns * side, channels).permute(0, 3, 1, 2)
        return x[:, :, :height, :width]


class WindowsOfRows(_Windows):
    """Equal to ``LocalWindowAttention`` for maps of one size."""

    def __init__(self, local: LocalWindowAttention, height: int, width: int) -> None:
        super().__init__(local, height, width, _RowCascade, _RowHead)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.permute(0, 2, 3, 1)
        if self.grid == (1, 1):
            x = self.cascade(x.flatten(1, 2)).reshape(batch, height, width, channels)
        else:
            (rows, columns), side = self.grid, self.window
            x = pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
            x = x.reshape(batch * rows, side, columns, side * channels).permute(0, 2, 1, 3)
            x = self.cascade(x.reshape(-1, side * side, channels))
            x = x.reshape(batch * rows, columns, side, side * channels).permute(0, 2, 1, 3)
            x = x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]
        y: Tensor = self.proj(x.permute(0, 3, 1, 2))
        return y


def cga_for_tflite(module: nn.Module, example: Tensor) -> RewriteReport:
    return _replace_each(module, example, WindowsNhwc, "cga_for_tflite")


def cga_for_onnx(module: nn.Module, example: Tensor) -> RewriteReport:
    return _replace_each(module, example, WindowsOfRows, "cga_for_onnx")


def _replace_each(
    module: nn.Module, example: Tensor, form: type[WindowsNhwc | WindowsOfRows], name: str
) -> RewriteReport:
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for path, (height, width) in map_sizes(module, example, LocalWindowAttention).items():
        local = module.get_submodule(path)
        assert isinstance(local, LocalWindowAttention)
        if any(isinstance(layer, nn.BatchNorm2d) for layer in local.modules()):
            refused.append((path, "not all of its norms are folded"))
        else:
            replace_layer(module, path, form(local, height, width))
            changed.append(path)
    return RewriteReport(
        name,
        tuple(changed),
        tuple(refused),
        float_modules=tuple(f"{path}.cascade" for path in changed),
    )
