"""Random values under which no part of a network is dead.

Fresh networks lie: layer scales of 1e-5 and untouched norms hide whole branches, and a
converter may even fold them away. Here every weight, norm and layer scale gets a value of
the size a trained network has, so that a mistake anywhere shows in the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mnv4_deploy.models.networks.layers import LayerScale
from mnv4_deploy.models.networks.mlla import MllaBlock

_IMAGES = 8
_POSITION_ENCODING = 0.2
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def randomize(module: nn.Module, seed: int, *, size: tuple[int, int] = (192, 192)) -> None:
    """Randomise ``module`` in place, the same way for the same ``seed``; leaves it in eval mode.

    Weights are normal with variance 2/fan_in (He et al., 2015), gammas uniform in 0.6..1.4,
    betas normal 0.2, layer scales uniform in 0.3..1, every other parameter (position biases)
    normal 0.5. Position encodings, which are added to their own input with no norm behind, are
    a fifth of that size: MLLA-S has 42 in a row, and its maps would grow to 1e10. Norm
    statistics are those of one forward pass over 8 synthetic images of ``size`` (height,
    width), moved by about 10 % so that a norm is never exactly the whitening of its input. The
    deepest maps must not be mostly padding: statistics taken at 64 px let larger images grow
    without bound. Other machines may differ by float rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, _BATCH_NORMS)]
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(layer, (*_BATCH_NORMS, nn.LayerNorm)):
                layer.weight.uniform_(0.6, 1.4, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(layer, LayerScale):
                layer.gamma.uniform_(0.3, 1.0, generator=generator)
            else:
                for parameter in layer.parameters(recurse=False):
                    parameter.normal_(0, 0.5, generator=generator)
        for block in module.modules():
            if isinstance(block, MllaBlock):
                for encoding in (block.cpe1, block.cpe2):
                    encoding.weight.mul_(_POSITION_ENCODING)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average, so one pass sets the statistics exactly
        module.train()
        # NHWC strides make CPU convolutions several times faster.
        images = _synthetic_images(size, generator)
        module(images.contiguous(memory_format=torch.channels_last))
        module.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            _jitter(norm, generator)


def _jitter(norm: nn.BatchNorm1d | nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    # A channel that happened to be nearly constant would amplify other images without bound.
    variance.clamp_(min=0.1 * float(variance.mean()))
    mean += 0.1 * variance.sqrt() * torch.randn(mean.shape, generator=generator)
    variance *= torch.empty_like(variance).uniform_(0.8, 1.25, generator=generator)


def _synthetic_images(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """``[8, 3, H, W]``: noise at several scales, each image with its own contrast and tint."""
    total = torch.zeros(_IMAGES, 3, *size)
    for side in (2, 4, 8, 16, min(size)):
        noise = torch.randn(_IMAGES, 3, side, side, generator=generator)
        gain = torch.rand(_IMAGES, 1, 1, 1, generator=generator)
        total += gain * interpolate(noise, size=size, mode="bilinear")
    return total + 0.5 * torch.randn(_IMAGES, 3, 1, 1, generator=generator)
