"""The profiling commands: what they print to people and programs, and what they refuse."""

import csv
import io
import json
import re
import sys

import pytest

from mnv4_deploy.cli import app as cli
from mnv4_deploy.cli.profile import _cpus, parse_shape
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.machine import ceilings
from tests.conv_net import conv_net
from tests.profiles.profile_factory import MACHINE

pytest.importorskip("onnx")

# These files crash no runtime.
pytestmark = pytest.mark.usefixtures("no_child")
QUICK = ("--runs", "6", "--warmup", "1", "--max-seconds", "60")


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))
    return run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("onnx") / "small.onnx", 8)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("onnx") / "large.onnx", 64)


MACS_SMALL = 32 * 32 * (8 * 27 + 8 * 8)


def test_profile_as_json(run, small):
    code, out, _ = run("profile", small, "--machine", "none", "--json", *QUICK)
    assert code == 0
    content = json.loads(out)
    assert content["schema_version"] == 2
    convs = [layer for layer in content["layers"] if layer["op_type"] == "Conv"]
    assert [layer["module"] for layer in convs] == ["stem", "blocks.0.pw"]
    assert sum(layer["cost"]["macs"] for layer in convs) == MACS_SMALL
    assert all(len(layer["samples_us"]) == 6 for layer in convs)


def test_profile_as_csv(run, small):
    code, out, _ = run("profile", small, "--machine", "none", "--csv", *QUICK)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(int(row["macs"] or 0) for row in rows) == MACS_SMALL


def test_profile_for_people_fits_100_columns(run, small):
    code, out, _ = run("profile", small, "--machine", "none", *QUICK)
    assert code == 0
    table = out.split("Differences below")[0]
    assert "stem" in table and "blocks.0" in table
    assert max(len(line) for line in table.splitlines()[2:]) <= 100


@pytest.mark.parametrize("by", ["module", "block", "op"])
def test_groups_conserve_time(run, large, by):
    code, out, _ = run("profile", large, "--machine", "none", "--group-by", by, "--top", 0, *QUICK)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    header = next(i for i, row in enumerate(rows) if row[:2] == [by, "layers"])
    shares = []
    for row in rows[header + 1 :]:
        if not row:
            break
        numbers = [float(cell) for cell in row if re.fullmatch(r"-?\d+\.\d+", cell)]
        shares.append(numbers[1])
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_dynamic_shapes_need_a_shape(run, tmp_path):
    path = conv_net(tmp_path / "dynamic.onnx", 8, dynamic=True)
    code, _, err = run("profile", path, "--machine", "none", *QUICK)
    assert code == 2
    assert "--shape x=" in err and "Traceback" not in err
    code, out, _ = run(
        "profile", path, "--machine", "none", "--json", "--shape", "1x3x16x16", *QUICK
    )
    assert code == 0
    macs = sum((layer["cost"] or {}).get("macs", 0) for layer in json.loads(out)["layers"])
    assert macs == MACS_SMALL // 4


