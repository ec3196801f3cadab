"""Files on several devices: what is compared, what is written, what fails for one device only."""

import csv
import hashlib
import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from mnv4_deploy.errors import ModelFileError, OutputError, ToolchainError, UnsupportedError
from mnv4_deploy.pipelines.compare_devices import DevicesRequest, bound_shares, compare_devices
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts, DeviceRun, DeviceState
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.progress import Progress
from mnv4_deploy.terminal.devices import print_device, print_devices
from tests.profiles.profile_factory import make_profile
from tests.widths import assert_whole_at_every_width

QUIET = Progress(show=False)


class FakeDevice:
    """A device whose profiles are made up; ``times`` slower than those of the factory."""

    def __init__(self, name, times):
        self.facts = DeviceFacts(f"Board {name}", "Linux", "aarch64", "A76", {}, name)
        self.name, self.times, self.closed = name, times, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


@pytest.fixture
def devices(monkeypatch):
    """Devices by address; each profile's wall time is ``times`` times 1000 us per file letter."""
    found = {name: FakeDevice(name, times) for name, times in (("ssh://a", 1), ("ssh://b", 3))}

    def profile_on(device, request, _progress, **_):
        assert not any(other.closed is False and other is not device for other in opened)
        if device.name == "ssh://b" and "large" in request.path:
            raise UnsupportedError("too large")
        profile = make_profile()
        run = DeviceRun(
            DeviceAddress("ssh", "x", device.name),
            device.facts,
            DeviceState(),
            DeviceState(),
            ("It throttled.",) if device.times > 1 else (),
        )
        return replace(
            profile,
            measurement=replace(profile.measurement, path=request.path, device=run),
            trust=replace(profile.trust, wall_us=1000.0 * device.times),
        )

    opened = []

    def open_device(text, _options, _note):
        if text not in found:
            raise ToolchainError("gone")
        opened.append(found[text])
        return found[text]

    monkeypatch.setattr("mnv4_deploy.device.open.open_device", open_device)
    monkeypatch.setattr("mnv4_deploy.pipelines.profile.profile_on", profile_on)
    return found


def models(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes(b"\x1c\x00\x00\x00TFL3" + name.encode())
    return tuple(MeasureRequest(str(tmp_path / name)) for name in names)


def test_every_file_runs_on_every_device_and_each_is_left_before_the_next(devices, tmp_path):
    files = models(tmp_path, "a.tflite", "b.tflite")
    result = compare_devices(DevicesRequest(files, tuple(devices)), QUIET)
    assert [d.device for d in result.devices] == ["ssh://a", "ssh://b"]
    assert all(set(d.profiles) == {f.path for f in files} for d in result.devices)
    assert all(device.closed for device in devices.values())
    assert result.ranked_on[files[0].path] == ("ssh://a", "ssh://b")


def test_a_file_that_one_device_cannot_run_is_said_and_the_rest_goes_on(devices, tmp_path):
    files = models(tmp_path, "large.tflite", "b.tflite")
    result = compare_devices(DevicesRequest(files, tuple(devices)), QUIET)
    assert result.devices[1].errors == {files[0].path: "too large"}
    assert files[1].path in result.devices[1].profiles
    text = shown(result)
    assert "failed: ssh://b, large.tflite: too large" in text
    assert "It throttled." in text


@pytest.mark.usefixtures("devices")
def test_a_file_that_no_device_can_run_is_an_error(tmp_path):
    with pytest.raises(UnsupportedError, match=r"No device can run .*large.*: too large"):
        compare_devices(DevicesRequest(models(tmp_path, "large.tflite"), ("ssh://b",)), QUIET)


@pytest.mark.usefixtures("devices")
def test_a_lost_device_ends_the_comparison(tmp_path):
    with pytest.raises(ToolchainError, match="gone"):
        compare_devices(DevicesRequest(models(tmp_path, "a.tflite"), ("ssh://lost",)), QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": ("ssh://a", "ssh://a")}, "ssh://a is given twice"),
        ({"accuracy_percent": {"other.tflite": 70.0}}, "not among the files"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_device_is_asked(
    devices, tmp_path, change, message
):
    request = DevicesRequest(models(tmp_path, "a.tflite"), ("ssh://a",))
    with pytest.raises(UnsupportedError, match=message):
        compare_devices(replace(request, **change), QUIET)
    assert not devices["ssh://a"].closed


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("percent", [-1.0, 101.0, float("nan")])
def test_an_accuracy_is_a_percentage(tmp_path, percent):
    files = models(tmp_path, "a.tflite")
    with pytest.raises(UnsupportedError, match="no percentage"):
        compare_devices(
            DevicesRequest(files, ("ssh://a",), accuracy_percent={files[0].path: percent}), QUIET
        )


@pytest.mark.usefixtures("devices")
def test_a_file_twice_or_missing_is_refused(tmp_path):
    files = models(tmp_path, "a.tflite")
    with pytest.raises(UnsupportedError, match="given twice"):
        compare_devices(DevicesRequest(files * 2, ("ssh://a",)), QUIET)
    with pytest.raises(ModelFileError, match="does not exist"):
        compare_devices(DevicesRequest((MeasureRequest("no.tflite"),), ("ssh://a",)), QUIET)


def manifest(tmp_path, *files, unit="%"):
    """One of an export of these files, whose names tell their precision."""
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "files": [
                    {
                        "file": name,
                        "precision": "float32" if "fp32" in name else "int8",
                        "sha256": sha256,
                    }
                    for name, sha256 in files
                ],
                "task": {
                    "name": "depth",
                    "accuracy": "close",
                    "accuracy_reference": "close_reference",
                    "unit": unit,
                    "title": "close pixels",
                },
                "drift": [
                    {
                        "subject": "m-int8.tflite",
                        "images": 500,
                        "figures": {"close": 71.5, "close_reference": 72.0},
                    }
                ],
            }
        )
    )


