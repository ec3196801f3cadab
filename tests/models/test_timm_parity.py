"""Against timm itself, where it can be imported (it needs torchvision)."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo

try:
    import timm
except Exception as error:
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)


@pytest.mark.parametrize("name", [n for n in zoo.names() if zoo.entry(n).family != "mlla"])
def test_same_tensors_and_same_logits(
    name: str, random_module: Callable[[str], nn.Module]
) -> None:
    own = random_module(name)
    theirs = timm.create_model(zoo.entry(name).timm_name, pretrained=False).eval()
    theirs.load_state_dict(own.state_dict())
    # timm's EfficientViT takes one size alone.
    size = (224, 224) if name.startswith("efficientvit") else (96, 128)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = theirs(image)
        error = (own(image) - expected).norm() / expected.norm()
    assert error < 1e-5
