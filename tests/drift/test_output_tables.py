"""JSON, CSV, overlay and the folder they go to: every figure is the record's own."""

import csv
import io
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from mnv4_deploy.errors import OutputError
from mnv4_deploy.layers.records import Agreement, LayerDrift
from mnv4_deploy.models.source import ZooSource
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.reports.drift.drift_json import SCHEMA_VERSION, drift_to_dict
from mnv4_deploy.reports.drift.layer_rows import COLUMNS, rows_of, write_csv
from mnv4_deploy.reports.drift.model_explorer import node_data
from mnv4_deploy.reports.drift.write import MANIFEST, NAMES, write_outputs
from mnv4_deploy.tasks.classification.records import ImageChange, OutputDrift
from tests.drift.drift_factory import (
    HOSTILE,
    make_layers,
    make_result,
    make_subject,
    output_of,
    with_names,
)


def without_file(result):
    """The candidate as a PyTorch model, so that no model file is looked for."""
    return replace(result, candidate=make_subject("torch", "hybrid-m"))


def texts_of(value):
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in texts_of(part)]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def csv_rows(layers):
    stream = io.StringIO(newline="")
    write_csv(layers, stream)
    return list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))


def test_json_has_every_field_of_the_records() -> None:
    result = make_result()
    document = drift_to_dict(result)
    assert document["schema_version"] == SCHEMA_VERSION == 2
    assert set(document["output"]) == {field.name for field in fields(OutputDrift)}
    layer = document["layers"]["layers"][13]
    assert set(layer) == {field.name for field in fields(LayerDrift)} | {"damage"}
    record = result.layers.layers[13]
    assert layer["accumulated"] == {
        "sqnr_db": record.accumulated.sqnr_db,
        "cosine": record.accumulated.cosine,
    }
    peaks = record.evidence.channel_peaks.astype(np.float32)
    assert layer["evidence"]["channel_peaks"] == pytest.approx(peaks.tolist(), rel=1e-6)
    assert layer["evidence"]["channel_peaks"][17] == 96.5
    assert layer["damage"] == pytest.approx(10**-1.15)
    assert layer["cause"]["kind"] == "outlier channel"
    assert document["layers"]["ranking"][0]["layer"] == 13
    assert document["metrics"]["top1_drop"] == document["output"]["top1_drop"]
    assert document["failed"] is True
    assert [limit["exceeded"] for limit in document["limits"]] == [True, False]
    assert document["run"]["resumed_images"] == 400
    assert document["reference"]["preprocessing"]["height"] == 96
    assert set(document["output"]["worst"][0]) == {f.name for f in fields(ImageChange)} - {"path"}
    assert document["task"] == "classification"
    assert (document["reference"]["model"], document["candidate"]["model"]) == ("hybrid-m", "")
    assert document["candidate"]["inputs"][0]["scale"] == [0.0186]
    assert document["candidate"]["outputs"][0]["shape"] == [1, 12]
    assert "numpy" in document["tools"]


def test_json_is_strict_and_the_same_every_time() -> None:
    texts = {json.dumps(drift_to_dict(make_result()), allow_nan=False) for _ in range(2)}
    assert len(texts) == 1


def test_json_has_null_for_what_is_no_number() -> None:
    result = make_result()
    output = replace(output_of(result), kl=math.nan, cosine=-math.inf, top1_drop=np.float64(1.5))
    layer = replace(result.layers.layers[0], isolated=Agreement(math.inf, math.nan))
    layer = replace(
        layer, evidence=replace(layer.evidence, channel_peaks=np.array([1.0, math.nan]))
    )
    result = replace(result, output=output, layers=replace(make_layers(), layers=(layer,)))
    document = json.loads(json.dumps(drift_to_dict(result), allow_nan=False))
    assert document["output"]["kl"] is document["output"]["cosine"] is None
    assert document["metrics"]["kl"] is None
    assert document["output"]["top1_drop"] == 1.5
    assert document["layers"]["layers"][0]["isolated"] == {"sqnr_db": None, "cosine": None}
    assert document["layers"]["layers"][0]["evidence"]["channel_peaks"] == [1.0, None]


