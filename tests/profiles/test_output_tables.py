"""CSV, JSON and overlays: every layer is there, and every figure equals the record's."""

import csv
import io
import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from mnv4_deploy.profiles.machine.published import published_machines
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.reports.profile.chrome_trace import trace_events
from mnv4_deploy.reports.profile.csv_table import COLUMNS, write_csv
from mnv4_deploy.reports.profile.kinds import FAMILIES, family_of
from mnv4_deploy.reports.profile.model_explorer import node_data
from mnv4_deploy.reports.profile.profile_json import profile_to_dict
from mnv4_deploy.terminal.compare import print_comparison
from mnv4_deploy.terminal.machine import print_machine
from mnv4_deploy.terminal.profile import print_profile
from mnv4_deploy.text import clean, plot_text, shorten, significant
from tests.profiles.comparison_factory import compared
from tests.profiles.profile_factory import MACHINE, SPECS, Spec, make_profile, with_names
from tests.widths import assert_whole_at_every_width

TOTAL_US = 6 + 255 + 61 + 99 + 2 + 84 + 19 + 0 + 41 + 7


def csv_rows(profile):
    stream = io.StringIO(newline="")
    write_csv(profile, stream)
    return list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))


def test_csv_has_every_layer_and_the_records_own_figures() -> None:
    profile = make_profile()
    rows = csv_rows(profile)
    assert tuple(rows[0]) == COLUMNS
    assert [row["op_type"] for row in rows] == [spec.op_type for spec in SPECS]
    stem = rows[1]
    assert stem["module"] == "conv_stem"
    assert float(stem["latency_us"]) == 255.0
    assert (float(stem["min_us"]), float(stem["max_us"])) == (250.0, 260.0)
    assert (float(stem["p10_us"]), float(stem["p90_us"])) == pytest.approx((251.0, 259.0))
    assert float(stem["share_percent"]) == pytest.approx(100 * 255 / TOTAL_US)
    assert int(stem["macs"]) == 7_077_888
    # 7,077,888 MACs over 864 + 49,152 + 73,728 bytes, and in 255 us.
    assert float(stem["operational_intensity"]) == pytest.approx(7_077_888 / 123_744)
    assert float(stem["gmacs_per_s"]) == pytest.approx(7_077_888 / 255e-6 / 1e9)
    assert (stem["bound"], float(stem["recoverable_us"])) == ("compute", 195.0)
    assert rows[5]["refusal"] == "int8 is not supported"
    assert sum(float(row["share_percent"]) for row in rows) == pytest.approx(100)


def test_csv_leaves_unknown_cells_empty() -> None:
    rows = csv_rows(make_profile(machine=None))
    unknown = rows[9]
    for column in ("macs", "operational_intensity", "gmacs_per_s", "bound", "recoverable_us"):
        assert unknown[column] == "", column
    dropped = rows[7]
    assert (dropped["latency_us"], dropped["gmacs_per_s"]) == ("0.0", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " \u200b="])
def test_no_csv_cell_starts_a_formula(start) -> None:
    rows = csv_rows(with_names(make_profile(), f'{start}cmd|" /C calc"!A0'))
    for row in rows:
        for column in ("module", "name", "op_type", "kernels", "refusal", "compute"):
            assert row[column].startswith("'"), column
            assert row[column].endswith('cmd|" /C calc"!A0')