def digest_of(tmp_path, name):
    return name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.usefixtures("devices")
def test_accuracy_is_what_the_export_of_this_very_file_measured(tmp_path):
    names = ("m-int8.tflite", "m-fp32.tflite")
    files = models(tmp_path, *names)
    request = DevicesRequest(files, ("ssh://a",))
    manifest(tmp_path, *(digest_of(tmp_path, name) for name in names))
    int8, float32 = compare_devices(request, QUIET).accuracy.values()
    assert (int8.value, int8.unit, int8.title) == (71.5, "%", "close pixels")
    assert int8.source == "measured by the export on 500 images"
    assert float32.value == 72.0
    manifest(tmp_path, *((name, "0" * 64) for name in names))
    assert compare_devices(request, QUIET).accuracy == {}


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("unit", ["%", "mm"])
def test_a_plot_is_of_one_kind_of_accuracy(tmp_path, unit):
    """One file's is from its manifest, in ``unit``; the other's is given, in percent."""
    names = ("m-int8.tflite", "other.tflite")
    files = models(tmp_path, *names)
    manifest(tmp_path, digest_of(tmp_path, names[0]), unit=unit)
    out = tmp_path / "out"
    compare_devices(
        DevicesRequest(files, ("ssh://a",), accuracy_percent={files[1].path: 64.0}, out=out), QUIET
    )
    document = json.loads((out / "comparison.json").read_text())
    assert [(row["accuracy"], row["accuracy_unit"]) for row in document["figures"]] == [
        (71.5, unit),
        (64.0, "%"),
    ]
    plots = {p.name for p in out.glob("pareto.*")}
    assert plots == ({"pareto.png", "pareto.svg"} if unit == "%" else set())
    if plots:
        assert "close pixels (%)" in (out / "pareto.svg").read_text()


