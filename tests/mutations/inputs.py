"""Every kind of input that somebody else may have made, as small as it can be."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import conv, integers

CEILINGS = "ceilings cache"


@dataclass(frozen=True)
class Kind:
    """One kind of input: the files of a sound case by name, those that are damaged, and the
    command lines that read them (in the folder of the files)."""

    name: str
    files: dict[str, bytes]
    damaged: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


def kinds() -> tuple[Kind, ...]:
    """Every kind of input that somebody else may have made, as small as it can be."""
    model, tflite, images = _onnx_classifier(), _tflite_classifier(), _images()
    photographs = {f"data/{number:02}.png": images["png"] for number in range(16)}
    drift = ("drift", "--reference", "m.onnx", "--candidate", "m.onnx", "--layer-images", "0")
    means = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    on_images = (*drift, *means, "--data", "data")
    profile = ("--machine", "none", "--runs", "1", "--warmup", "0")
    files_of = {"m.onnx": model, **photographs}

    def model_commands(name: str) -> tuple[tuple[str, ...], ...]:
        pair = ("drift", "--reference", name, "--candidate", name, "--layer-images", "0")
        return (
            ("inspect", name),
            ("inspect", name, "--json"),
            ("profile", name, *profile),
            ("compare", "m.onnx", name, "--runs", "1", "--warmup", "0"),
            ("parity", name, "--device", "local", "--data", "random", "--images", "1"),
            (*pair, *means, "--data", "data"),
            (*pair[:-1], "16", *means, "--data", "data", "--json"),
        )

    of_onnx, of_tflite = model_commands("x.onnx"), model_commands("x.tflite")
    arrays = ("parity", "m.onnx", "--device", "local", "--data", "x.npz")
    export = ("export", "--model", "conv-s-035", "--format", "onnx", "--weights")
    checkpoints = {
        "zip.pt": _checkpoint(legacy=False),
        "legacy.pt": _checkpoint(legacy=True),
        "w.safetensors": _safetensors(),
    }
    return (
        Kind("onnx", {**files_of, "x.onnx": model}, ("x.onnx",), of_onnx),
        Kind(
            "onnx int8",
            {**files_of, "x.onnx": _onnx_int8()},
            ("x.onnx",),
            of_onnx,
        ),
        Kind("tflite", {**files_of, "x.tflite": tflite}, ("x.tflite",), of_tflite),
        Kind(
            "tflite labels",
            {**files_of, "x.tflite": tflite + _label_archive()},
            ("x.tflite",),
            of_tflite[:2],
        ),
        Kind(
            "external weights",
            {"x.onnx": _with_external_weights(model), "w.bin": bytes(864)},
            ("x.onnx",),
            of_onnx[:3],
        ),
        Kind("npz", {"m.onnx": model, "x.npz": _npz()}, ("x.npz",), (arrays,)),
        *(
            Kind(name, {name: content}, (name,), ((*export, name),))
            for name, content in checkpoints.items()
        ),
        Kind(
            "labels.csv",
            {**files_of, "data/labels.csv": _LABELS},
            ("data/labels.csv",),
            (on_images,),
        ),
        Kind(
            "manifest",
            {**files_of, "manifest.json": _manifest(model)},
            ("manifest.json",),
            ((*drift, "--data", "data"), (*drift, "--data", "data", "--out", "out")),
        ),
        Kind(
            "images",
            {**files_of, **{f"data/x.{suffix}": content for suffix, content in images.items()}},
            tuple(f"data/x.{suffix}" for suffix in images),
            (on_images,),
        ),
        Kind(
            CEILINGS,
            {"m.onnx": model},
            (),
            (("profile", "m.onnx", "--runs", "1", "--warmup", "0"),),
        ),
    )


_LABELS = b"file,label\n" + b"".join(b"%02d.png,%d\n" % (i, i % 10) for i in range(16))


def _onnx_classifier() -> bytes:
    """Conv, Relu, mean, Gemm of 3x16x16 images; 10 classes."""
    generator = np.random.default_rng(0)
    stored = {
        "W": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "G": generator.standard_normal((10, 8)).astype(np.float32),
        "b": np.zeros(10, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "W"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "G", "b"], ["logits"], "head", transB=1),
    ]
    return _saved(nodes, stored, ["N", 3, 16, 16])


def _onnx_int8() -> bytes:
    """A convolution between QuantizeLinear and DequantizeLinear, a Constant, an If and shapes."""
    generator = np.random.default_rng(1)
    stored = {
        "s": np.float32(0.05),
        "z": np.int8(0),
        "w": generator.integers(-127, 128, (4, 3, 3, 3), np.int8),
        "ws": np.full(4, 0.02, np.float32),
        "wz": np.zeros(4, np.int8),
        "rs": np.array([-1, 4], np.int64),
        "cond": np.array(True),
    }
    relu = helper.make_graph(
        [helper.make_node("Relu", ["m"], ["t"], "inner")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", ["m"], ["e"], "other")],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    two = numpy_helper.from_array(np.float32(2))
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["xq"], "q0"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "d0"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "d1", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], "q1"),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"], "d2"),
        helper.make_node("GlobalAveragePool", ["cd"], ["p"], "pool"),
        helper.make_node("Reshape", ["p", "rs"], ["r"], "reshape"),
        helper.make_node("Constant", [], ["two"], "two", value=two),
        helper.make_node("Mul", ["r", "two"], ["m"], "double"),
        helper.make_node("If", ["cond"], ["logits"], "if", then_branch=relu, else_branch=same),
    ]
    return _saved(nodes, stored, [1, 3, 16, 16])


def _saved(nodes: list[Any], stored: dict[str, Any], shape: list[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _with_external_weights(content: bytes) -> bytes:
    model = onnx.ModelProto.FromString(content)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="length", value="864")
    found: bytes = model.SerializeToString()
    return found


def _tflite_classifier() -> bytes:
    """An int8 convolution between QUANTIZE and DEQUANTIZE, and a mean, of 16x16x3 images."""
    b = TfliteBuilder()
    image = b.tensor("image", (1, 16, 16, 3))
    codes = b.tensor("codes", (1, 16, 16, 3), "int8", scale=0.1)
    b.op("QUANTIZE", (image,), (codes,))
    found = conv(b, codes, "conv", width=10, dtype="int8")
    pooled = b.tensor("pooled", (1, 10), "int8", scale=0.1)
    b.op("MEAN", (found, integers(b, [1, 2])), (pooled,), "ReducerOptions")
    logits = b.tensor("logits", (1, 10))
    b.op("DEQUANTIZE", (pooled,), (logits,))
    with tempfile.TemporaryDirectory() as folder:
        return b.write(Path(folder) / "m.tflite", [image], [logits]).read_bytes()


def _label_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "".join(f"class {i}\n" for i in range(10)))
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, image=np.zeros((2, 3, 16, 16), np.float32))
    return stream.getvalue()


def _tensors() -> dict[str, Any]:
    import torch

    return {"conv_stem.weight": torch.zeros(2, 3), "bn1.bias": torch.ones(4).half()}


def _checkpoint(*, legacy: bool) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(
        {"state_dict": _tensors(), "epoch": 3},
        stream,
        _use_new_zipfile_serialization=not legacy,
    )
    return stream.getvalue()


def _safetensors() -> bytes:
    from safetensors.torch import save

    return save(_tensors(), {"format": "pt"})


def _images() -> dict[str, bytes]:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 24, 3), np.uint8)
    options: dict[str, dict[str, Any]] = {
        "png": {},
        "jpg": {},
        "gif": {},
        "bmp": {},
        "webp": {},
        "tif": {"compression": "tiff_lzw"},
    }
    found = {}
    for suffix, option in options.items():
        stream = io.BytesIO()
        kind = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        Image.fromarray(pixels).save(stream, kind, **option)
        found[suffix] = stream.getvalue()
    return found


def _manifest(model: bytes) -> bytes:
    entry = {
        "file": "m.onnx",
        "precision": "int8",
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    preprocessing = {
        "height": 16,
        "width": 16,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    document = {
        "files": [entry],
        "preprocessing": preprocessing,
        "labels": [f"class {i}" for i in range(10)],
        "calibration": {"image_sha256": ["0" * 64]},
    }
    return json.dumps(document).encode()
