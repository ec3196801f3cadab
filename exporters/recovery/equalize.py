"""Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1).

Between layers joined by functions f with f(x / s) = f(x) / s, channel i of a tensor can be divided
by any s_i > 0 where it is made (weights and bias) and multiplied again where it is read, and the
network computes what it did (eq. 7). Through an addition that holds for all its operands
together, so that what shares one factor is not a pair of layers but a group: all that make and all
that read the tensors of a chain of residuals.

The paper's factors (eq. 11) make two *per-tensor* weights equally wide. With weights per channel
that is beside the point (MobileNetV2, simulated 7-bit weights: 15.5 dB before, 14.3 after); what
is left to gain is that channels of one activation share a range. Equal peaks in every pair lose
more in the readers' weights than they gain (11.2 dB). So s_i = (peak_i / largest peak)^a, and a is
the one with the least rounding noise predicted at the readers' results: that of the activations,
which falls with a, and that of the readers' weights, which rises where channels with large s_i
alone set the scale of a weight. a = 0 changes nothing, so a group is changed only where the
prediction gains. Factors are rounded to powers of two, which makes scaling exact in any type.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from mnv4_deploy.exporters.pair_scales import LARGEST_CODE
from mnv4_deploy.exporters.recovery.channel_groups import ChannelGroup, find_groups
from mnv4_deploy.exporters.recovery.network import (
    Weighted,
    demand_images,
    folded,
    is_rounded,
    weighted_nodes,
)
from mnv4_deploy.exporters.rewrites.base import LayerGraph

# A ReLU6 may be scaled only where it does not clip.
_CLIP = 6.0
_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A channel that hardly speaks is not amplified beyond this.
_LEAST_FACTOR = 2.0**-10
# The predicted noise must fall by this part at least.
_LEAST_GAIN = 0.01
_ACTIVATION_STEPS = 255


@dataclass(frozen=True)
class EqualizedGroup:
    """Paths of the layers that make and that read the tensors which share their factors.

    ``channels`` were scaled; ``held`` were not because a ReLU6 clips them on the images.
    """

    makers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    held: int
    exponent: float


@dataclass(frozen=True)
class EqualizeReport:
    """What was changed, and the layers whose results were left as they are, with the reason."""

    changed: tuple[EqualizedGroup, ...]
    refused: tuple[tuple[str, str], ...]


def equalize(module: nn.Module, example: Tensor, images: Iterable[Tensor]) -> EqualizeReport:
    """Give the channels of activations a more equal range, in place.

    ``example`` is one input ``[1, 3, H, W]``, ``images`` normalised calibration images
    ``[B, 3, H, W]``, taken one batch at a time. Norms are folded first; paths of layers stay.
    What the module computes stays, with one exception: a ReLU6 passes a scaled channel unchanged
    only up to 6. Channels that it clips on ``images``, or would clip once they are scaled, keep a
    factor that avoids it, so the outputs are the same on ``images``; on others a ReLU6 may now
    clip more.

    Raises UnsupportedError without images.
    """
    layers = folded(module, example)
    own = weighted_nodes(layers)
    groups = find_groups(layers, own)
    watcher = _Watcher(layers, [group for group in groups if not group.reason])
    changed: list[EqualizedGroup] = []
    refused: list[tuple[str, str]] = []
    with torch.no_grad():
        seen = 0
        for batch in images:
            seen += len(batch)
            watcher.run(batch)
        demand_images(seen)
        for group in groups:
            result = group.reason or _equalized(layers, own, group, watcher)
            if isinstance(result, str):
                refused += [(str(node.target), result) for node in group.makers]
            else:
                changed.append(result)
    return EqualizeReport(tuple(changed), tuple(refused))


class _Watcher(fx.Interpreter):
    """Runs a network and keeps what the groups' tensors hold, per image and channel."""

    def __init__(self, layers: LayerGraph, groups: list[ChannelGroup]) -> None:
        super().__init__(fx.GraphModule(layers.root, layers.graph))
        watched = [node.name for group in groups for node in group.tensors]
        self._found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {n: [] for n in watched}

    def run_node(self, n: fx.Node) -> object:
        value: object = super().run_node(n)
        if n.name in self._found:
            assert isinstance(value, Tensor)
            flat = value.flatten(2) if value.ndim > 2 else value[:, :, None]
            power = flat.square().mean(2)
            self._found[n.name].append(
                (flat.amin(2).double(), flat.amax(2).double(), power.double())
            )
        return value

    def low(self, node: fx.Node) -> Tensor:
        """``[images, C]``, as are the next two."""
        return torch.cat([low for low, _, _ in self._found[node.name]])

    def high(self, node: fx.Node) -> Tensor:
        return torch.cat([high for _, high, _ in self._found[node.name]])

    def power(self, node: fx.Node) -> Tensor:
        return torch.cat([power for _, _, power in self._found[node.name]])


