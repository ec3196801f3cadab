"""A model run on torch's meta device: shapes only, no arithmetic, whatever the input size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv4_deploy.models import zoo

if TYPE_CHECKING:
    from torch import nn


def built(model: str | nn.Module, num_classes: int) -> nn.Module:
    """``model`` itself, or the zoo's model of that name without memory for its values.

    Raises:
        UnknownModelError: no model of that name.
    """
    import torch

    if not isinstance(model, str):
        return model
    with torch.device("meta"):
        return zoo.build(model, num_classes=num_classes)


def forward(module: nn.Module, size: tuple[int, int]) -> None:
    """Run ``module`` for one RGB image of ``size`` (height, width), its own values untouched."""
    import torch
    from torch.func import functional_call

    meta = {
        name: tensor.detach().to("meta")
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    image = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad():
        functional_call(module, meta, (image,))
