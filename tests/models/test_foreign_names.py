"""Checkpoints of other implementations load by their own names."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.errors import WeightsError
from mnv4_deploy.models.assumptions import assumptions
from mnv4_deploy.models.foreign_names import to_timm_names
from mnv4_deploy.models.weights import load_reference

ENDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_names(repeats: tuple[int, ...]) -> Iterator[str]:
    """Layers of torchvision's MobileNetV2 in order, from its documented nesting."""
    yield from ("features.0.0", "features.0.1")
    for block in range(1, 1 + sum(repeats)):
        inner = "0.0 0.1 1 2" if block == 1 else "0.0 0.1 1.0 1.1 2 3"
        yield from (f"features.{block}.conv.{layer}" for layer in inner.split())
    yield from ("features.18.0", "features.18.1", "classifier.1")


def port_names(repeats: tuple[int, ...]) -> Iterator[str]:
    """Layers as the PyTorch ports of EfficientNet name them, in order."""
    yield from ("_conv_stem", "_bn0")
    for block in range(sum(repeats)):
        expand = () if block == 0 else ("_expand_conv", "_bn0")
        rest = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        yield from (f"_blocks.{block}.{layer}" for layer in (*expand, *rest))
    yield from ("_conv_head", "_bn1", "_fc")


CASES = {
    "mobilenetv2-100": (torchvision_names, (1, 2, 3, 4, 3, 3, 1)),
    "efficientnet-lite0": (port_names, (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet-lite1": (port_names, (1, 3, 3, 4, 4, 5, 1)),
}


def renamed(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All three list the layers in the order they run, so place by place is the translation."""
    names, repeats = CASES[name]
    ours = dict.fromkeys(key.rpartition(".")[0] for key in state)
    theirs = dict(zip(ours, names(repeats), strict=True))
    return {
        f"{theirs[layer]}.{end}": state[f"{layer}.{end}"]
        for layer in ours
        for end in ENDS
        if f"{layer}.{end}" in state
    }


@pytest.mark.parametrize("name", CASES)
def test_translates_every_tensor(
    name: str, random_module: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    state = random_module(name).state_dict()
    foreign = renamed(name, state)
    assert len(foreign) == len(state) and not foreign.keys() & state.keys()
    # In another order, as an alphabetical container would give them.
    back = to_timm_names({key: foreign[key] for key in sorted(foreign)})
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)
    torch.save({"state_dict": {f"module.{k}": v for k, v in foreign.items()}}, tmp_path / "m.pth")
    reference = load_reference(name, str(tmp_path / "m.pth"))
    own = reference.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert reference.preprocessing.crop_pct == 0.875
    (sentence,) = (s for s in assumptions(reference) if "preprocessing" in s)
    assert ("mean (127.0, 127.0, 127.0)" in sentence) == ("lite" in name)


@pytest.mark.usefixtures("fitting_once")
def test_a_checkpoint_of_the_other_network_names_it(
    random_module: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    state = random_module("mobilenetv2-100").state_dict()
    torch.save(renamed("mobilenetv2-100", state), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="it fits 'mobilenetv2-100'"):
        load_reference("efficientnet-lite0", str(tmp_path / "m.pth"))


@pytest.mark.usefixtures("fitting_once")
@pytest.mark.parametrize(
    "lost", ["features.3.conv.2.weight", "features.5.conv.0.0.weight", "features.18.1.bias"]
)
def test_missing_tensors_are_told(
    lost: str, random_module: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    foreign = renamed("mobilenetv2-100", random_module("mobilenetv2-100").state_dict())
    del foreign[lost]
    torch.save(foreign, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="missing"):
        load_reference("mobilenetv2-100", str(tmp_path / "m.pth"))


def test_other_names_stay_as_they_are() -> None:
    strange = {"features.0.0.weight": torch.zeros(2), "features.7.conv.2.weight": torch.zeros(())}
    back = to_timm_names(strange | {"x": torch.ones(1)})
    assert set(back) == {"conv_stem.weight", "features.7.conv.2.weight", "x"}
    assert to_timm_names({"features.1.weight": torch.zeros(1)}).keys() == {"features.1.weight"}
