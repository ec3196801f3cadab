"""Damaged files through the command line, thousands of them: what is tried, and what came of it.

One process imports everything once; each case runs ``mnv4_deploy.cli.app.main`` in a fork of it,
and each child process that the product would start is a fork too. So a case costs hundredths of a
second, and a native crash is where it would be: in a child, or in the command itself.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mnv4_deploy.drift import run as drift_run
from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles import isolated
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import conv, integers
from tests.profiles.profile_factory import MACHINE

ACCEPTED = (0, 2, 4)
CASE_SECONDS = 60
_SOUND = -1
_TELL = "MUTATIONS_TELL"
_MEMORY_BYTES = 8 << 30
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
_SNIPPETS = (b"\0", b"\n", b"\x1b[31m", b"\xff\xfe", b"[/]", b'"', b"{", b"-1", b"1e999", b"NaN")


@dataclass(frozen=True)
class Kind:
    """One kind of input: the files of a sound case by name, the one that is damaged, and the
    command lines that read it (in the folder of the files)."""

    name: str
    files: dict[str, bytes]
    damaged: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Case:
    """``seed`` makes the case again."""

    kind: str
    seed: int
    command: tuple[str, ...]
    outcome: str
    stderr: str

    @property
    def accepted(self) -> bool:
        return self.outcome in {f"exit {code}" for code in ACCEPTED}


def mutated(content: bytes, generator: random.Random) -> bytes:
    """``content`` with one to four changes: of bits, numbers, lengths, order, or its end."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        at = generator.randrange(len(data) + 1) if data else 0
        match generator.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << generator.randrange(8)
            case 2 if data:
                data[at % len(data)] = generator.randrange(256)
            case 3:
                width = generator.choice((1, 2, 4, 8))
                number = generator.choice(_NUMBERS) & ((1 << 8 * width) - 1)
                data[at : at + width] = number.to_bytes(width, "little")
            case 4:
                del data[at : at + generator.choice((1, 2, 8, 64))]
            case 5:
                data[at:at] = data[at : at + generator.choice((1, 8, 64))]
            case 6:
                data[at:at] = generator.choice(_SNIPPETS)
            case 7 if generator.random() < 0.3:
                del data[at:]
            case _:
                other = generator.randrange(len(data) + 1)
                data[at : at + 4] = data[other : other + 4]
    return bytes(data)


def _damaged(kind: Kind, content: bytes, generator: random.Random) -> bytes:
    """Half of the time within what the format checks as a whole: fields, members, values."""
    inner = {
        ".onnx": _onnx_damaged,
        ".pt": _zip_damaged,
        ".npz": _zip_damaged,
        ".json": _json_damaged,
    }
    change = inner.get(Path(kind.damaged).suffix, mutated)
    if generator.random() < 0.5 or not content.startswith((b"PK", b"{", b"\x08")):
        change = mutated
    return change(content, generator)


def _zip_damaged(content: bytes, generator: random.Random) -> bytes:
    """One member is damaged, with sums that fit."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        chosen = generator.choice(old.namelist())
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info, mutated(data, generator) if info.filename == chosen else data)
    return stream.getvalue()


def _json_damaged(content: bytes, generator: random.Random) -> bytes:
    """Some value becomes one of another type."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                collect(value[key])

    collect(document)
    where, key = generator.choice(places)
    odd: tuple[Any, ...] = (None, -1, 0, 1 << 70, float("nan"), float("inf"), "", "\ud800", [], {})
    where[key] = generator.choice((*odd, "\x1b[31m", [[]], "x" * 5000))
    return json.dumps(document).encode()


