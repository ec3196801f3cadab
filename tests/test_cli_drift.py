"""The drift command: what it prints to people and programs, its exit codes, what it refuses.

The network averages the colours of an image and names the strongest, so every figure is known:
four colours, ten pictures each, and a candidate that does not know blue.
"""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import mnv4_deploy
from mnv4_deploy.cli import app as cli

onnx = pytest.importorskip("onnx")

COLOURS = {"blue": (0, 0, 1), "green": (0, 1, 0), "grey": (0.5, 0.5, 0.5), "red": (1, 0, 0)}
# Logits of the classes in that order, of mean r, g, b and a constant.
WEIGHTS = np.array([[-1, -1, 2], [-1, 2, -1], [0, 0, 0], [2, -1, -1]], np.float32)
BIAS = np.array([0, 0, 0.5, 0], np.float32)
A_COLOUR = ("--layer-images", "8", "--workers", "1")
pytestmark = pytest.mark.usefixtures("no_child", "no_worker")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(10):
            noise = rng.uniform(-0.05, 0.05, (40, 40, 3))
            pixels = np.clip(255 * (np.array(colour) * 0.8 + 0.1 + noise), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def _network(path, *, blind_to=None, labels=tuple(COLOURS), mean=0.0):
    from onnx import TensorProto, helper, numpy_helper

    bias = BIAS.copy()
    if blind_to is not None:
        bias[list(COLOURS).index(blind_to)] = -10
    constants = {"classifier.weight": WEIGHTS, "classifier.bias": bias}
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool/GlobalAveragePool"),
            helper.make_node("Flatten", ["p"], ["f"], name="Flatten"),
            helper.make_node("Gemm", ["f", *constants], ["y"], name="classifier/Gemm", transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(data, name) for name, data in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    spec = {
        "height": 32,
        "width": 32,
        "mean": [mean] * 3,
        "std": [1.0] * 3,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    helper.set_model_props(
        model, {"preprocessing": json.dumps(spec), "labels": json.dumps(list(labels))}
    )
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return {
        "right": _network(root / "right.onnx"),
        "blind": _network(root / "blind.onnx", blind_to="blue"),
        "other labels": _network(root / "labels.onnx", labels=("a", "b", "c", "d")),
        "other mean": _network(root / "mean.onnx", mean=0.5),
    }


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))

    def run_(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["drift", *map(str, arguments)])
        return exit_.value.code or 0, *capsys.readouterr()

    return run_


def _pair(files, candidate="blind"):
    return ("--reference", files["right"], "--candidate", files[candidate])


def test_what_a_blind_candidate_costs_is_known_to_the_image(run, files, pictures, tmp_path):
    out = tmp_path / "out"
    code, printed, logged = run(
        *_pair(files), "--data", pictures, *A_COLOUR, "--out", out, "--json"
    )
    assert (code, logged) == (0, "")
    result = json.loads(printed)
    assert result["schema_version"] == 2
    output = result["output"]
    assert output["reference"]["top1"]["percent"] == 100
    assert output["candidate"]["top1"]["percent"] == 75
    assert output["top1_drop"] == 25
    assert output["agreement"]["count"] == 30
    assert output["flips"]["lost"] == 10 and output["flips"]["gained"] == 0
    # Ten answers to none: two-sided binomial, 2 / 2^10.
    assert output["flips"]["p_value"] == pytest.approx(2 / 1024)
    assert output["classes"][0]["name"] == "blue"
    on_disk = json.loads((out / "drift.json").read_text())
    assert on_disk["output"] == output
    assert hashlib.sha256(files["blind"].read_bytes()).hexdigest() in json.dumps(on_disk)
    assert {p.name for p in out.iterdir()} == {entry["file"] for entry in on_disk["files"]}


def test_for_people_it_names_the_layer_and_the_cost(run, files, pictures):
    code, printed, _ = run(*_pair(files), "--data", pictures, *A_COLOUR)
    assert code == 0
    assert "100.00 %" in printed and "75.00 %" in printed and "25.00" in printed
    assert "10 images the reference had right went wrong, 0 it had wrong came right" in printed
    assert "hardly chance" in printed
    layers = printed[printed.index("Most damaged") :]
    assert "classifier" in layers


def test_the_same_file_has_no_drift(run, files, pictures):
    code, printed, _ = run(*_pair(files, "right"), "--data", pictures, *A_COLOUR, "--json")
    result = json.loads(printed)
    assert code == 0
    assert result["output"]["agreement"]["percent"] == 100
    assert result["output"]["flips"]["p_value"] == 1
    assert all(layer["isolated"]["sqnr_db"] == 200 for layer in result["layers"]["layers"])


@pytest.mark.parametrize(
    ("condition", "code"),
    [("top1_drop > 24.9", 1), ("top1_drop > 25", 0), ("agreement < 76", 1), ("lost >= 11", 0)],
)
def test_a_limit_decides_the_exit_code(run, files, pictures, condition, code):
    found, printed, logged = run(
        *_pair(files), "--data", pictures, "--layer-images", 0, "--fail-if", condition
    )
    assert found == code
    assert condition in printed
    assert (condition in logged) == bool(code)


def test_damaged_images_are_named_and_counted(run, files, pictures, tmp_path):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(pictures, damaged)
    (damaged / "red" / "0.png").write_bytes(b"no image")
    code, printed, _ = run(*_pair(files), "--data", damaged, "--layer-images", 0, "--json")
    result = json.loads(printed)
    assert code == 0
    assert result["output"]["images"] == 39
    assert [image["name"] for image in result["skipped"]] == ["red/0.png"]


def test_too_many_damaged_images_are_an_error(run, files, pictures, tmp_path):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(pictures, damaged)
    for path in (damaged / "red").iterdir():
        path.write_bytes(b"no image")
    code, printed, logged = run(*_pair(files), "--data", damaged, "--layer-images", 0)
    assert (code, printed) == (2, "")
    assert "red/" in logged and "Traceback" not in logged


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--layer-images", "1"), "--layer-images 1"),
        (("--workers", "0"), "--workers 0"),
        (("--top", "-1"), "--top -1"),
        (("--workers", "2", "--cluster", "tcp://127.0.0.1:9"), "--workers is for this machine"),
        (("--fail-if", "top2_drop > 1"), "top1_drop"),
        (("--fail-if", "top1_drop = 1"), "top1_drop = 1"),
        (("--mean", "white"), "white"),
        (("--data", "nowhere"), "nowhere"),
        (("--images", "3"), "3 images"),
    ],
)
def test_a_bad_option_is_one_sentence(run, files, pictures, arguments, says):
    code, printed, logged = run(*_pair(files), "--data", pictures, *arguments)
    assert (code, printed) == (2, "")
    assert says in logged and logged.count("\n") == 1


