"""Tiny model files whose outputs are known by hand: mean colour of the image times a matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from mnv4_deploy.sessions.records import ModelRef
from tests.profiles.conftest import TfliteBuilder

SPEC = Preprocessing(8, 10, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = tuple(f"class {i}" for i in range(7))
WEIGHTS = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
OWN = {
    "preprocessing": {
        "height": 8,
        "width": 10,
        "mean": list(SPEC.mean),
        "std": list(SPEC.std),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    },
    "labels": list(LABELS),
}


def logits(
    pixels: npt.NDArray[np.uint8], weights: npt.NDArray[np.float32] = WEIGHTS
) -> npt.NDArray[np.float64]:
    """What the files below compute of ``[N, H, W, 3]``, in float64."""
    normalised = (pixels / 255.0 - np.array(SPEC.mean)) / np.array(SPEC.std)
    outputs: npt.NDArray[np.float64] = normalised.mean(axis=(1, 2)) @ weights.astype(float).T
    return outputs


def make_onnx(
    path: Path,
    weights: npt.NDArray[np.float32] = WEIGHTS,
    *,
    batch: int | str = 1,
    sides: tuple[int | str, int | str] = (8, 10),
    dtype: int = TensorProto.FLOAT,
    softmax: bool = False,
    metadata: dict[str, object] | None = OWN,  # type: ignore[assignment]
) -> Path:
    """NCHW. An integer input is cast to float and normalised as ``SPEC`` says."""
    value = helper.make_tensor_value_info
    constants = {
        "weights": weights.T,
        "mean": 255 * np.array(SPEC.mean, np.float32).reshape(1, 3, 1, 1),
        "std": 255 * np.array(SPEC.std, np.float32).reshape(1, 3, 1, 1),
    }
    nodes = []
    image = "input"
    if dtype != TensorProto.FLOAT:
        nodes += [
            helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normalised"]),
        ]
        image = "normalised"
    nodes += [
        helper.make_node("GlobalAveragePool", [image], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node("MatMul", ["colour", "weights"], ["scores" if softmax else "logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [value("input", dtype, [batch, 3, *sides])],
        [value("logits", TensorProto.FLOAT, [batch, len(weights)])],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, {k: json.dumps(v) for k, v in (metadata or {}).items()})
    onnx.save(model, path)
    return path


def make_tflite(
    path: Path,
    weights: npt.NDArray[np.float32] = WEIGHTS,
    *,
    batch: int = 1,
    metadata: dict[str, bytes] | None = None,
    quantization: tuple[float, int] | None = None,
    free_size: bool = False,
) -> Path:
    """NHWC; ``quantization`` is that of a uint8 input."""
    b = TfliteBuilder()
    shape = (batch, 8, 10, 3)
    image = b.tensor("image", shape)
    if free_size:
        b.graph.tensors[image].shapeSignature = [batch, -1, -1, 3]
    source = image
    if quantization:
        scale, zero_point = quantization
        source = b.tensor("codes", shape, "uint8", scale=scale, zero_point=zero_point)
        b.op("DEQUANTIZE", (source,), (image,))
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    colour = b.tensor("colour", (batch, 3))
    b.op("MEAN", (image, axes), (colour,), "ReducerOptions", keepDims=False)
    matrix = b.tensor("weights", weights.shape, data=weights)
    zeros = b.tensor("bias", (len(weights),), data=np.zeros(len(weights), np.float32))
    result = b.tensor("logits", (batch, len(weights)))
    b.op("FULLY_CONNECTED", (colour, matrix, zeros), (result,), "FullyConnectedOptions")
    for name, content in (metadata or {"mnv4_deploy": json.dumps(OWN).encode()}).items():
        b.metadata(name, content)
    return b.write(path, [source], [result])


def make_subject(
    path: Path, *, name: str = "", num_classes: int = 7, **fields: object
) -> ModelRef:
    """A subject without looking at the file."""
    known: dict[str, object] = {
        "kind": path.suffix[1:],
        "name": name or path.name,
        "path": str(path),
        "inputs": _boundary(path, "inputs"),
        "outputs": _boundary(path, "outputs"),
        "preprocessing": SPEC,
        "preprocessing_from": "file",
        "labels": LABELS[:num_classes],
        "num_classes": num_classes,
        "sha256": "0" * 64,
        "size_bytes": 1,
    }
    return ModelRef(**(known | fields))  # type: ignore[arg-type]


def _boundary(path: Path, side: str) -> tuple[TensorFacts, ...]:
    if not path.is_file():
        return ()
    found: tuple[TensorFacts, ...] = getattr(TensorRunner(str(path)), side)
    return found


def make_images(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """PNGs of the input's size, so that pixels arrive as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:03}.png" for i in range(count)]
    for path in paths:
        colour = rng.integers(0, 256, 3)
        noise = rng.integers(-40, 41, (8, 10, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)
    return paths


def pixels_of(paths: list[Path]) -> npt.NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)) for path in paths])