def _onnx_damaged(content: bytes, generator: random.Random) -> bytes:
    """One to three fields get another value, or go, wherever in the model they are."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(generator.choice((1, 1, 2, 3))):
        message = generator.choice(list(_messages(model)))
        fields = [field for field, _ in message.ListFields()]
        if fields:
            _change(message, generator.choice(fields), generator)
    changed: bytes = model.SerializeToString()
    return changed


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(part)


def _change(message: Any, field: Any, generator: random.Random) -> None:
    value = getattr(message, field.name)
    repeated = hasattr(value, "extend")
    if generator.random() < 0.2 or (field.message_type is not None and not repeated):
        message.ClearField(field.name)
        return
    at = generator.randrange(len(value)) if repeated else 0
    if field.message_type is not None:
        if generator.random() < 0.5:
            del value[at]
        else:
            value.add().CopyFrom(value[at])
        return
    old = value[at] if repeated else value
    if isinstance(old, bytes):
        new: Any = mutated(old, generator)
    elif isinstance(old, str):
        new = generator.choice(
            ("", "x", "image", "logits", f"{old}\x1b[2J", old[:-1], "Conv", "If")
        )
    elif isinstance(old, float):
        new = generator.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    else:
        wide = (1 << 40, -(1 << 62), (1 << 63) - 1) if field.type == field.TYPE_INT64 else ()
        new = generator.choice((0, 1, -1, 2, 7, 99, 1 << 20, (1 << 31) - 1, *wide))
    try:
        if repeated:
            value[at] = new
        else:
            setattr(message, field.name, new)
    except (ValueError, TypeError):  # an enumeration that has no such number
        message.ClearField(field.name)


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

    arrays = ("parity", "m.onnx", "--device", "local", "--data", "x.npz")
    export = ("export", "--model", "conv-s-035", "--format", "onnx", "--weights")
    checkpoints = {
        "zip.pt": _checkpoint(legacy=False),
        "legacy.pt": _checkpoint(legacy=True),
        "w.safetensors": _safetensors(),
    }
    return (
        Kind("onnx", {**files_of, "x.onnx": model}, "x.onnx", model_commands("x.onnx")),
        Kind(
            "onnx int8", {**files_of, "x.onnx": _onnx_int8()}, "x.onnx", model_commands("x.onnx")
        ),
        Kind("tflite", {**files_of, "x.tflite": tflite}, "x.tflite", model_commands("x.tflite")),
        Kind(
            "tflite labels",
            {**files_of, "x.tflite": tflite + _label_archive()},
            "x.tflite",
            model_commands("x.tflite")[:2],
        ),
        Kind(
            "external weights",
            {"x.onnx": _with_external_weights(model), "w.bin": bytes(864)},
            "x.onnx",
            model_commands("x.onnx")[:3],
        ),
        Kind("npz", {"m.onnx": model, "x.npz": _npz()}, "x.npz", (arrays,)),
        *(
            Kind(name, {name: content}, name, ((*export, name),))
            for name, content in checkpoints.items()
        ),
        Kind(
            "labels.csv", {**files_of, "data/labels.csv": _LABELS}, "data/labels.csv", (on_images,)
        ),
        Kind(
            "manifest",
            {**files_of, "manifest.json": _manifest(model)},
            "manifest.json",
            ((*drift, "--data", "data"), (*drift, "--data", "data", "--out", "out")),
        ),
        *(
            Kind(
                f"image {suffix}",
                {**files_of, f"data/x.{suffix}": content},
                f"data/x.{suffix}",
                (on_images,),
            )
            for suffix, content in images.items()
        ),
        Kind(
            "ceilings cache",
            {"m.onnx": model, "cache/machine.json": b""},
            "cache/machine.json",
            (("profile", "m.onnx", "--runs", "1", "--warmup", "0"),),
        ),
    )


def run(per_kind: int, seed: int, only: str = "") -> Iterator[Case]:
    """Each command of each kind on sound files, then ``per_kind`` damaged files of each, each
    through one of its commands."""
    for kind in kinds():
        if only and only != kind.name:
            continue
        for command in kind.commands:
            yield _case(kind, command, _SOUND)
        for number in range(per_kind):
            own = seed * 1_000_003 + number
            command = random.Random(f"{kind.name} {own} command").choice(kind.commands)
            yield _case(kind, command, own)


def _case(kind: Kind, command: tuple[str, ...], seed: int) -> Case:
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name)
        files = {folder / path: content for path, content in kind.files.items()}
        damaged = folder / kind.damaged
        if kind.name == "ceilings cache":  # its name is this machine's
            del files[damaged]
            damaged = _cached_machine(folder / "cache")
            files[damaged] = damaged.read_bytes()
        if seed != _SOUND:
            generator = random.Random(f"{kind.name} {seed}")
            files[damaged] = _damaged(kind, files[damaged], generator)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        outcome, stderr = _forked(command, folder)
    return Case(kind.name, seed, command, outcome, stderr)


def _forked(command: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """How ``command`` ends, and what it writes to standard error."""
    err = folder / "stderr"
    child = os.fork()
    if child == 0:
        os._exit(_child(command, folder, err))
    deadline = time.monotonic() + CASE_SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"not done after {CASE_SECONDS} s", ""
        time.sleep(0.002)
    said = err.read_bytes().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"crash {signal.Signals(-code).name}", said
    if "Traceback" in said:
        return "traceback", said
    # Notes are lines too, and allowed where something came of it.
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    if code and len(lines) != 1:
        return f"exit {code} with {len(lines)} lines", said
    if any(ord(char) < 32 and char != "\n" for char in said):
        return "control characters", said
    return f"exit {code}", said


def _child(command: tuple[str, ...], folder: Path, err: Path) -> int:
    os.chdir(folder)
    os.environ["MNV4_DEPLOY_CACHE"] = str(folder / "cache")
    for descriptor, target in ((1, folder / "stdout"), (2, err)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), write_through=True)
        for descriptor in (1, 2)
    )
    from mnv4_deploy.cli import app

    try:
        app.main(list(command))
    except SystemExit as stop:
        if tell := os.environ.get(_TELL):
            with Path(tell).open("a", encoding="utf-8") as told:
                told.writelines(f"{name}\n" for name in sys.modules)
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _isolated_by_fork(
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = isolated.DEFAULT_TIMEOUT_S,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> isolated.IsolatedResult[Any]:
    """``run_isolated_with_log`` without the half second that a fresh interpreter takes."""
    del timeout_s, memory_bytes
    with tempfile.TemporaryFile() as outcome, tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            isolated.limit_memory(_MEMORY_BYTES)
            outcome.write(pickle.dumps(isolated.outcome_of(function, *args)))
            outcome.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome.seek(0)
        found = outcome.read()
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
    too_large = isolated._too_large(subject)
    if code:
        if isolated._ran_out_of_memory(code, text):
            raise too_large
        raise isolated._crash(subject, isolated.exit_reason(code))
    name = isolated.name_of(function)
    return isolated.IsolatedResult(pickle.loads(found).result(name, too_large, subject), text)


class _Here:
    """Shards in this process instead of in workers'."""

    workers = 1
    processors = frozenset({"this"})

    def __init__(self, job: Any) -> None:
        self._job = job

    def run(self, shards: Any, key: str) -> Iterator[Any]:
        del key
        runner = ShardRunner(self._job)
        for shard in shards:
            short = ToolchainError("There is too little memory.")
            yield isolated.outcome_of(runner.run, shard).result("a shard", short)


