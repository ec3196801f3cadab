import subprocess
import sys

import pytest
import torch

from mnv4_deploy.errors import InputError, UnknownModelError
from mnv4_deploy.models import hub, zoo
from mnv4_deploy.models.source import as_source


def test_names() -> None:
    assert zoo.names() == (
        "conv-s",
        "conv-s-035",
        "conv-s-050",
        "conv-m",
        "conv-l",
        "hybrid-m",
        "hybrid-m-075",
        "hybrid-l",
        "hybrid-l-075",
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
        "efficientnet-lite3",
        "efficientnet-lite4",
        "mobilenetv2-100",
        *(f"efficientvit-m{number}" for number in range(6)),
        *("mlla-t", "mlla-s", "mlla-b"),
    )


@pytest.mark.parametrize(
    "module",
    [
        *("models.zoo", "models.weights", "models.macs", "models.hub"),
        *("images.sets", "images.preprocessing"),
    ],
)
def test_importing_needs_no_torch(module: str) -> None:
    code = (
        f"import sys, mnv4_deploy.{module} as m\n"
        "heavy = {'torch', 'safetensors', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("hybrid-mm", "hybrid-m"),
        ("conv_s", "conv-s"),
        ("Conv-L", "conv-l"),
        ("mobilenetv4_hybrid_larg", "hybrid-l"),
        ("mobilenetv4_conv_small_50", "conv-s-050"),
        ("tf_efficientnet_lite-2", "efficientnet-lite2"),
        ("mobilenet_v2", "mobilenetv2-100"),
        ("efficientvit_m33", "efficientvit-m3"),
        ("EfficientViT-M5", "efficientvit-m5"),
        ("mobilenetv4_conv_small.onnx", "conv-s"),
    ],
)
def test_unknown_name_gets_the_nearest_and_where_the_list_is(typo: str, meant: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        zoo.entry(typo)
    message = str(caught.value)
    assert f"did you mean '{meant}'?" in message
    assert "`mnv4-deploy models`" in message


def test_hopeless_name_gets_the_command_that_lists_them() -> None:
    with pytest.raises(UnknownModelError) as caught:
        zoo.build("zzzzzz")
    assert "did you mean" not in str(caught.value)
    assert "`mnv4-deploy models`" in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenetv4_conv_small", "conv-s"),
        ("mobilenetv4_hybrid_large", "hybrid-l"),
        ("tf_efficientnet_lite2", "efficientnet-lite2"),
        ("efficientvit_m3", "efficientvit-m3"),
        ("timm/mobilenetv4_hybrid_medium.ix_e550_r256_in1k", "hybrid-m"),
    ],
)
def test_timms_names_are_names(theirs: str, ours: str) -> None:
    assert zoo.entry(theirs) == zoo.entry(ours)
    assert zoo.entry(theirs).name == ours


# Of other architectures: padded, anti-aliased or built otherwise than ours.
@pytest.mark.parametrize(
    "other",
    [
        *("efficientnet_lite0", "mobilenetv4_conv_aa_large", "mobilenetv4_conv_blur_medium"),
        *("efficientvit_b0", "mobilenetv2_110d", "conv-s.in1k.onnx"),
    ],
)
def test_names_like_timms_are_none(other: str) -> None:
    with pytest.raises(UnknownModelError):
        zoo.entry(other)


def test_every_published_checkpoint_goes_by_timms_whole_name() -> None:
    for name in zoo.names():
        for published in hub.checkpoints(name):
            source = as_source(published.hub_id)
            assert (source.name, source.weights) == (name, f"timm:{published.tag}")


def test_build_gives_eval_mode_and_the_classes_asked_for() -> None:
    model = zoo.build("conv-s-035", num_classes=7)
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_preprocessing_is_the_familys() -> None:
    # What training of each is published with: 0..255 pixels less a mean, over a deviation.
    lite = zoo.entry("efficientnet-lite2").preprocessing
    assert (lite.height, lite.width, lite.crop_pct) == (260, 260, 0.875)
    assert [255 * value for value in lite.mean] == pytest.approx([127.0] * 3)
    assert [255 * value for value in lite.std] == pytest.approx([128.0] * 3)
    mobile = zoo.entry("mobilenetv2-100").preprocessing
    assert (mobile.height, mobile.crop_pct, mobile.interpolation) == (224, 0.875, "bilinear")
    assert mobile.mean == (0.485, 0.456, 0.406) and mobile.std == (0.229, 0.224, 0.225)
    assert zoo.entry("conv-s").preprocessing.crop_pct == 1.0


@pytest.mark.parametrize("num_classes", [0, -3])
def test_classes_must_be_positive(num_classes: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        zoo.build("conv-s-035", num_classes=num_classes)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256", (256, 256)), ("192x320", (192, 320)), (" 33X65 ", (33, 65)), ("96 x 32", (96, 32))],
)
def test_parse_size(text: str, size: tuple[int, int]) -> None:
    assert zoo.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "256x", "-256", "2.5", "1x2x3", "²²4", "١٢٨", "256px"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(InputError, match="192x320"):
        zoo.parse_size(text)


@pytest.mark.parametrize("size", [(32, 32), (33, 67), (4096, 32), (223, 225)])
def test_legal_sizes(size: tuple[int, int]) -> None:
    assert zoo.check_size("conv-s", size) == size


@pytest.mark.parametrize("size", [(31, 224), (224, 0), (4097, 64), (64, 10**8)])
def test_illegal_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="from 32 to 4096 pixels"):
        zoo.check_size("conv-s", size)