def test_json_names_no_folder_of_this_machine(tmp_path) -> None:
    result = make_result(folder=tmp_path)
    source = ZooSource("/home/someone/net.py", weights="/home/someone/best.pth")
    weights = replace(result.reference, source=source)
    windows = replace(result.candidate, path="C:\\Users\\someone\\m.tflite")
    document = drift_to_dict(replace(result, reference=weights, candidate=windows))
    assert document["reference"]["weights"] == "best.pth"
    assert document["reference"]["model"] == "net.py"
    assert document["candidate"]["file"] == "m.tflite"
    assert not [t for t in texts_of(document) if "someone" in t or str(tmp_path) in t]


def test_json_without_labels_and_layers() -> None:
    document = drift_to_dict(make_result(labelled=False, layers=False))
    assert document["layers"] is None
    assert document["output"]["reference"] is document["output"]["flips"] is None
    assert document["output"]["classes"] == []
    assert document["metrics"]["top1"] is None
    assert document["output"]["agreement"]["total"] == 1000


def test_json_keeps_names_as_the_files_have_them() -> None:
    document = drift_to_dict(with_names(make_result(), HOSTILE))
    assert document["layers"]["layers"][0]["module"] == HOSTILE
    assert document["skipped"][0]["name"] == HOSTILE


def test_csv_has_every_layer_and_the_records_own_figures() -> None:
    layers = make_layers()
    rows = csv_rows(layers)
    assert tuple(rows[0]) == COLUMNS
    assert [row["module"] for row in rows] == [layer.module for layer in layers.layers]
    worst = rows[13]
    assert (worst["rank"], worst["cause"]) == ("1", "outlier channel")
    assert float(worst["isolated_sqnr_db"]) == pytest.approx(11.5)
    assert float(worst["damage_percent"]) == pytest.approx(100 * 10**-1.15)
    assert worst["shape"] == "x".join(map(str, layers.layers[13].shape))
    ranks = sorted(range(len(rows)), key=lambda at: int(rows[at]["rank"]))
    # Layers that did not run alone come last: their figure has others' noise in it.
    keys = [(not rows[at]["isolated_sqnr_db"], -float(rows[at]["damage_percent"])) for at in ranks]
    assert keys == sorted(keys)
    softmax = next(row for row in rows if row["kind"] == "SOFTMAX")
    assert softmax["range_used_percent"] == softmax["weight_sqnr_db"] == ""
    odd = replace(layers.layers[0], isolated=Agreement(math.nan, math.inf))
    (row,) = csv_rows(replace(layers, layers=(odd,)))
    assert row["isolated_sqnr_db"] == row["isolated_cosine"] == ""
    assert all(tuple(row) == COLUMNS for row in rows_of(layers))


def test_csv_defuses_what_a_spreadsheet_would_run() -> None:
    (first, *_) = csv_rows(with_names(make_result(), "=cmd()\u202e\n|' /C calc'!A0").layers)
    assert first["module"] == first["tensor"] == first["advice"] == "'=cmd() |' /C calc'!A0"


def graph_of(format_, *ops):
    """A chain: each of ``ops`` (kind, name) makes the tensor ``t1``, ``t2``, … from the last."""
    tensors = tuple(Tensor(f"t{i}", (1,), "int8") for i in range(len(ops) + 1))
    made = tuple(Operator(i, kind, name, (i,), (i + 1,)) for i, (kind, name) in enumerate(ops))
    return ModelGraph(format_, tensors, made, (0,), (len(ops),))


def layers_at(*kinds_and_tensors):
    layers = make_layers()
    return replace(
        layers,
        ranking=(),
        layers=tuple(
            replace(layer, kind=kind, tensor=tensor)
            for layer, (kind, tensor) in zip(layers.layers, kinds_and_tensors, strict=False)
        ),
    )