def _equalized(
    layers: LayerGraph, own: dict[fx.Node, Weighted], group: ChannelGroup, seen: _Watcher
) -> EqualizedGroup | str:
    """Scale one group by the factors with the least predicted noise, or say why not."""
    readers = [own[node] for node in group.readers]
    rounded = [node for node in group.tensors if is_rounded(layers, node)]
    spans = [(seen.low(node), seen.high(node)) for node in rounded]
    powers = [seen.power(node.all_input_nodes[0]).mean(dim=0) for node in group.readers]
    gains = torch.stack([_input_gains(layer) for layer in readers]).sum(dim=0)

    def noise(factor: Tensor) -> float:
        """Squared rounding errors at the readers' results, times 12 and 255 squared."""
        widths = [
            (high / factor).amax(1).clamp(min=0).mean()
            - (low / factor).amin(1).clamp(max=0).mean()
            for low, high in spans
        ]
        activations = torch.stack(widths).square().sum() * (factor.square() * gains).sum()
        weights = [
            _weight_noise(layer, factor, power)
            for layer, power in zip(readers, powers, strict=True)
        ]
        return float(activations + _ACTIVATION_STEPS**2 * torch.stack(weights).sum())

    # Peaks are means over images, like the ranges of the calibration method "average".
    peaks = torch.stack([_share(torch.maximum(high, -low)) for low, high in spans]).amax(dim=0)
    share = torch.where(peaks > 0, peaks / peaks.max(), 1.0)
    least, clips = torch.full_like(share, _LEAST_FACTOR), torch.zeros_like(share).bool()
    for node in group.clipped:
        highest = seen.high(node).amax(dim=0).clamp(min=_LEAST_FACTOR)
        clips |= highest > _CLIP
        least = torch.maximum(least, torch.exp2(torch.ceil(torch.log2(highest / _CLIP))))
    one = torch.ones_like(share)
    factors = {
        a: torch.where(clips, one, torch.maximum(_nearest_power(share**a), least))
        for a in _EXPONENTS
    }
    noises = {a: noise(factor) for a, factor in factors.items()}
    exponent = min(noises, key=noises.__getitem__)
    before = noise(one)
    if noises[exponent] > before * (1 - _LEAST_GAIN):
        return "no factors are predicted to help"
    for node in group.makers:
        _scale_outputs(own[node], 1 / factors[exponent])
    for layer in readers:
        _scale_inputs(layer, factors[exponent])
    return EqualizedGroup(
        makers=tuple(str(node.target) for node in group.makers),
        readers=tuple(str(node.target) for node in group.readers),
        channels=int((factors[exponent] != 1).sum()),
        held=int(clips.sum()),
        exponent=exponent,
    )


def _nearest_power(factor: Tensor) -> Tensor:
    return torch.exp2(torch.round(torch.log2(factor)))


def _share(peaks: Tensor) -> Tensor:
    """``[C]``: each channel's part of the tensor's range, of ``[images, C]``."""
    return peaks.mean(dim=0) / peaks.amax(dim=1).mean().clamp(min=torch.finfo(peaks.dtype).tiny)


def _by_group(layer: Weighted) -> Tensor:
    """The weights as ``[G, C_out/G, C_in/G, taps]`` in float64."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    outputs, inputs = layer.weight.shape[:2]
    return layer.weight.double().reshape(groups, outputs // groups, inputs, -1)


def _input_gains(layer: Weighted) -> Tensor:
    """``[C_in]``: the sum of the squared weights that read each input channel."""
    return _by_group(layer).square().sum(dim=(1, 3)).flatten()


def _weight_noise(layer: Weighted, factor: Tensor, power: Tensor) -> Tensor:
    """12 times the squared error of the results that rounding the scaled weights makes.

    ``power`` is the mean square of each input channel before it is scaled.
    """
    weight = _by_group(layer)
    groups, _, inputs, taps = weight.shape
    steps = (weight * factor.view(groups, 1, inputs, 1)).abs().amax(dim=(2, 3)) / LARGEST_CODE
    inputs_power = taps * (power / factor.square()).view(groups, inputs).sum(dim=1)
    return (steps.square() * inputs_power[:, None]).sum()


def _scale_outputs(layer: Weighted, factor: Tensor) -> None:
    factor = factor.to(layer.weight.dtype)
    layer.weight = nn.Parameter(layer.weight * factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias * factor)


def _scale_inputs(layer: Weighted, factor: Tensor) -> None:
    factor = factor.to(layer.weight.dtype)
    if isinstance(layer, nn.Linear):
        layer.weight = nn.Parameter(layer.weight * factor)
        return
    outputs, inputs = layer.weight.shape[:2]
    per_output = factor.view(layer.groups, inputs).repeat_interleave(outputs // layer.groups, 0)
    layer.weight = nn.Parameter(layer.weight * per_output[:, :, None, None])
