"""A profile of a runtime that gives no times of operators: what is known, and nothing else."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts, DeviceRun, DeviceState
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.records.profile import Conditions, Measurement, ModelProfile
from mnv4_deploy.profiles.records.timing import OpProfile
from mnv4_deploy.profiles.roofline.analyse import analyse
from mnv4_deploy.reports.plots.roofline_data import ceiling_lines, points_of
from mnv4_deploy.reports.profile.chrome_trace import trace_events
from mnv4_deploy.reports.profile.csv_table import COLUMNS, write_csv
from mnv4_deploy.reports.profile.device_text import device_facts, device_title
from mnv4_deploy.reports.profile.model_explorer import node_data
from mnv4_deploy.reports.profile.profile_json import profile_to_dict
from mnv4_deploy.terminal.profile import print_profile
from tests.browser import browse, needs_chromium
from tests.profiles.profile_factory import MACHINE, make_profile

HOSTILE = "</script><b>[red]x[/] $y$ \x1b[31m\u202e=cmd()"
WALL_US = 250.0
# 8x8 outputs of 32 channels from 3x3x16 inputs each; and 32 products for each of 10 outputs.
CONV_MACS, DENSE_MACS = 8 * 8 * 32 * 9 * 16, 32 * 10
CONV_BYTES = 8 * 8 * 16 + 32 * 9 * 16 + 8 * 8 * 32

RUN = DeviceRun(
    DeviceAddress("ssh", "pi@board", "ssh://pi@board"),
    DeviceFacts(
        title="Raspberry Pi 4 Model B",
        system="Debian GNU/Linux 12, Linux 6.1",
        architecture="aarch64",
        cpu="Cortex-A72",
        runtimes={"tflite-runtime": "2.14.0"},
        fingerprint="0123",
        python="3.11.2",
    ),
    DeviceState({"policy0": "ondemand"}, {"policy0": (600.0, 1800.0)}, {"cpu-thermal": 48.25}),
    DeviceState({"policy0": "ondemand"}, {"policy0": (1800.0, 1800.0)}, {"cpu-thermal": 61.0}),
    ("The clock follows the load.",),
)


def measurement(device: DeviceRun | None = None) -> Measurement:
    tensors = (
        Tensor("x", (1, 8, 8, 16), "int8"),
        Tensor("w", (32, 3, 3, 16), "int8", constant=True),
        Tensor("y", (1, 8, 8, 32), "int8"),
        Tensor("odd", (1, 32), "int8"),
        Tensor("v", (10, 32), "int8", constant=True),
        Tensor("z", (1, 10), "int8"),
    )
    ops = (
        Operator(0, "CONV_2D", "y", (0, 1), (2,), {"padding": "SAME"}),
        Operator(1, "SOMETHING_ODD", "odd", (2,), (3,)),
        Operator(2, "FULLY_CONNECTED", "z", (3, 4), (5,)),
    )
    rounds = ((WALL_US, 260.0), (270.0, 300.0))
    return Measurement(
        path="models/net.tflite",
        format="tflite",
        runtime="tflite-runtime 2.14.0",
        size_bytes=1000,
        sha256="ab" * 32,
        threads=1,
        cpus=(0,),
        graph=ModelGraph("tflite", tensors, ops, (0,), (5,)),
        profile=OpProfile("models/net.tflite", "tflite-runtime 2.14.0", 1, ()),
        layers=(),
        rounds_us=rounds,
        profiled_rounds_us=(),
        conditions=Conditions((1000.0, 1001.0)),
        notes=("tflite-runtime 2.14.0 gives no times of operators: give --setup.",),
        device=device,
    )


def printed(profile: ModelProfile) -> str:
    stream = io.StringIO()
    print_profile(profile, console=Console(file=stream, width=100, color_system=None))
    return stream.getvalue()


def test_the_whole_is_what_the_file_adds_up_to() -> None:
    profile = analyse(measurement(), MACHINE)
    assert (profile.layers, profile.bounded, profile.findings) == ((), False, ())
    assert profile.whole is not None
    assert profile.rows == (profile.whole,)
    assert profile.whole.latency_us == WALL_US
    assert profile.whole.compute == "int8"
    assert profile.total_cost.macs == CONV_MACS + DENSE_MACS
    assert profile.total_cost.bytes == CONV_BYTES + 32 + 10 * 32 + 10
    assert profile.unknown_op_types == ("SOMETHING_ODD",)
    assert profile.machine is MACHINE


def test_a_profile_with_layers_has_no_whole() -> None:
    profile = make_profile()
    again = analyse(profile.measurement, MACHINE)
    assert again.whole is None
    assert again.rows == again.layers
    assert len(again.layers) == len(profile.layers)


def test_trust_says_nothing_of_a_profiler() -> None:
    trust = analyse(measurement(), MACHINE).trust
    for name in ("profiled_wall_us", "overhead_percent", "layers_us", "sum_percent"):
        assert math.isnan(getattr(trust, name)), name
    assert math.isnan(trust.unattributed_us)
    assert (trust.wall_us, trust.runs) == (WALL_US, 4)
    # Medians of 255 and 285 around 270.
    assert trust.spread_percent == pytest.approx(100 * 30 / 270)
    assert [w for w in trust.warnings if "noisy" not in w] == []


def test_json_has_null_for_what_is_not_known() -> None:
    text = json.dumps(profile_to_dict(analyse(measurement(RUN), None)), allow_nan=False)
    found = json.loads(text)
    assert (found["layers"], found["findings"], found["runtime_operators"]) == ([], [], [])
    assert found["trust"]["sum_percent"] is None
    assert found["trust"]["overhead_percent"] is None
    assert found["wall"]["p50_us"] == 265.0
    assert found["wall"]["profiled_rounds_us"] == []
    assert found["totals"]["macs"] == CONV_MACS + DENSE_MACS
    assert len(found["file_operators"]) == 3
    device = found["device"]
    assert device["address"]["text"] == "ssh://pi@board"
    assert device["facts"]["title"] == "Raspberry Pi 4 Model B"
    assert device["before"]["clocks_mhz"] == {"policy0": [600.0, 1800.0]}
    assert device["after"]["temperatures_c"] == {"cpu-thermal": 61.0}
    assert device["warnings"] == ["The clock follows the load."]


def test_json_of_this_machine_has_no_device() -> None:
    assert profile_to_dict(make_profile())["device"] is None


def test_tables_and_overlays_are_empty() -> None:
    profile = analyse(measurement(), MACHINE)
    stream = io.StringIO()
    write_csv(profile, stream)
    assert stream.getvalue() == ",".join(COLUMNS) + "\n"
    assert node_data(profile)["results"] == {}
    assert [event["ph"] for event in trace_events(profile)["traceEvents"]] == ["M"]


def test_terminal_gives_the_figures_and_says_why_no_table() -> None:
    text = printed(analyse(measurement(), MACHINE))
    assert "0.25 ms fastest of 4 runs (p10 0.25, p50 0.27, p90 0.29)" in text
    assert "0.3 MMACs" in text
    assert "No times of layers: the runtime gives none of operators." in text
    assert "note: tflite-runtime 2.14.0 gives no times of operators: give --setup." in text
    assert "Cost unknown: SOMETHING_ODD" in text
    for absent in ("nan", "add up to", "unattributed", "recoverable", "GMAC/s  ", "would help"):
        assert absent not in text


def test_terminal_names_the_device_and_its_warnings() -> None:
    text = printed(analyse(measurement(RUN), None))
    lines = text.splitlines()
    assert lines[2] == (
        "on Raspberry Pi 4 Model B, Debian GNU/Linux 12, Linux 6.1, Cortex-A72  ssh://pi@board"
    )
    assert "warning: The clock follows the load." in lines
    local = make_profile()
    assert "\non " not in printed(local)
    assert "on Raspberry Pi 4" in printed(
        replace(local, measurement=replace(local.measurement, device=RUN))
    )


def test_facts_of_a_device_before_and_after() -> None:
    facts = dict(device_facts(RUN))
    assert facts["Governor, policy0"] == "ondemand"
    assert facts["Clock, policy0"] == "600 of 1800 MHz before, 1800 of 1800 MHz after"
    assert facts["Temperature, cpu-thermal"] == "48.2 C before, 61.0 C after"
    assert facts["Runtimes"] == "tflite-runtime 2.14.0"
    assert not {"Memory", "Emulated by", "Throttled, system"} & set(facts)
    throttled = replace(RUN, after=replace(RUN.after, throttled="it is throttled"))
    assert dict(device_facts(throttled))["Throttled, system"] == "– before, it is throttled after"


def _hostile() -> DeviceRun:
    facts = replace(
        RUN.facts, title=HOSTILE, system=HOSTILE, cpu=HOSTILE, runtimes={HOSTILE: HOSTILE}
    )
    state = DeviceState({HOSTILE: HOSTILE}, {HOSTILE: (1.0, 2.0)}, {HOSTILE: 3.0}, HOSTILE)
    return DeviceRun(RUN.address, facts, state, state, (HOSTILE,))


def test_a_device_cannot_write_to_the_terminal() -> None:
    hostile = _hostile()
    measured = replace(measurement(hostile), runtime=HOSTILE, notes=(HOSTILE,))
    text = printed(analyse(measured, None))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[red]x[/]") >= 4
    assert device_title(hostile).count("x") == 1  # the same three times is said once


def test_the_roofline_has_the_model_as_its_only_point() -> None:
    profile = analyse(measurement(), MACHINE)
    (point,) = points_of(profile)
    assert point.gmacs_per_s == pytest.approx((CONV_MACS + DENSE_MACS) / WALL_US / 1e3)
    assert point.intensity == pytest.approx(profile.total_cost.operational_intensity)
    assert "int8 peak of XNNPACK: 180 GMAC/s" in [line.label for line in ceiling_lines(profile)]


@pytest.mark.parametrize("machine", [None, MACHINE])
def test_the_picture_says_what_its_mark_is(machine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mnv4_deploy.reports.plots.roofline_plot import save_roofline

    path = tmp_path / "roofline.svg"
    save_roofline(analyse(measurement(), machine), (path,))
    text = path.read_text(encoding="utf-8")
    assert "the mark is the model as a whole" in text
    assert "The model as a whole" in text
    assert "No times of layers" in text
    assert "Layers with MACs" not in text
    assert ("no lines are drawn" in text) is (machine is None)


@needs_chromium
@pytest.mark.parametrize("device", [RUN, _hostile()], ids=["plain", "hostile"])
def test_the_page_shows_the_whole_and_the_device(device: DeviceRun, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from mnv4_deploy.reports.profile.html_report import write_report

    path = tmp_path / "report.html"
    write_report(analyse(measurement(device), MACHINE), path)
    page = browse(path)
    body = page.split("<body>")[1].split("<script>")[0]
    body = re.sub(r'src="data:[^"]*"', "", body)  # a picture, which base64 may spell "nan" in
    assert "The mark is the model as a whole." in body
    assert "No times of layers" in body
    assert 'class="main-svg"' in body
    assert "All layers" not in body
    assert "<table" not in body
    assert "nan" not in body.lower().replace("nanosecond", "")
    assert "<h2>Device</h2>" in body
    if device is RUN:
        assert "600 of 1800 MHz before, 1800 of 1800 MHz after" in body
        assert "Raspberry Pi 4 Model B" in body.split("</header>")[0]
        assert "The clock follows the load." in body.split("</header>")[0]
    else:
        assert "<b>[red]" not in body