def test_json_keeps_raw_samples_costs_and_the_join() -> None:
    profile = make_profile()
    document = json.loads(json.dumps(profile_to_dict(profile), allow_nan=False))
    assert document["schema_version"] == 2
    assert len(document["layers"]) == len(SPECS)
    head = document["layers"][8]
    assert head["samples_us"] == [40.0, 41.0, 42.0]
    assert head["cost"]["weight_bytes"] == 1_280_000
    assert head["bound"]["level"] == "DRAM"
    op_types = [document["file_operators"][i]["op_type"] for i in head["file_operator_indices"]]
    assert op_types == ["DEQUANTIZE", "FULLY_CONNECTED", "QUANTIZE"]
    (timing,) = head["runtime_operator_indices"]
    assert document["runtime_operators"][timing]["samples_us"] == [40.0, 41.0, 42.0]
    assert document["runtime_operators"][timing]["backend"] == head["backend"] == "xnnpack"
    assert document["layers"][9]["cost"] is None
    assert document["totals"]["macs"] == 7_077_888 + 663_552 + 2_359_296 + 1_179_648 + 1_280_000
    assert document["ceilings"]["peak_macs_per_s"]["xnnpack"]["int8"] == 180e9
    assert document["trust"]["layers_us"] == TOTAL_US
    assert document["wall"]["rounds_us"] == [list(r) for r in profile.measurement.rounds_us]
    assert document["wall"]["p50_us"] == pytest.approx(TOTAL_US * 1.02)


def test_json_has_no_nan_and_no_key_depends_on_the_machine() -> None:
    odd = make_profile(spread_percent=math.nan, unattributed_us=math.inf)
    document = profile_to_dict(odd)
    json.dumps(document, allow_nan=False)
    assert document["trust"]["spread_percent"] is None
    bare = profile_to_dict(make_profile(machine=None))
    assert bare.keys() == document.keys()
    assert bare["machine"] is None
    assert all(layer["bound"] is None for layer in bare["layers"])
    assert bare["layers"][0].keys() == document["layers"][0].keys()