def test_overlay_of_tflite_stands_at_operator_numbers() -> None:
    graph = graph_of("tflite", ("CONV_2D", ""), ("RELU", ""), ("ADD", ""))
    layers = layers_at(("CONV_2D", "t2"), ("ADD", "t3"), ("MEAN", "not in the graph"))
    document = node_data(layers, graph, "isolated")
    assert document["results"] == {
        "0": {"value": layers.layers[0].isolated.sqnr_db},
        "2": {"value": layers.layers[1].isolated.sqnr_db},
    }
    limits = [threshold["value"] for threshold in document["thresholds"]]
    assert limits == sorted(limits)
    accumulated = node_data(layers, graph, "accumulated")
    assert accumulated["results"]["2"]["value"] == layers.layers[1].accumulated.sqnr_db
    assert accumulated["name"] != document["name"]


def test_overlay_of_onnx_stands_at_node_names_behind_conversions() -> None:
    graph = graph_of(
        "onnx", ("Conv", "/stem/Conv"), ("QuantizeLinear", "q"), ("DequantizeLinear", "")
    )
    assert set(node_data(layers_at(("Conv", "t3")), graph, "isolated")["results"]) == {
        "/stem/Conv"
    }
    # A kind that is nowhere on the way: the operator that makes the tensor.
    found = node_data(layers_at(("Gelu", "t3")), graph, "isolated")
    assert set(found["results"]) == {"<node_2>"}


def test_overlay_leaves_out_layers_without_the_figure() -> None:
    layers = layers_at(("ADD", "t1"))
    layers = replace(layers, layers=(replace(layers.layers[0], isolated=None),))
    graph = graph_of("tflite", ("ADD", ""))
    assert node_data(layers, graph, "isolated")["results"] == {}
    assert set(node_data(layers, graph, "accumulated")["results"]) == {"0"}


def test_overlay_survives_a_graph_that_runs_in_a_circle() -> None:
    tensors = (Tensor("t0", (1,), "int8"),)
    graph = ModelGraph("tflite", tensors, (Operator(0, "ADD", "", (0,), (0,)),), (0,), (0,))
    assert set(node_data(layers_at(("MUL", "t0")), graph, "isolated")["results"]) == {"0"}


def test_a_folder_gets_every_file_and_a_list_of_them(tmp_path) -> None:
    result = without_file(make_result())
    written = write_outputs(result, tmp_path / "out", overwrite=False)
    names = [path.name for path in written]
    assert names == ["drift.json", "drift-layers.csv", "drift-report.html"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    document = json.loads((tmp_path / "out" / MANIFEST).read_text("utf-8"))
    assert [entry["file"] for entry in document["files"]] == names
    assert set(names) < set(NAMES)


def test_without_layers_there_is_no_table_of_them(tmp_path) -> None:
    write_outputs(make_result(layers=False), tmp_path, overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {"drift.json", "drift-report.html"}


def test_the_overlays_are_of_the_candidates_file(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"
    ]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx"
    )
    result = replace(
        make_result(),
        candidate=make_subject("onnx", "m.onnx", path=str(tmp_path / "m.onnx")),
        layers=layers_at(("Relu", "y")),
    )
    written = write_outputs(result, tmp_path / "out", overwrite=False)
    assert [path.name for path in written] == list(NAMES)
    document = json.loads((tmp_path / "out" / "drift-model-explorer.json").read_text("utf-8"))
    assert set(document["results"]) == {"relu"}


def test_a_finished_report_is_only_replaced_on_request(tmp_path) -> None:
    (tmp_path / "profile.json").write_text("{}")
    result = without_file(make_result())
    write_outputs(result, tmp_path, overwrite=False)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(OutputError, match="already holds a drift report"):
        write_outputs(replace(result, seconds=1.0), tmp_path, overwrite=False)
    assert (tmp_path / MANIFEST).read_bytes() == before
    # The next one has no layers: the table of the first must not stay and look like its own.
    write_outputs(replace(result, layers=None), tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "drift-report.html", "drift.json", "profile.json",
    ]  # fmt: skip


def test_what_fails_half_way_leaves_nothing(tmp_path) -> None:
    result = make_result()
    missing = replace(result.candidate, path=str(tmp_path / "gone.tflite"))
    with pytest.raises(Exception, match=r"gone\.tflite"):
        write_outputs(replace(result, candidate=missing), tmp_path / "out", overwrite=False)
    assert not (tmp_path / "out").exists()
