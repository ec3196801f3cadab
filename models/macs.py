"""Parameter and multiply-accumulate counts. MACs are counted; twice that is FLOPs.

Convolutions, linear layers and matrix products count (the attention's two included); norms,
activations, additions and pooling do not, as in the papers. Counting runs on torch's meta
device: shapes only, no arithmetic, whatever the input size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv4_deploy.models.meta import built, forward

if TYPE_CHECKING:
    from torch import nn


def count_parameters(module: nn.Module) -> int:
    """Learned values: weights, biases, norm gammas and betas, layer scales."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(model: str | nn.Module, size: tuple[int, int], num_classes: int = 1000) -> int:
    """MACs for one RGB image of ``size`` (height, width).

    ``model`` is a name of the zoo or a built module, for which ``num_classes`` is ignored.

    Raises:
        UnknownModelError: no model of that name.
    """
    return macs_by_module(model, size, num_classes)[""]


def macs_by_module(
    model: str | nn.Module, size: tuple[int, int], num_classes: int = 1000
) -> dict[str, int]:
    """MACs of every submodule that has any, by its dotted name; ``""`` is the whole model."""
    from torch.utils.flop_counter import FlopCounterMode

    module = built(model, num_classes)
    with FlopCounterMode(display=False) as counter:
        forward(module, size)
    root = type(module).__name__
    counts = {"": counter.get_total_flops() // 2}
    for name, by_op in counter.get_flop_counts().items():
        if name.startswith(f"{root}."):
            counts[name.removeprefix(f"{root}.")] = sum(by_op.values()) // 2
    return counts