def test_trace_events_add_up_and_follow_one_another() -> None:
    profile = make_profile()
    document = trace_events(profile)
    json.dumps(document, allow_nan=False)
    events = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert sum(e["dur"] for e in events) == TOTAL_US
    assert len(events) == len(SPECS) - 1  # the dropped RESHAPE did not run
    for before, after in pairwise(events):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
    tracks = {
        e["tid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"
    }
    track = {e["args"]["index"]: tracks[e["tid"]] for e in events}
    assert track[0] == "Runtime"
    assert track[1] == track[4] == "XNNPACK partition 0"
    assert track[6] == "XNNPACK partition 1"
    assert track[5] == "TFLite built-in kernels"
    assert events[1]["args"]["macs"] == 7_077_888


def test_trace_follows_the_order_of_execution_not_of_the_file() -> None:
    profile = make_profile()
    layers = list(profile.layers)
    layers[1], layers[2] = (
        replace(layers[1], timing_indices=layers[2].timing_indices),
        replace(layers[2], timing_indices=layers[1].timing_indices),
    )
    swapped = replace(profile, layers=tuple(layers))
    events = [e for e in trace_events(swapped)["traceEvents"] if e["ph"] == "X"]
    assert [e["args"]["index"] for e in events][:4] == [0, 2, 1, 3]


def test_node_data_is_keyed_by_operator_index_and_conserves_time() -> None:
    profile = make_profile()
    document = node_data(profile)
    results = document["results"]
    ops = profile.measurement.graph.ops
    assert set(results) == {str(op.index) for op in ops}
    by_kind = {op.kind: results[str(op.index)]["value"] for op in ops}
    assert by_kind["FULLY_CONNECTED"] == 41.0
    assert by_kind["DEQUANTIZE"] == by_kind["QUANTIZE"] == 0.0
    # Everything but the runtime's own 6 us, which no node of the file asked for.
    assert sum(result["value"] for result in results.values()) == TOTAL_US - 6
    assert [stop["stop"] for stop in document["gradient"]] == [0, 0.5, 1]
    assert all(stop["bgColor"].startswith("#") for stop in document["gradient"])


def test_node_data_of_onnx_is_keyed_by_node_name() -> None:
    specs = (
        Spec("Conv", name="/stem/Conv", backend="onnxruntime", partition=None),
        Spec("Relu", backend="onnxruntime", partition=None),
    )
    profile = make_profile(specs, format="onnx", path="m.onnx")
    graph = profile.measurement.graph
    unnamed = replace(graph, ops=(graph.ops[0], replace(graph.ops[1], name="")))
    profile = replace(profile, measurement=replace(profile.measurement, graph=unnamed))
    assert set(node_data(profile)["results"]) == {"/stem/Conv", "<node_1>"}


@pytest.mark.parametrize(
    ("kind", "format", "weights", "attributes", "family"),
    [
        ("CONV_2D", "tflite", (32, 1, 1, 16), {}, "pointwise"),
        ("CONV_2D", "tflite", (32, 3, 3, 16), {}, "convolution"),
        ("TRANSPOSE_CONV", "tflite", (32, 2, 2, 16), {}, "convolution"),
        ("DEPTHWISE_CONV_2D", "tflite", (1, 3, 3, 32), {}, "depthwise"),
        ("Conv", "onnx", (32, 16, 1, 1), {"group": 1}, "pointwise"),
        ("Conv", "onnx", (32, 1, 3, 3), {"group": 32}, "depthwise"),
        ("QLinearConv", "onnx", (32, 16, 3, 3), {}, "convolution"),
        ("BATCH_MATMUL", "tflite", (), {}, "matmul"),
        ("DequantizeLinear", "onnx", (), {}, "convert"),
        ("Transpose", "onnx", (), {}, "move"),
        ("MAX_POOL_2D", "tflite", (), {}, "pool"),
        ("MEAN", "tflite", (), {}, "pool"),
        ("HARD_SWISH", "tflite", (), {}, "elementwise"),
        ("SOFTMAX", "tflite", (), {}, "norm"),
        ("NON_MAX_SUPPRESSION_V4", "tflite", (), {}, "other"),
        ("TfLiteDetection", "tflite", (), {}, "other"),
    ],
)
def test_families(kind, format, weights, attributes, family) -> None:
    spec = Spec(kind, weights=weights, attributes=attributes)
    profile = make_profile((spec,), format=format)
    assert family_of(profile, profile.layers[0]).key == family


def test_every_family_has_its_own_colour() -> None:
    assert len({family.colour for family in FAMILIES}) == len(FAMILIES)


def test_nothing_measured_and_nothing_known() -> None:
    specs = (Spec("ODD", samples_us=(), cost=None), Spec("CONV_2D", samples_us=(), cost=OpCost(9)))
    for profile in (make_profile(specs, machine=None), make_profile(()), make_profile(specs)):
        assert len(csv_rows(profile)) == len(profile.layers)
        json.dumps(profile_to_dict(profile), allow_nan=False)
        assert not [e for e in trace_events(profile)["traceEvents"] if e["ph"] == "X"]
        assert all(r["value"] == 0 for r in node_data(profile)["results"].values())


def test_text_helpers() -> None:
    assert clean("a\x00b\x1b[31m\u202ec\n d\ud800") == "ab[31mc d"
    assert shorten("blocks.10.something.conv", 11) == "block….conv"
    assert len(shorten("x" * 500, 30)) == 30
    assert plot_text("$x_{1}$") == r"\$x_{1}\$"
    assert [significant(v) for v in (0, 0.0123, 1.5, 12.34, 999.6, -3.21)] == [
        "0", "0.012", "1.50", "12.3", "1000", "-3.21",
    ]  # fmt: skip


@pytest.mark.parametrize("group", ["layer", "block", "op"])
def test_figures_and_words_are_whole_at_every_width(group) -> None:
    profile = make_profile(path="model.tflite")
    assert_whole_at_every_width(
        lambda console: print_profile(profile, group_by=group, console=console)
    )


def test_a_comparison_is_whole_at_every_width() -> None:
    assert_whole_at_every_width(lambda console: print_comparison(compared(), console=console))


def test_a_machine_is_whole_at_every_width() -> None:
    assert_whole_at_every_width(
        lambda console: print_machine(MACHINE, published_machines(), console)
    )
