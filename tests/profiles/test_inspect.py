from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv4_deploy.errors import MissingLibraryError, ModelFileError
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.inspection.inspect_tflite import facts_from_interpreter, inspect_here
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.terminal.export import print_facts
from tests.widths import assert_whole_at_every_width

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder


def test_tflite_facts(conv_tflite: Path) -> None:
    facts = inspect_file(conv_tflite)
    assert facts.format == "tflite"
    assert facts.size_bytes == conv_tflite.stat().st_size
    assert [(t.name, t.shape, t.dtype) for t in facts.inputs] == [
        ("image", (1, 32, 32, 3), "float32")
    ]
    assert facts.outputs[0].shape == (1, 16)
    assert facts.histogram == {"CONV_2D": 2, "MEAN": 1}
    assert facts.compute_histogram == {"float32": 3}
    # Two 3x3 convolutions (3 -> 16, 16 -> 16) with bias; the two reduction axes are int32.
    assert facts.weight_bytes_by_dtype == {
        "float32": 4 * (16 * 27 + 16 + 16 * 144 + 16),
        "int32": 8,
    }
    assert facts.metadata["labels"] == "cat\ndog"
    assert (facts.partitions, facts.delegated_share) == (1, 1.0)
    assert facts.not_delegated == ()
    json.dumps(asdict(facts))


@pytest.mark.usefixtures("no_child")
def test_graph_that_falls_apart(split_tflite: Path) -> None:
    facts = inspect_file(split_tflite)
    assert facts.partitions == 2
    assert facts.delegated_share == 3 / 4
    assert [(op.kind, op.partition) for op in facts.operators] == [
        ("CONV_2D", 0),
        ("CUMSUM", None),
        ("CONV_2D", 1),
        ("MEAN", 1),
    ]


