"""drift --device from the command line: what it prints, writes and refuses."""

import json

import numpy as np
import pytest

import mnv4_deploy
from mnv4_deploy.cli import app as cli
from mnv4_deploy.device import open as device_open
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.reports.drift.drift_json import drift_to_dict
from tests.drift.classifiers import WEIGHTS, make_images, make_onnx, make_tflite
from tests.drift.fake_device import FakeDevice

pytestmark = pytest.mark.usefixtures("no_child", "no_worker")
IMAGES = 20
OTHER = WEIGHTS + np.random.default_rng(5).normal(0, 0.3, WEIGHTS.shape).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return {
        "reference": make_onnx(root / "r.onnx"),
        "candidate": make_tflite(root / "c.tflite", OTHER),
        "data": make_images(root / "images", IMAGES)[0].parent,
    }


@pytest.fixture(scope="module")
def without(files):
    """The figures of a run without a device."""
    names = ("reference", "candidate", "data")
    reference, candidate, data = (str(files[name]) for name in names)
    result = mnv4_deploy.measure_drift(reference, candidate, data=data, layer_images=5, workers=1)
    return results(json.loads(json.dumps(drift_to_dict(result))))


@pytest.fixture
def asked():
    """What devices were opened, with which options."""
    return []


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, files, asked):
    """The command with the files, and ``device`` behind ssh://board."""
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))

    def run_(*arguments, device=None, **options):
        devices = {"ssh://board": device, "local": FakeDevice()}

        def opened(text, options=None, note=None):
            del note
            asked.append((text, options))
            return devices[text]

        if device is not None:
            monkeypatch.setattr(device_open, "open_device", opened)
        given = {f"--{name}": path for name, path in (files | options).items()}
        with pytest.raises(SystemExit) as exit_:
            cli.main(
                ["drift", *(str(part) for pair in given.items() for part in pair)]
                + [str(argument) for argument in arguments]
            )
        return exit_.value.code or 0, *capsys.readouterr()

    return run_


ON_BOARD = ("--device", "ssh://board", "--layer-images", "5")


def results(document):
    """All that must not depend on where the files ran."""
    return {key: document[key] for key in ("metrics", "limits", "output", "layers", "skipped")}


def test_same_figures_as_without_a_device_and_equal_bits_are_said(run, without, asked, tmp_path):
    device = FakeDevice()
    code, printed, logged = run(
        *(*ON_BOARD, "--json", "--out", tmp_path / "there"),
        *("--setup", "--device-python", "/opt/py", "--device-folder", "/mnt/x"),
        *("--benchmark-model", "bm"),
        device=device,
    )
    assert (code, logged) == (0, "")
    there = json.loads(printed)
    assert results(there) == without
    assert there["device"]["title"] == "Board <b>5</b>"
    assert [entry["role"] for entry in there["parity"]] == ["reference", "candidate"]
    assert {(entry["images"], entry["elements"]) for entry in there["parity"]} == {(5, 35)}
    assert {entry["differing"] for entry in there["parity"]} == {0}
    assert device.closed and all(session.closed for session in device.sessions)
    page = (tmp_path / "there" / "drift-report.html").read_text()
    assert "bit for bit: the figures of the layers hold there too." in page
    assert asked[0] == ("ssh://board", DeviceOptions(True, "/opt/py", "/mnt/x", "bm"))


def test_the_first_layer_that_differs_is_named(run):
    """Only the last layer gives [1, 7]: its results are what this processor gets wrong."""

    def changed(name, output):
        wrong = name == "c.tflite" and output.shape == (1, 7)
        return output + np.float32(0.25) if wrong else output

    code, printed, _ = run(*ON_BOARD, "--json", device=FakeDevice(changed=changed))
    assert code == 0
    reference, candidate = json.loads(printed)["parity"]
    assert reference["differing"] == 0 and reference["first_layer"] == ""
    assert candidate["differing"] == 35
    assert candidate["max_error"] == pytest.approx(0.25, rel=1e-5)
    assert candidate["first_layer"] == "logits (FULLY_CONNECTED)"


def test_a_limit_counts_for_the_device(run, without):
    def changed(name, output):
        return -output if name == "c.tflite" else output

    limit = ("--fail-if", "agreement < 5", "--layer-images", 0)
    code, *_ = run("--device", "ssh://board", *limit, device=FakeDevice(changed=changed))
    assert code == 1
    assert without["metrics"]["agreement"] > 5


def test_without_layers_no_parity_is_looked_for(run, asked):
    code, printed, _ = run(
        "--device", "ssh://board", "--layer-images", 0, "--json", device=FakeDevice()
    )
    document = json.loads(printed)
    assert code == 0 and document["parity"] == [] and document["device"] is not None
    assert [text for text, _ in asked] == ["ssh://board"]


def test_a_lost_connection_is_one_sentence_and_the_run_goes_on_from_there(run, without, tmp_path):
    out = ("--out", tmp_path / "out", "--json")
    # 40 inferences in shards of 8, 8 and 4 images, two of which run at once.
    code, printed, logged = run(*ON_BOARD, *out, device=FakeDevice(runs_left=33))
    assert (code, json.loads(printed)["error"]["exit_code"]) == (4, 4)
    assert "lost" in logged and "goes on from them" in logged and logged.count("\n") == 1
    assert not (tmp_path / "out" / "drift.json").exists()
    device = FakeDevice()
    code, printed, _ = run(*ON_BOARD, *out, device=device)
    document = json.loads(printed)
    assert code == 0 and document["run"]["resumed_images"] in (8, 12, 16)
    assert results(document) == without


def test_a_crash_there_is_one_sentence(run):
    code, printed, logged = run(*ON_BOARD, device=FakeDevice(crashes_at=3))
    assert (code, printed) == (2, "")
    assert "failed at images" in logged and "SIGSEGV" in logged and logged.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "ssh://board", "--workers", "2"), "--device and --workers"),
        (("--device", "ssh://board", "--cluster", "tcp://x:1"), "--device and --cluster"),
        (("--setup",), "--setup is about a device"),
        (("--device-python", "python3.12"), "--device-python is about a device"),
        (("--device-folder", "/tmp", "--setup"), "--setup and --device-folder are about"),
        (("--benchmark-model", "x"), "--benchmark-model is about a device"),
        (("--device", "pi"), "pi is no device"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(run, arguments, says):
    code, printed, logged = run(*arguments)
    assert (code, printed) == (2, "")
    assert says in logged and logged.count("\n") == 1


def test_two_pytorch_models_have_nothing_to_run_there(run):
    models = {"reference": "conv-s", "candidate": "conv-s"}
    code, printed, logged = run(
        "--device", "ssh://board", "--weights", "random", "--data", "bundled", **models
    )
    assert (code, printed) == (2, "")
    assert "leave --device out" in logged and logged.count("\n") == 1
