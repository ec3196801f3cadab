"""A network that shows its layers, for any subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from mnv4_deploy.layers.layer import Network
from mnv4_deploy.sessions.records import ModelKind, ModelRef


def open_network(subject: ModelRef, size: tuple[int, int], other: ModelKind) -> Network:
    """``subject`` for images of ``size`` (height, width).

    A PyTorch model gets the layers that its export to the kind of the ``other`` subject has.
    Raises ModelFileError for a file that cannot be run, WeightsError and UnknownModelError as
    ``load_reference`` does.
    """
    if subject.kind == "torch":
        from mnv4_deploy.layers.networks.torch_network import TorchNetwork

        assert subject.source is not None
        reference = subject.source.load(size)
        format_: Literal["onnx", "tflite"] = "tflite" if other == "tflite" else "onnx"
        return TorchNetwork(reference.module, reference.outputs, size, format_)
    path, spec = Path(subject.path), replace(subject.preprocessing, height=size[0], width=size[1])
    if subject.kind == "tflite":
        from mnv4_deploy.layers.networks.tflite_network import TfliteNetwork

        return TfliteNetwork(path, spec)
    from mnv4_deploy.layers.networks.onnx_network import OnnxNetwork

    return OnnxNetwork(path, spec)
