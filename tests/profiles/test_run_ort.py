from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.run_ort import optimized_graph, profile_nodes, time_files


def test_node_times(conv_onnx: Path) -> None:
    profile = profile_nodes(conv_onnx, runs=20, warmup=3)
    executed = [node.op_type for node in optimized_graph(conv_onnx).graph.node]
    assert sorted(op.tag for op in profile.ops) == sorted(executed)
    assert all(len(op.samples_us) == 20 for op in profile.ops)
    wall_us = float(np.median(profile.profiled_wall_us))
    assert 0 < profile.operators_us <= 1.1 * wall_us


def test_int8_kernels_show(qdq_onnx: Path) -> None:
    tags = [op.tag for op in profile_nodes(qdq_onnx, runs=3).ops]
    assert tags.count("QLinearConv") == 2
    assert tags.count("Erf") == 1


def test_round_robin(conv_onnx: Path, qdq_onnx: Path) -> None:
    plain, quantized, same = time_files([conv_onnx, qdq_onnx, conv_onnx], rounds=5, burst=3)
    assert [len(r) for r in quantized.rounds_us] == [3] * 5
    assert 0.3 < same.ratio_to(plain) < 3


def test_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match=r"cannot load .*bad\.onnx") as caught:
        profile_nodes(path)
    assert "\n" not in str(caught.value)
