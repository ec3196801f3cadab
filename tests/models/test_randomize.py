"""Random values under which no part of a network is dead, the same ones for the same seed."""

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks.mlla import Mlla, MllaBlock
from mnv4_deploy.models.networks.mlla_variants import Variant
from mnv4_deploy.models.randomize import randomize


@pytest.mark.parametrize(
    ("name", "sums"),
    # Of the values that a seed gave when other tools were first measured with them.
    [
        ("conv-s-035", (8.88226, -29.98930, 2.29524, 1280.33767, -14.7425, 262.954)),
        ("hybrid-m-075", (8.88226, -16.48539, -4.76688, 1279.53532, 31.1337, 466.818)),
    ],
)
def test_random_values_do_not_change_between_versions(name: str, sums: tuple[float, ...]) -> None:
    module = zoo.build(name)
    randomize(module, 0, size=(64, 64))
    state = module.state_dict()
    layers = ("conv_stem.weight", "classifier.weight", "classifier.bias", "norm_head.weight")
    names = (*layers, "norm_head.running_mean", "norm_head.running_var")
    found = [float(state[key].double().sum()) for key in names]
    assert found[:4] == pytest.approx(sums[:4], abs=1e-3)
    assert found[4:] == pytest.approx(sums[4:], rel=0.01, abs=0.1)


def test_maps_of_many_blocks_keep_their_size() -> None:
    """As in a trained network: sums with nothing to normalise them grow with every block."""
    module = Mlla(Variant("deep", "", 64, 16, (1, 1, 21, 1), (1, 1, 2, 4)), num_classes=5)
    sizes: list[float] = []
    for block in module.modules():
        if isinstance(block, MllaBlock):
            block.register_forward_hook(lambda *call: sizes.append(float(call[2].std())))
    randomize(module, 0, size=(64, 64))
    assert len(sizes) == 24
    assert min(sizes) > 0.1 and max(sizes) < 100
    encoding = module.get_submodule("layers.2.blocks.20.cpe2")
    assert isinstance(encoding, nn.Conv2d)
    assert float(encoding.weight.detach().std()) > 0.05


def test_random_values_of_other_attentions_are_not_trivial() -> None:
    module = zoo.build("efficientvit-m0", num_classes=5)
    randomize(module, 0, size=(64, 64))
    biases = [p for key, p in module.named_parameters() if key.endswith("attention_biases")]
    assert len(biases) == 6
    assert all(
        0.3 < float(p.detach().std()) < 0.7 and float(p.detach().abs().min()) > 0 for p in biases
    )
    norm = module.get_submodule("head.bn")
    assert isinstance(norm, nn.BatchNorm1d) and norm.momentum == 0.1
    assert norm.running_mean is not None and norm.running_var is not None
    for tensor, plain in (
        (norm.weight, 1),
        (norm.bias, 0),
        (norm.running_mean, 0),
        (norm.running_var, 1),
    ):
        assert float((tensor.detach() - plain).abs().mean()) > 0.05

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(3)
            self.token = nn.Parameter(torch.zeros(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x.mean((2, 3))) + self.token
            return y

    first, again = Normed(), Normed()
    for own in (first, again):
        randomize(own, 3, size=(32, 32))
    assert float((first.norm.weight.detach() - 1).abs().max()) > 0.01
    assert (
        float(first.norm.bias.detach().abs().min()) > 0
        and float(first.token.detach().abs().min()) > 0
    )
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