def test_outputs(devices, tmp_path):
    files = models(tmp_path, "=a.tflite", "large.tflite")
    out = tmp_path / "out"
    request = DevicesRequest(
        files, tuple(devices), accuracy_percent={files[0].path: 70.0, files[1].path: 80.0}, out=out
    )
    compare_devices(request, QUIET)
    assert {p.name for p in out.iterdir()} == {
        *("comparison.json", "comparison.csv", "pareto.png", "pareto.svg")
    }
    document = json.loads((out / "comparison.json").read_text())
    by_key = {(row["device"], row["file"]): row for row in document["figures"]}
    assert by_key["ssh://b", files[0].path]["latency_us"] == 3000.0
    assert by_key["ssh://b", files[1].path]["error"] == "too large"
    assert {f["file"] for f in document["files"]} == {p.name for p in out.iterdir()}
    rows = list(csv.DictReader((out / "comparison.csv").open(newline="")))
    assert len(rows) == 4
    assert rows[1]["warnings"] == "It throttled."
    svg = (out / "pareto.svg").read_text()
    assert "Board ssh://a" in svg
    assert "large.tflite" in svg
    with pytest.raises(OutputError, match="already holds a comparison"):
        compare_devices(request, QUIET)
    compare_devices(replace(request, overwrite=True), QUIET)


@pytest.mark.usefixtures("devices")
def test_without_an_accuracy_there_is_no_plot(tmp_path):
    out = tmp_path / "out"
    compare_devices(DevicesRequest(models(tmp_path, "a.tflite"), ("ssh://a",), out=out), QUIET)
    assert {p.name for p in out.iterdir()} == {"comparison.json", "comparison.csv"}


def test_bound_shares_are_of_the_layers_time():
    profile = make_profile()
    total_us = sum(layer.latency_us for layer in profile.layers)
    shares = bound_shares(profile)
    for limit in ("compute", "memory", "overhead"):
        mine = sum(
            layer.latency_us
            for layer in profile.layers
            if layer.bound and layer.bound.limit == limit
        )
        assert shares[limit] == pytest.approx(100 * mine / total_us)
    assert set(bound_shares(make_profile(machine=None)).values()) == {None}


def shown(result):
    stream = StringIO()
    print_devices(result, console=Console(file=stream, width=160))
    return stream.getvalue()


def test_the_table_has_latencies_their_ratio_and_the_ranking(devices, tmp_path):
    files = models(tmp_path, "a.tflite")
    text = shown(compare_devices(DevicesRequest(files, tuple(devices)), QUIET))
    line = next(line for line in text.splitlines() if line.startswith("a.tflite"))
    assert "1.00" in line
    assert line.rstrip().endswith("3.00")
    assert "Spearman's rho 1.00" in text
    assert "conv_stem" in text


@pytest.mark.usefixtures("devices")
def test_names_are_shown_as_they_are(tmp_path):
    files = models(tmp_path, "[red]a.tflite")
    assert "[red]a.tflite" in shown(compare_devices(DevicesRequest(files, ("ssh://a",)), QUIET))


def test_a_device_is_shown_with_its_clocks_and_heat():
    facts = DeviceFacts(
        "Pi [5]", "Linux 6.1", "aarch64", "Cortex-A76", {"onnxruntime": "1.31"}, "f", "3.11.2"
    )
    state = DeviceState({"policy0": "ondemand"}, {"policy0": (600.0, 2400.0)}, {"cpu": 51.25})
    stream = StringIO()
    print_device("ssh://pi", facts, state, Console(file=stream, width=100))
    text = stream.getvalue()
    for part in ("Pi [5]", "onnxruntime 1.31", "policy0: 600 of 2400 MHz", "cpu: 51.2 °C"):
        assert part in text
    assert "throttled" not in text


def test_figures_and_words_are_whole_at_every_width(devices, tmp_path):
    files = models(tmp_path, "a.tflite", "large.tflite")
    result = compare_devices(DevicesRequest(files, tuple(devices)), QUIET)
    assert_whole_at_every_width(lambda console: print_devices(result, console=console))
    facts = DeviceFacts("Pi", "Linux", "aarch64", "A76", {"onnxruntime": "1.31"}, "f", "3.11")
    state = DeviceState({}, {"policy0": (600.0, 2400.0)}, {"cpu": 51.25})
    assert_whole_at_every_width(lambda console: print_device("ssh://pi", facts, state, console))
