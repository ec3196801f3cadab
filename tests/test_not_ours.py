"""What export says of files, checkpoints and networks that are none of ours."""

import pathlib
import re

import pytest
from torch import nn

import mnv4_deploy
from mnv4_deploy.cli import app as cli
from mnv4_deploy.errors import InputError
from mnv4_deploy.models.source import as_source

# What each answer must name: a command of ours that takes the file, or how there comes to be one.
CASES = {
    "net.onnx": ("mnv4-deploy inspect net.onnx", "mnv4-deploy profile net.onnx", "drift"),
    "some where/net.TFLITE": ("mnv4-deploy inspect 'some where/net.TFLITE'", "compare", "drift"),
    "yolov8n.pt": ("--weights yolov8n.pt", "`mnv4-deploy models`", "torch.onnx.export"),
    "mine.safetensors": ("--weights mine.safetensors", "torch.onnx.export"),
    "conv-s.pth": ("--weights conv-s.pth", "torch.onnx.export"),
    "mobilenetv4_conv_small.pt": ("--weights mobilenetv4_conv_small.pt",),
    "resnet50": ("no model 'resnet50'", "`mnv4-deploy models`", "torch.onnx.export"),
    "hybrid-mm": ("did you mean 'hybrid-m'?", "`mnv4-deploy models`", "profile"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_and_python_say_what_can_be_done(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "--model", name])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(part in err for part in CASES[name]), err
    for model in (name, pathlib.Path(name)):
        with pytest.raises(InputError) as caught:
            mnv4_deploy.export(model)
        assert err == f"mnv4-deploy: {caught.value}\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Linear, 7, None])
def test_a_network_in_memory(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = model.__name__ if isinstance(model, type) else type(model).__name__
    for refused in (
        lambda: mnv4_deploy.export(model),
        lambda: mnv4_deploy.export(model, tmp_path / "out"),
        lambda: mnv4_deploy.measure_drift("hybrid-m", model),
    ):
        with pytest.raises(InputError, match=rf"{kind} is none.*torch\.onnx\.export.*profile"):
            refused()
    assert not any(tmp_path.iterdir())


def test_commands_that_are_advised_exist():
    advised = re.findall(
        r"`mnv4-deploy (\w+)", " ".join(part for c in CASES.values() for part in c)
    )
    known = {command.callback.__name__ for command in cli.app.registered_commands}
    assert {*advised, "compare", "drift"} <= known


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        ("bundled", "timm:e2400_r224_in1k"),
        ("timm", "timm:e2400_r224_in1k"),
        ("random:3", "random:3"),
        ("mine.pth", "mine.pth"),
    ],
)
def test_a_tag_names_weights_where_nothing_else_does(weights, chosen):
    source = as_source("mobilenetv4_conv_small.e2400_r224_in1k", weights)
    assert (source.name, source.weights) == ("conv-s", chosen)
    assert as_source("conv-s", weights).weights == weights
