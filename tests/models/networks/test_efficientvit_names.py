"""EfficientViT's tensor names, timm's and the authors', and checkpoints that have them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mnv4_deploy.errors import WeightsError
from mnv4_deploy.models import zoo
from mnv4_deploy.models.foreign_names import to_timm_names
from mnv4_deploy.models.weights import load_reference

NETWORKS = {  # blocks and heads of each stage
    "m0": ((1, 2, 3), (4, 4, 4)),
    "m1": ((1, 2, 3), (2, 3, 3)),
    "m2": ((1, 2, 3), (4, 3, 2)),
    "m3": ((1, 2, 3), (4, 3, 4)),
    "m4": ((1, 2, 3), (4, 4, 4)),
    "m5": ((1, 3, 4), (3, 3, 4)),
}


def norm_layers(conv: str, norm: str) -> Iterator[str]:
    yield f"{conv}.weight"
    for value in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{norm}.{value}"


def tensor_names(name: str, style: str) -> Iterator[str]:
    """Names in the order of the layers, as timm or the authors (microsoft/Cream) give them.

    The authors number all layers of the embedding, and what is before a stage's blocks with them.
    """
    depths, heads = NETWORKS[name]
    timm = style == "timm"
    conv, linear = ("conv", "linear") if timm else ("c", "l")

    def unit(path: str) -> Iterator[str]:
        return norm_layers(f"{path}.{conv}", f"{path}.bn")

    def sandwich(depthwise: str, ffn: str) -> Iterator[str]:
        for layer in (f"{depthwise}.m", f"{ffn}.m.pw1", f"{ffn}.m.pw2"):
            yield from unit(layer)

    for index in range(4):
        yield from unit(f"patch_embed.conv{index + 1}" if timm else f"patch_embed.{2 * index}")
    for stage in range(3):
        if stage:
            parts = ("res1", "patchmerge", "res2")
            before, merge, after = (
                f"stages.{stage}.downsample.{part}" if timm else f"blocks{stage + 1}.{index}"
                for index, part in enumerate(parts)
            )
            yield from sandwich(f"{before}.0", f"{before}.1")
            for layer in ("conv1", "conv2"):
                yield from unit(f"{merge}.{layer}")
            for layer in ("fc1", "fc2"):
                yield from (f"{merge}.se.{layer}.weight", f"{merge}.se.{layer}.bias")
            yield from unit(f"{merge}.conv3")
            yield from sandwich(f"{after}.0", f"{after}.1")
        for index in range(depths[stage]):
            number = index + (3 if stage else 0)
            block = f"stages.{stage}.blocks.{index}" if timm else f"blocks{stage + 1}.{number}"
            yield from sandwich(f"{block}.dw0", f"{block}.ffn0")
            attention = f"{block}.mixer.m.attn"
            yield f"{attention}.attention_biases"
            for layer in ("qkvs", "dws"):
                for head in range(heads[stage]):
                    yield from unit(f"{attention}.{layer}.{head}")
            yield from unit(f"{attention}.proj.1")
            yield from sandwich(f"{block}.dw1", f"{block}.ffn1")
    yield from list(norm_layers("", "head.bn"))[1:]
    yield from (f"head.{linear}.weight", f"head.{linear}.bias")


@pytest.mark.parametrize("name", NETWORKS)
def test_tensor_names_are_timms(name: str) -> None:
    with torch.device("meta"):
        state = zoo.build(f"efficientvit-{name}").state_dict()
    expected = list(tensor_names(name, "timm"))
    assert set(state) == set(expected) and len(state) == len(expected)


@pytest.fixture(scope="module")
def m0() -> dict[str, Tensor]:
    with torch.device("meta"):
        model = zoo.build("efficientvit-m0", num_classes=3)
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else torch.tensor(5)
        for key, value in model.state_dict().items()
    }


def test_the_authors_checkpoint_loads(m0: dict[str, Tensor], tmp_path: Path) -> None:
    names = dict(zip(tensor_names("m0", "theirs"), tensor_names("m0", "timm"), strict=True))
    theirs = {name: m0[ours] for name, ours in names.items()}
    for layer in (
        *("patch_embed.0.c", "patch_embed.6.bn", "blocks1.0.dw0.m.c", "blocks2.0.0.m.c"),
        *("blocks2.0.1.m.pw1.c", "blocks2.1.conv1.c", "blocks2.2.1.m.pw2.bn", "head.bn", "head.l"),
        *("blocks2.3.mixer.m.attn.qkvs.0.c", "blocks3.5.mixer.m.attn.proj.1.c"),
    ):
        assert f"{layer}.weight" in theirs
    assert to_timm_names(theirs) == m0
    # They keep the table of offsets as a buffer.
    for name in list(theirs):
        if name.endswith("attention_biases"):
            theirs[name.replace("biases", "bias_idxs")] = torch.zeros(49, 49, dtype=torch.long)
    torch.save({"model": theirs}, tmp_path / "m.pth")
    reference = load_reference("efficientvit-m0", str(tmp_path / "m.pth"))
    loaded = reference.module.state_dict()
    assert loaded.keys() == m0.keys() and all(torch.equal(loaded[k], m0[k]) for k in m0)
    assert reference.num_classes == 3


@pytest.mark.usefixtures("fitting_once")
def test_checkpoints_that_do_not_fit(m0: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(m0, path)
    with pytest.raises(WeightsError, match="has 3 classes, not 5"):
        load_reference("efficientvit-m0", str(path), num_classes=5)
    with pytest.raises(WeightsError, match="it fits 'efficientvit-m0'"):
        load_reference("efficientvit-m3", str(path))
