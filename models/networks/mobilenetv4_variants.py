"""The MobileNetV4 variants as data: which block with which sizes, stage by stage.

Written from the layer tables of the released code (tensorflow/models ``mobilenet.py``; timm
agrees). The paper's Table 13 (Hybrid-M) differs from the code that was released with it, in
both deep stages; checkpoints exist for the code only, so the code is what stands here. The
paper's other four tables agree with the code.

Widths below 1.0 (timm's ``_035``, ``_050``, ``_075``) scale every output width except the
stem's, rounded to multiples of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ConvBlock:
    """k x k convolution, norm, activation."""

    kernel: int
    stride: int
    out_channels: int


@dataclass(frozen=True)
class FusedIbBlock:
    """Fused inverted bottleneck: k x k expanding convolution, then a linear 1x1; no residual."""

    kernel: int
    stride: int
    expand_ratio: float
    out_channels: int


@dataclass(frozen=True)
class UibBlock:
    """Universal inverted bottleneck (paper section 3.1); kernel 0 means no such depthwise.

    IB = middle only, ConvNext = start only, ExtraDW = both, FFN = neither.
    """

    start_kernel: int
    middle_kernel: int
    stride: int
    expand_ratio: float
    out_channels: int


@dataclass(frozen=True)
class MqaBlock:
    """Mobile multi-query attention with its pre-norm and residual."""

    heads: int
    key_dim: int
    kv_stride: int
    out_channels: int


Block = ConvBlock | FusedIbBlock | UibBlock | MqaBlock


@dataclass(frozen=True)
class Variant:
    """A whole network. ``native_size`` is the square input the paper reports it at.

    ``published_top1_percent`` is ImageNet-1k accuracy at that size (paper, Table 6).
    """

    name: str
    timm_name: str
    native_size: int
    stem_channels: int
    stages: tuple[tuple[Block, ...], ...]
    act: Literal["relu", "gelu"] = "relu"
    layer_scale_init: float | None = None
    width: float = 1.0
    head_channels: int = 1280
    published_top1_percent: float | None = None


def _extra_dw(k1: int, k2: int, c: int, e: float = 4, s: int = 1) -> UibBlock:
    return UibBlock(k1, k2, s, e, c)


def _ib(k: int, c: int, e: float) -> UibBlock:
    return UibBlock(0, k, 1, e, c)


def _convnext(k: int, c: int, e: float = 4) -> UibBlock:
    return UibBlock(k, 0, 1, e, c)


def _ffn(c: int, e: float) -> UibBlock:
    return UibBlock(0, 0, 1, e, c)


_LAST = (ConvBlock(1, 1, 960),)

_SMALL = (
    (ConvBlock(3, 2, 32), ConvBlock(1, 1, 32)),
    (ConvBlock(3, 2, 96), ConvBlock(1, 1, 64)),
    (_extra_dw(5, 5, 96, e=3, s=2), *4 * (_ib(3, 96, e=2),), _convnext(3, 96)),
    (
        _extra_dw(3, 3, 128, e=6, s=2),
        _extra_dw(5, 5, 128),
        _ib(5, 128, e=4),
        _ib(5, 128, e=3),
        *2 * (_ib(3, 128, e=4),),
    ),
    _LAST,
)

_MEDIUM_EARLY = (
    (FusedIbBlock(3, 2, 4, 48),),
    (_extra_dw(3, 5, 80, s=2), _extra_dw(3, 3, 80, e=2)),
)

_MEDIUM = (
    *_MEDIUM_EARLY,
    (
        _extra_dw(3, 5, 160, e=6, s=2),
        *2 * (_extra_dw(3, 3, 160),),
        _extra_dw(3, 5, 160),
        _extra_dw(3, 3, 160),
        _convnext(3, 160),
        _ffn(160, e=2),
        _convnext(3, 160),
    ),
    (
        _extra_dw(5, 5, 256, e=6, s=2),
        _extra_dw(5, 5, 256),
        *2 * (_extra_dw(3, 5, 256),),
        _ffn(256, e=4),
        _convnext(3, 256),
        _extra_dw(3, 5, 256, e=2),
        _extra_dw(5, 5, 256),
        *2 * (_ffn(256, e=4),),
        _convnext(5, 256, e=2),
    ),
    _LAST,
)

_LARGE_EARLY = (
    (FusedIbBlock(3, 2, 4, 48),),
    (_extra_dw(3, 5, 96, s=2), _extra_dw(3, 3, 96)),
)
_LARGE_192 = (
    _extra_dw(3, 5, 192, s=2),
    *3 * (_extra_dw(3, 3, 192),),
    _extra_dw(3, 5, 192),
    *2 * (_extra_dw(5, 3, 192),),
)
_LARGE_512 = (
    _extra_dw(5, 5, 512, s=2),
    *3 * (_extra_dw(5, 5, 512),),
    _convnext(5, 512),
    _extra_dw(5, 3, 512),
    *2 * (_convnext(5, 512),),
    _extra_dw(5, 3, 512),
    _extra_dw(5, 5, 512),
)

_LARGE = (
    *_LARGE_EARLY,
    (*_LARGE_192, *3 * (_extra_dw(5, 3, 192),), _convnext(3, 192)),
    (*_LARGE_512, *3 * (_convnext(5, 512),)),
    _LAST,
)

_MQA_A = MqaBlock(heads=4, key_dim=64, kv_stride=2, out_channels=160)
_MQA_B = MqaBlock(heads=4, key_dim=64, kv_stride=1, out_channels=256)
_MQA_C = MqaBlock(heads=8, key_dim=48, kv_stride=2, out_channels=192)
_MQA_D = MqaBlock(heads=8, key_dim=64, kv_stride=1, out_channels=512)

_HYBRID_MEDIUM = (
    *_MEDIUM_EARLY,
    (
        _extra_dw(3, 5, 160, e=6, s=2),
        _ffn(160, e=2),
        _extra_dw(3, 3, 160),
        _extra_dw(3, 5, 160),
        _MQA_A,
        _extra_dw(3, 3, 160),
        _MQA_A,
        _convnext(3, 160),
        _MQA_A,
        _extra_dw(3, 3, 160),
        _MQA_A,
        _convnext(3, 160),
    ),
    (
        _extra_dw(5, 5, 256, e=6, s=2),
        _extra_dw(5, 5, 256),
        *2 * (_extra_dw(3, 5, 256),),
        _ffn(256, e=2),
        _extra_dw(3, 5, 256, e=2),
        _ffn(256, e=2),
        _ffn(256, e=4),
        _MQA_B,
        _convnext(3, 256),
        _MQA_B,
        _extra_dw(5, 5, 256),
        _MQA_B,
        _convnext(5, 256),
        _MQA_B,
        _convnext(5, 256),
    ),
    _LAST,
)

_HYBRID_LARGE = (
    *_LARGE_EARLY,
    (*_LARGE_192, _MQA_C, *3 * (_extra_dw(5, 3, 192), _MQA_C), _convnext(3, 192)),
    (*_LARGE_512, *4 * (_MQA_D, _convnext(5, 512))),
    _LAST,
)

VARIANTS: tuple[Variant, ...] = (
    Variant("conv-s", "mobilenetv4_conv_small", 224, 32, _SMALL, published_top1_percent=73.8),
    Variant("conv-s-035", "mobilenetv4_conv_small_035", 224, 32, _SMALL, width=0.35),
    Variant("conv-s-050", "mobilenetv4_conv_small_050", 224, 32, _SMALL, width=0.50),
    Variant("conv-m", "mobilenetv4_conv_medium", 256, 32, _MEDIUM, published_top1_percent=79.9),
    Variant("conv-l", "mobilenetv4_conv_large", 384, 24, _LARGE, published_top1_percent=82.9),
    Variant(
        "hybrid-m",
        "mobilenetv4_hybrid_medium",
        256,
        32,
        _HYBRID_MEDIUM,
        layer_scale_init=1e-5,
        published_top1_percent=80.7,
    ),
    Variant(
        "hybrid-m-075",
        "mobilenetv4_hybrid_medium_075",
        224,
        32,
        _HYBRID_MEDIUM,
        layer_scale_init=1e-5,
        width=0.75,
    ),
    Variant(
        "hybrid-l",
        "mobilenetv4_hybrid_large",
        384,
        24,
        _HYBRID_LARGE,
        act="gelu",
        layer_scale_init=1e-5,
        published_top1_percent=83.4,
    ),
    Variant(
        "hybrid-l-075",
        "mobilenetv4_hybrid_large_075",
        256,
        24,
        _HYBRID_LARGE,
        act="gelu",
        layer_scale_init=1e-5,
        width=0.75,
    ),
)