@pytest.mark.parametrize("candidate", ["other labels", "other mean"])
def test_pairs_that_cannot_be_compared_are_refused_with_the_difference(
    run, files, pictures, candidate
):
    code, printed, logged = run(*_pair(files, candidate), "--data", pictures)
    assert (code, printed) == (2, "")
    assert ("label" if "label" in candidate else "0.5") in logged
    assert logged.count("\n") == 1


def test_an_earlier_report_is_replaced_only_when_asked(run, files, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = (*_pair(files), "--data", pictures, "--layer-images", 0, "--out", out)
    assert run(*arguments)[0] == 0
    before = (out / "drift.json").read_bytes()
    code, printed, logged = run(*arguments)
    assert (code, printed) == (2, "") and "--overwrite" in logged
    assert (out / "drift.json").read_bytes() == before
    assert run(*arguments, "--overwrite")[0] == 0


def test_an_empty_folder_and_a_missing_file(run, files, tmp_path):
    code, _, logged = run(*_pair(files), "--data", tmp_path)
    assert code == 2 and "no images" in logged
    code, _, logged = run("--reference", "gone.onnx", "--candidate", files["right"])
    assert code == 2 and "gone.onnx" in logged


def test_a_cluster_that_is_not_there(run, files, pictures, monkeypatch):
    monkeypatch.setattr("mnv4_deploy.drift.cluster.connection.CONNECT_SECONDS", 0.1)
    code, printed, logged = run(
        *_pair(files), "--data", pictures, "--cluster", "tcp://127.0.0.1:9"
    )
    assert code in (2, 4) and not printed
    assert "tcp://127.0.0.1:9" in logged and logged.count("\n") == 1


def test_from_python(files, pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = mnv4_deploy.measure_drift(
        files["right"], files["blind"], data=str(pictures), workers=1, layer_images=8
    )
    assert result.output.top1_drop == 25
    assert result.layers.most_damaged(1)[0].module == "classifier"
