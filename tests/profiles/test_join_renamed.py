"""Copies of .onnx files whose nodes have names of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError, OutputError
from mnv4_deploy.profiles.graph.onnx.renamed import renamed_copy
from mnv4_deploy.profiles.join.ort_trace import trace_ort
from mnv4_deploy.profiles.runtimes.ort.session import open_session
from tests.profiles.planted_onnx import floats, helper, save

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_copy_keeps_order_and_first_names_and_leaves_the_file_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"], name="act"),
        helper.make_node("Tanh", ["a"], ["b"], name="act"),
        helper.make_node("Tanh", ["b"], ["out"]),
    ]
    path = save(tmp_path, nodes, {}, (4, 32))
    before = path.read_bytes()
    copy = renamed_copy(path, tmp_path / "copy")
    assert copy != path and path.read_bytes() == before
    assert [n.name for n in onnx.load(str(copy)).graph.node] == ["act", "act#1", "Tanh#2"]
    assert renamed_copy(copy, tmp_path / "again") == copy


def test_copy_still_finds_its_weights_in_another_file(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["out"]),
    ]
    weights = floats(32, 32)
    path = save(tmp_path, nodes, {"w": weights}, (4, 32))
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location="net.weights",
        size_threshold=0,
    )
    copy = renamed_copy(path, tmp_path / "copy")
    session = open_session(copy)
    x = floats(4, 32)
    expected = np.tanh(x @ weights)
    assert np.allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
    executed = trace_ort(copy).nodes
    assert [(node.op_type, node.ops) for node in executed] == [("MatMul", (0,)), ("Tanh", (1,))]


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 4096)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["out"])]
    path = save(inside, nodes, {"w": floats(32, 32)}, (4, 32))
    model = onnx.load(str(path))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../secret")
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"\.\./secret"):
        renamed_copy(path, tmp_path / "deep" / "copy")
    assert not (tmp_path / "deep").exists()


def test_damaged_files_and_folders_are_refused_in_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x09\xff\xff")
    with pytest.raises(ModelFileError, match=r"give an? .*\.onnx"):
        renamed_copy(broken, tmp_path)
    with pytest.raises(ModelFileError, match=r"give an? .*\.onnx"):
        trace_ort(broken)
    with pytest.raises(ModelFileError, match=r"give an? .*\.onnx"):
        renamed_copy(tmp_path / "none.onnx", tmp_path)
    path = save(tmp_path, [helper.make_node("Tanh", ["x"], ["out"])], {}, (1, 1))
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        renamed_copy(path, occupied)