@pytest.mark.usefixtures("no_child")
def test_quantization_of_inputs_and_outputs(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tflite.tensor("x", (1, 16), "uint8", scale=0.5, zero_point=7)
    y = tflite.tensor("y", (1, 16), "int8", scale=0.25, zero_point=-3)
    tflite.op("QUANTIZE", (x,), (y,))
    facts = inspect_file(tflite.write(tmp_path / "m.tflite", (x,), (y,)))
    assert (facts.inputs[0].scale, facts.inputs[0].zero_point) == ((0.5,), (7,))
    assert (facts.outputs[0].scale, facts.outputs[0].zero_point) == ((0.25,), (-3,))
    assert facts.operators[0].compute == "uint8->int8"
    assert facts.partitions == 0


def test_dynamic_range_weights_compute_in_integers(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tflite.tensor("x", (4, 16))
    w = tflite.tensor("w", (8, 16), "int8", scale=0.1, data=np.ones((8, 16), np.int8))
    z = tflite.tensor("z", (4, 8))
    tflite.op("FULLY_CONNECTED", (x, w, -1), (z,), "FullyConnectedOptions", version=3)
    facts = inspect_here(str(tflite.write(tmp_path / "m.tflite", (x,), (z,))))
    assert facts.operators[0].compute == "int8 dynamic"
    assert facts.weight_bytes_by_dtype == {"int8": 128}


@pytest.mark.usefixtures("no_child")
def test_content_decides_not_the_name(conv_tflite: Path, conv_onnx: Path, tmp_path: Path) -> None:
    disguised = tmp_path / "model.onnx"
    disguised.write_bytes(conv_tflite.read_bytes())
    assert inspect_file(disguised).format == "tflite"
    other = tmp_path / "model.bin"
    other.write_bytes(conv_onnx.read_bytes())
    assert inspect_file(other).format == "onnx"


@pytest.mark.usefixtures("no_child")
def test_onnx_facts(conv_onnx: Path) -> None:
    facts = inspect_file(conv_onnx)
    assert facts.format == "onnx"
    assert facts.inputs[0].shape == ("batch", 3, 32, 32)
    assert facts.histogram == {"Conv": 2, "Relu": 1, "Erf": 1, "GlobalAveragePool": 1}
    assert facts.weight_bytes_by_dtype == {"float32": 4 * (16 * 27 + 16 * 144)}
    assert facts.metadata == {"labels": "cat,dog"}
    assert {op.compute for op in facts.operators} == {"float32"}
    assert facts.partitions is None
    assert facts.executed_histogram is not None
    # onnxruntime fuses the activation into the convolution.
    assert "Relu" not in facts.executed_histogram
    json.dumps(asdict(facts))


@pytest.mark.usefixtures("no_child")
def test_onnx_qdq_tells_int8_from_float_islands(qdq_onnx: Path) -> None:
    facts = inspect_file(qdq_onnx)
    by_kind = {op.kind: op for op in facts.operators}
    convs = [op for op in facts.operators if op.kind == "Conv"]
    assert len(convs) == 2
    assert all((op.compute, op.runs_as) == ("int8", "QLinearConv") for op in convs)
    assert by_kind["Erf"].compute == "float32"
    assert by_kind["Erf"].runs_as is None
    assert facts.executed_histogram is not None
    assert facts.executed_histogram["QLinearConv"] == 2
    # What stays of Q and DQ are the borders: the input, and the float island around Erf.
    assert facts.executed_histogram["QuantizeLinear"] == 1
    assert facts.executed_histogram["DequantizeLinear"] >= 1
    assert facts.weight_bytes_by_dtype["int8"] >= 16 * 27 + 16 * 144


def test_interpreter_alone_says_what_it_cannot_tell(split_tflite: Path) -> None:
    """tflite_runtime's Interpreter has the same methods as ai-edge-litert's."""
    from ai_edge_litert.interpreter import Interpreter

    facts = facts_from_interpreter(split_tflite, Interpreter)
    assert facts.inputs == inspect_here(str(split_tflite)).inputs
    assert "CUMSUM" in facts.histogram
    assert facts.partitions is None
    assert "tflite_runtime cannot tell" in facts.notes[0]


def test_untried_runtime_tells_what_it_delegates_too(
    split_tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking takes the interpreter alone, which is the same in every version."""
    from mnv4_deploy.profiles.runtimes.litert import library as litert_library

    litert_library.load_library.cache_clear()
    monkeypatch.setattr(litert_library, "TRIED_VERSIONS", ("0.0.0",))
    facts = inspect_here(str(split_tflite))
    litert_library.load_library.cache_clear()
    assert (facts.partitions, [op.kind for op in facts.not_delegated]) == (2, ["CUMSUM"])


def test_missing_runtime_names_the_extra(
    conv_tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    with pytest.raises(MissingLibraryError, match=r"'\.\[tflite\]'"):
        inspect_here(str(conv_tflite))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_onnx_packages(conv_onnx: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here\n"
        f"print(inspect_here({str(conv_onnx)!r}).notes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "'.[onnx]'" in done.stdout + done.stderr
    assert (done.returncode == 0) is (missing == "onnxruntime")


@pytest.mark.parametrize("content", [b"", b"x", b"hello, world\n" * 20, b"\0" * 64, b"PK\x03\x04"])
def test_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        inspect_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        inspect_file(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="is not a file"):
        inspect_file(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["conv_tflite", "conv_onnx"])
def test_truncated(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, share: float
) -> None:
    whole = request.getfixturevalue(kind).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    with pytest.raises(ModelFileError) as caught:
        inspect_file(path)
    assert str(path) in str(caught.value)


def test_truncated_flatbuffer_at_every_length(conv_tflite: Path, tmp_path: Path) -> None:
    """The parser alone, in this process: ModelFileError or, where only padding is cut, a graph."""
    whole = conv_tflite.read_bytes()
    expected = read_tflite(conv_tflite)
    path = tmp_path / "cut.tflite"
    accepted = 0
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        try:
            graph = read_tflite(path)
        except ModelFileError:
            continue
        assert graph.ops == expected.ops
        accepted += 1
    assert accepted <= 1


@pytest.mark.parametrize("kind", ["conv_tflite", "conv_onnx"])
def test_flipped_bytes_never_crash_the_caller(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    whole = request.getfixturevalue(kind).read_bytes()
    rng = random.Random(5)
    outcomes = set()
    for attempt in range(12):
        damaged = bytearray(whole)
        # Structure sits at both ends of the files, weights in the middle.
        for _ in range(24):
            position = rng.randrange(8, 600) if rng.random() < 0.5 else rng.randrange(len(whole))
            damaged[position] = rng.randrange(256)
        path = tmp_path / f"{attempt}.bin"
        path.write_bytes(bytes(damaged))
        try:
            inspect_file(path, timeout_s=30)
            outcomes.add("read")
        except ModelFileError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_native_crash_while_inspecting_is_the_files_fault(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="damaged"):
        run_isolated(os.abort, subject=str(tmp_path / "m.tflite"))


@pytest.mark.usefixtures("no_child")
def test_custom_operator_is_listed_though_it_cannot_run(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x = tflite.tensor("x", (4, 16))
    y = tflite.tensor("y", (4, 16))
    tflite.op("CUSTOM", (x,), (y,), custom="MyTransform")
    facts = inspect_file(tflite.write(tmp_path / "m.tflite", (x,), (y,)))
    assert facts.histogram == {"MyTransform": 1}
    assert facts.partitions is None
    assert "MyTransform" in facts.notes[0]


@pytest.mark.usefixtures("no_child")
def test_onnx_operator_unknown_to_onnxruntime(tmp_path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MyTransform", ["x"], ["y"], domain="my.domain")],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [4])],
        [value("y", onnx.TensorProto.FLOAT, [4])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("my.domain", 1)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    facts = inspect_file(path)
    assert facts.histogram == {"MyTransform": 1}
    assert facts.executed_histogram is None
    assert "MyTransform" in facts.notes[0]


def test_figures_and_words_are_whole_at_every_width(
    split_tflite: Path, qdq_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (split_tflite, qdq_onnx):
        monkeypatch.chdir(path.parent)
        facts = inspect_file(path.name)
        assert_whole_at_every_width(partial(print_facts, facts))