def test_outputs_are_written_together_and_replaced_only_when_asked(run, small, tmp_path):
    out = tmp_path / "profile"
    arguments = ("profile", small, "--machine", "none", "--out", out, *QUICK)
    assert run(*arguments)[0] == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "profile.json",
        "layers.csv",
        "roofline.png",
        "roofline.svg",
        "report.html",
        "model-explorer.json",
        "trace.json",
    }
    before = (out / "profile.json").read_bytes()
    code, _, err = run(*arguments)
    assert code == 2 and "--overwrite" in err
    assert (out / "profile.json").read_bytes() == before
    (out / "manifest.json").write_text('{"files": [{"file": "mine.onnx"}]}')
    (out / "mine.onnx").write_text("an export in the same folder")
    assert run(*arguments, "--overwrite")[0] == 0
    assert (out / "mine.onnx").is_file() and (out / "manifest.json").is_file()
    assert (out / "profile.json").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--threads", "0"), "threads"),
        (("--threads", "4096"), "threads"),
        (("--runs", "0"), "runs"),
        (("--warmup", "-1"), "warm"),
        (("--max-seconds", "0"), "time limit"),
        (("--cpus", "9999"), "CPU"),
        (("--cpus", "a"), "--cpus"),
        (("--shape", "3by4"), "--shape"),
        (("--shape", "y=1x3x8x8"), "no input y"),
        (("--shape", "1x3x8"), "dimensions"),
        (("--sort", "beauty"), "--sort"),
        (("--group-by", "colour"), "--group-by"),
        (("--top", "-1"), "--top"),
        (("--machine", "pixel-7"), "pixel"),
        (("--machine", "galaxy", "--csv"), "--csv"),
        (("--out", "/proc/nowhere/x"), "--out"),
    ],
)
def test_options_that_make_no_sense(run, small, arguments, word):
    machine = () if "--machine" in arguments else ("--machine", "none")
    code, out, err = run("profile", small, *machine, *QUICK, *arguments)
    assert (code, out) == (2, ""), err
    assert word in err
    assert len(err.splitlines()) == 1 and "Traceback" not in err


def test_json_and_csv_together_are_refused(run, small):
    code, out, err = run("profile", small, "--machine", "none", *QUICK, "--json", "--csv")
    assert code == 2 and "--json and --csv" in err
    assert "--json and --csv" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("command", ["profile", "compare"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 not a model", b"\x1c\0\0\0TFL3" + b"\xff" * 64]
)
def test_files_that_are_no_models(run, tmp_path, small, command, content):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    arguments = (path, small) if command == "compare" else (path, "--machine", "none")
    code, out, err = run(command, *arguments, *QUICK)
    assert (code, out) == (2, "")
    assert "bad.tflite" in err and len(err.splitlines()) == 1


def test_prediction_says_that_it_is_one(run, large):
    code, out, _ = run("profile", large, "--machine", "pixel-6-cpu", *QUICK)
    assert code == 0
    assert "prediction" in out and "31.2" in out
    assert "float32" in out  # the file is not of the type the ridge point is for
    code, out, _ = run("profile", large, "--machine", "pixel-6-cpu", "--json", *QUICK)
    content = json.loads(out)
    assert sum(layer["share_percent"] for layer in content["layers"]) == pytest.approx(100)
    assert content["predicted"] is True
    total_us = sum(x["latency_us"] for x in content["layers"])
    assert total_us == pytest.approx(content["trust"]["wall_us"])
    assert content["predicted_range_us"] is None  # what was checked is int8
    code, out, _ = run("profile", large, "--machine", "none", "--json", *QUICK)
    measured = json.loads(out)
    assert measured["predicted"] is False
    assert measured.keys() == content.keys()
    assert measured["layers"][0].keys() == content["layers"][0].keys()
    code, out, _ = run("profile", large, "--machine", "galaxy-s23", "--json", *QUICK)
    relative = json.loads(out)
    assert relative["predicted"] and relative["latency_us"] is None  # only a ratio was published


def test_a_prediction_is_sorted_grouped_and_written_as_a_profile_is(run, large, tmp_path):
    out = tmp_path / "predicted"
    arguments = ("profile", large, "--machine", "pixel-6", *QUICK)
    code, text, err = run(*arguments, "--out", out, "--group-by", "op", "--sort", "recoverable")
    assert (code, err) == (0, "") and "prediction" in text and "What would help" in text
    content = json.loads((out / "profile.json").read_text())
    assert content["prediction"]["name"] == "pixel-6-cpu"
    by_hand = 0.0
    for layer in content["layers"]:
        cost = layer["cost"]
        if cost is None:  # an operator that the runtime dropped
            assert layer["latency_us"] == 0
            continue
        moved = sum(cost[side] for side in ("weight_bytes", "read_bytes", "written_bytes"))
        us = max(cost["macs"], 31.2 * moved) / 1.1e11 * 1e6
        assert layer["latency_us"] == pytest.approx(us)
        assert layer["bound"]["recoverable_us"] == pytest.approx(us - cost["macs"] / 1.1e5)
        by_hand += us
    assert content["trust"]["wall_us"] == pytest.approx(by_hand)
    assert "roof" not in text.split("What would help")[0].split()
    page = (out / "report.html").read_text("utf-8")
    assert "<title>Predicted profile of" in page
    assert "None are known for this machine" not in page
    assert {name.name for name in out.iterdir()} >= {"report.html", "roofline.png", "layers.csv"}
    assert run(*arguments, "--out", out)[0] == 2
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "--csv")[1])))
    assert sum(float(row["latency_us"] or 0) for row in rows) == pytest.approx(by_hand, rel=1e-3)


