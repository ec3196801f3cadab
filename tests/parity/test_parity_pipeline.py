"""The whole check with devices of this process: verdicts, files, texts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mnv4_deploy.errors import (
    InputError,
    ModelFileError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.parity.records import ParityRequest, ParityResult
from mnv4_deploy.pipelines.parity import parity
from mnv4_deploy.profiles.runtimes.timing import example_input
from mnv4_deploy.progress import Progress
from mnv4_deploy.terminal.parity import parity_to_dict, print_parity
from tests.parity.checks import convs
from tests.parity.fake_devices import FakeDevice, faulty
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import integers, tensor
from tests.widths import assert_whole_at_every_width

pytestmark = pytest.mark.usefixtures("no_child")
Array = np.ndarray[Any, Any]
NAMES = ("body.first", "body.second", "body.third")


def one_bit(_: int, values: Array) -> Array:
    result = values.copy()
    flat = result.reshape(-1)
    flat[0] = (
        np.nextafter(flat[0], np.float32(np.inf)) if values.dtype.kind == "f" else flat[0] ^ 1
    )
    return result


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDevice]:
    known = {
        "local": FakeDevice("here", architecture="x86_64"),
        "ssh://same": FakeDevice("same"),
        "ssh://other": FakeDevice("other", faulty(one_bit)),
    }
    monkeypatch.setattr("mnv4_deploy.device.open.open_device", lambda name, *_: known[name])
    return known


def run(path: Path, *devices: str, **options: Any) -> ParityResult:
    request = ParityRequest(str(path), devices, **{"data": "random", "images": 2} | options)
    return parity(request, Progress(show=False))


def shown(result: ParityResult, top: int = 10) -> str:
    stream = io.StringIO()
    print_parity(result, top, Console(file=stream, width=160))
    return stream.getvalue()


def test_several_devices_in_turn(tmp_path: Path, devices: dict[str, FakeDevice]) -> None:
    path, _ = convs(tmp_path, NAMES)
    result = run(path, "ssh://same", "ssh://other", out=tmp_path / "out")
    assert [found.outputs.verdict for found in result.devices] == ["exact", "different"]
    assert result.failed
    assert result.quantized
    assert (result.count, result.here.title) == (2, "here")
    assert all(device.closed == 1 for device in devices.values())
    text = shown(result)
    assert "ssh://same  exact: 512 elements equal bit for bit" in text
    assert "ssh://other  different: 2 of 512 elements differ, by at most 1 code" in text
    assert "First layer to differ: body.first (CONV_2D, int8), operator 0" in text
    assert "3 of 3 layers differ on equal inputs" in text
    assert "3 of 3 layers differ on equal inputs; the 1 worst" in shown(result, top=1)


@pytest.mark.usefixtures("devices")
def test_files_are_whole_and_strict_json(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES)
    out = tmp_path / "out"
    result = run(path, "ssh://same", "ssh://other", out=out)
    document = json.loads((out / "parity.json").read_text(), parse_constant=pytest.fail)
    files, schema = document.pop("files"), document.pop("schema")
    assert (schema, document["schema_version"]) == ("mnv4-deploy/parity", 2)
    assert document == json.loads(json.dumps(parity_to_dict(result)))
    assert {entry["file"] for entry in files} == {entry.name for entry in out.iterdir()}
    assert document["devices"][0]["outputs"]["sqnr_db"] is None
    assert document["devices"][1]["own"] == 3
    with (out / "parity-layers.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["device"], row["module"]) for row in rows] == [
        ("ssh://other", name) for name in NAMES
    ]
    assert rows[0]["own_max_codes"] == "1"
    with pytest.raises(OutputError, match="already holds"):
        run(path, "ssh://same", out=out)
    run(path, "ssh://same", out=out, overwrite=True)
    assert len((out / "parity-layers.csv").read_text().splitlines()) == 1


@pytest.mark.usefixtures("devices")
def test_integers_must_be_equal_and_floats_need_not(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES, "float32")
    result = run(path, "ssh://other")
    assert (result.failed, result.quantized) == (False, False)
    assert "ssh://other  within reordered: " in shown(result)
    assert run(path, "ssh://other", tolerance="exact").failed
    (tmp_path / "codes").mkdir()
    codes, _ = convs(tmp_path / "codes", NAMES)
    assert run(codes, "ssh://other", tolerance="float16").failed


def test_another_best_class_is_counted(tmp_path: Path, devices: dict[str, FakeDevice]) -> None:
    b = TfliteBuilder()
    image = tensor(b, "image", (1, 4, 4, 3))
    out = tensor(b, "scores", (1, 3))
    b.op("MEAN", (image, integers(b, [1, 2])), (out,), "ReducerOptions", keepDims=False)
    path = b.write(tmp_path / "classes.tflite", (image,), (out,))
    devices["ssh://other"] = FakeDevice("other", faulty(lambda _, values: values[:, ::-1]))
    result = run(path, "ssh://other", images=8)
    expected = 0
    for at in range(8):
        scores = example_input((1, 4, 4, 3), "float32", at * 1000).mean(axis=(1, 2))
        expected += int(scores.argmax() != 1)
    assert result.devices[0].top_class_differs == expected > 0
    assert f"Another top-1 class in {expected} inputs" in shown(result)
    devices["ssh://near"] = FakeDevice(
        "near", faulty(lambda _, values: values * np.float32(1.00001))
    )
    result = run(path, "ssh://near", images=8)
    assert result.devices[0].outputs.differing
    assert "The same top-1 class in every input." in shown(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ()}, "give --device"),
        ({"tolerance": "tier 1"}, "There is no tolerance 'tier 1'"),
        ({"tolerance": "different"}, "There is no tolerance"),
        ({"images": 0}, "--images 0"),
    ],
)
def test_requests_that_make_no_sense(
    tmp_path: Path, devices: dict[str, FakeDevice], options: dict[str, Any], message: str
) -> None:
    path, _ = convs(tmp_path, NAMES)
    names = options.pop("devices", ("ssh://same",))
    with pytest.raises(UnsupportedError, match=message):
        run(path, *names, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert not devices["ssh://same"].opened


def test_files_that_are_no_models(tmp_path: Path, devices: dict[str, FakeDevice]) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"\x00\x00\x00\x00TFL3 and no more")
    for path in (damaged, tmp_path / "missing.onnx"):
        with pytest.raises(ModelFileError):
            run(path, "ssh://same")
    assert not devices["local"].opened


def test_a_device_that_is_lost_leaves_no_files(
    tmp_path: Path, devices: dict[str, FakeDevice]
) -> None:
    def lost(tensor: int, values: Array) -> Array:
        raise ToolchainError(f"ssh://other is gone with {tensor}, {values.shape}.")

    devices["ssh://other"] = FakeDevice("other", faulty(lost))
    path, _ = convs(tmp_path, NAMES)
    with pytest.raises(ToolchainError, match="is gone"):
        run(path, "ssh://same", "ssh://other", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert all(device.closed == 1 for device in devices.values())


@pytest.mark.usefixtures("devices")
def test_names_from_files_and_devices_are_no_markup(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, ("[red]body[/].=1+1", "body.second\x1b[2J"))
    result = run(path, "ssh://other", out=tmp_path / "out")
    text = shown(result)
    assert "\x1b" not in text
    assert "[red]" in text
    assert "\x1b" not in (tmp_path / "out" / "parity-layers.csv").read_text()


def test_wrong_arrays_are_refused_before_a_device_is_asked(
    tmp_path: Path, devices: dict[str, FakeDevice]
) -> None:
    path, _ = convs(tmp_path, NAMES)
    np.savez(tmp_path / "in.npz", np.zeros((1, 8, 8, 3), np.int8))
    with pytest.raises(InputError, match=r"in.npz has"):
        run(path, "ssh://same", data=str(tmp_path / "in.npz"))
    assert not devices["ssh://same"].opened


def test_given_values_go_into_every_inference(tmp_path: Path) -> None:
    """y = x + 1000 a: with a = 3 every output is near 3000, whatever x is made up as."""
    from mnv4_deploy.parity.inputs import open_inputs
    from mnv4_deploy.profiles.graph.given_inputs import read_given
    from mnv4_deploy.profiles.graph.read import read_graph_of
    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    b = TfliteBuilder()
    x, a = tensor(b, "x", (1, 4)), tensor(b, "a", (1, 4))
    out = tensor(b, "y", (1, 4))
    b.op("ADD", (x, a), (out,), "AddOptions")
    path = b.write(tmp_path / "sum.tflite", (x, a), (out,))

    def opened(**options: object):
        request = ParityRequest(str(path), ("ssh://other",), data="random", **options)
        facts = inspect_file(path)
        return open_inputs(request, facts, lambda shapes: read_graph_of(path, shapes))[0]

    inputs = opened(images=3, inputs=read_given(["a=3"]))
    assert inputs.count == 3
    made = [inputs.make(at) for at in range(3)]
    assert all((values[1] == 3).all() for values in made)
    assert len({values[0].tobytes() for values in made}) == 3
    assert opened(inputs=read_given(["a=3", "x=1"])).count == 1
    with pytest.raises(UnsupportedError, match="no input z to give a value: it has x, a"):
        opened(inputs=read_given(["z=3"]))
    with pytest.raises(UnsupportedError, match="gives 3 numbers"):
        opened(inputs=read_given(["a=1,2,3"]))


def test_figures_and_words_are_whole_at_every_width(
    tmp_path: Path, devices: dict[str, FakeDevice]
) -> None:
    path, _ = convs(tmp_path, NAMES)
    result = run(path, *devices)
    assert_whole_at_every_width(lambda console: print_parity(result, 10, console))


def test_nodes_of_one_name_are_told_apart(
    tmp_path: Path, devices: dict[str, FakeDevice], capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime's own binding refuses the file; a copy runs, and that is said."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    kinds = (onnx.TensorProto.FLOAT, [1, 8])
    nodes = [
        onnx.helper.make_node("Erf", ["x"], ["a"], name="same"),
        onnx.helper.make_node("Sin", ["a"], ["y"], name="same"),
    ]
    graph = onnx.helper.make_graph(nodes, "net", [value("x", *kinds)], [value("y", *kinds)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    with pytest.raises(Exception, match="same node name"):
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result = run(path, *devices)
    verdicts = [found.outputs.verdict for found in result.devices]
    assert verdicts == ["exact", "exact", "reordered"]
    assert "'same'" in capfd.readouterr().err