def _prepare() -> None:
    """Put forks in the place of processes, and an end where a device or an export would begin."""
    import torch

    from mnv4_deploy.device import open as opening
    from mnv4_deploy.models import checkpoint_file
    from mnv4_deploy.pipelines import export
    from mnv4_deploy.profiles.machine import ceilings
    from mnv4_deploy.profiles.runtimes import litert_library

    litert_library.load_library()
    torch.set_num_threads(1)

    def the_end(*_: Any, **__: Any) -> Any:
        raise ToolchainError("The file passed: this trial ends here.")

    for owner, name, stand_in in (
        (opening, "open_device", the_end),
        (export._Export, "run", the_end),
        (checkpoint_file, "_fitting_model", lambda *_, **__: None),
        (ceilings, "measure_machine", lambda *_, **__: MACHINE),
        (isolated, "run_isolated_with_log", _isolated_by_fork),
        (drift_run, "local_executor", lambda job, **_: contextlib.nullcontext(_Here(job))),
    ):
        setattr(owner, name, stand_in)


def _import_what_commands_import() -> None:
    """So that no case has to: forks do some commands once and tell what they imported."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as told:
        os.environ[_TELL] = told.name
        for kind in kinds()[:3]:
            for command in kind.commands:
                _case(kind, command, _SOUND)
        del os.environ[_TELL]
        names = told.read().split()
    for name in dict.fromkeys(names):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _cached_machine(folder: Path) -> Path:
    from mnv4_deploy.profiles.machine import cache

    os.environ["MNV4_DEPLOY_CACHE"] = str(folder)
    return cache.save_machine(MACHINE)


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
    import hashlib

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


def main() -> None:
    """``COUNT SEED [KIND]``: one JSON line a case on standard output."""
    per_kind, seed = int(sys.argv[1]), int(sys.argv[2])
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    results = os.fdopen(os.dup(1), "w")
    _prepare()
    _import_what_commands_import()
    for case in run(per_kind, seed, only):
        results.write(json.dumps({**case.__dict__, "accepted": case.accepted}) + "\n")
        results.flush()


def counts(cases: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """How many cases of each kind ended how."""
    found: dict[str, Counter[str]] = {}
    for case in cases:
        found.setdefault(case["kind"], Counter())[case["outcome"]] += 1
    return found


if __name__ == "__main__":
    main()