def test_roofline_as_json_equals_the_papers_analysis(run):
    code, out, _ = run("roofline", "--models", "conv-s,hybrid-m", "--json")
    assert code == 0
    content = json.loads(out)
    points = content["ridge_points"]
    for model, at_pixel, at_tpu in (("conv-s", 1.61, 18.15), ("hybrid-m", 1.20, 9.96)):
        times = dict(zip(points, content["model_time"][model], strict=True))
        assert times[31.2] / times[0.0] == pytest.approx(at_pixel, abs=0.005)
        assert times[433.8] / times[0.0] == pytest.approx(at_tpu, abs=0.005)


def test_roofline_for_people_and_its_plots(run, tmp_path):
    out = tmp_path / "sweep"
    code, text, _ = run("roofline", "--models", "conv-s", "--out", out)
    assert code == 0 and "conv-s" in text and "73.8" in text
    assert {path.name for path in out.iterdir()} == {"sweep.json", "sweep.png", "sweep.svg"}
    code, _, err = run("roofline", "--models", "conv-s", "--out", out)
    assert code == 2 and "--overwrite" in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--models", "conv-x"), "conv-"),
        (("--models", ","), "--models"),
        (("--max-ridge-point", "0"), "--max-ridge-point"),
        (("--max-ridge-point", "nan"), "--max-ridge-point"),
    ],
)
def test_roofline_refuses(run, arguments, word):
    code, _, err = run("roofline", *arguments)
    assert code == 2 and word in err and len(err.splitlines()) == 1


def test_shapes_and_cpus_are_parsed():
    assert parse_shape("1x3x224x224") == ("", (1, 3, 224, 224))
    assert parse_shape("a=b:0=2x5") == ("a=b:0", (2, 5))
    assert parse_shape("ids=7") == ("ids", (7,))
    assert _cpus(None) is None
    assert _cpus("0,2-4,2") == (0, 2, 3, 4)
    for text in ("", "1-", "4-2", "0,,1", "-1"):
        with pytest.raises(UnsupportedError):
            _cpus(text)


def test_a_cache_that_cannot_be_written_is_told_and_is_no_error(
    small, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(ceilings, "measure_machine", lambda *_: MACHINE)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "file"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["profile", str(small), *QUICK])
    out, err = capfd.readouterr()
    assert not exit_.value.code and "Roof:" in out
    assert err.startswith("note: ") and "MNV4_DEPLOY_CACHE" in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cache of a Linux machine")
def test_machine_measures_once_and_shows(run, monkeypatch):
    measured = []

    def measure(threads, *_):
        measured.append(tuple(threads))
        return MACHINE

    monkeypatch.setattr(ceilings, "measure_machine", measure)
    code, out, _ = run("machine", "--json")
    assert code == 0
    content = json.loads(out)
    (found,) = content["this_machine"]["ceilings"]
    assert found["threads"] == 1
    assert found["peak_macs_per_s"] == MACHINE.ceilings[0].peak_macs_per_s
    assert {"pixel-6-cpu", "pixel-8-edgetpu"} <= {m["name"] for m in content["published"]}
    again = json.loads(run("machine", "--json")[1])
    assert again["this_machine"] == content["this_machine"]
    code, out, _ = run("machine")
    assert code == 0 and "GMAC/s" in out and "31.2" in out
    assert measured == [(1,)]  # the others read the cache
