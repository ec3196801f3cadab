"""`mnv4-deploy models`, for people and for programs."""

import dataclasses
import json
import resource
import subprocess
import sys
from functools import partial

import pytest
from rich.console import Console

from mnv4_deploy.models import zoo
from mnv4_deploy.models.weights import choices
from mnv4_deploy.support import catalogue, facts
from mnv4_deploy.support.facts import KINDS, TOOLS, FileSupport, ModelSupport
from mnv4_deploy.terminal import models as report_models
from tests.widths import assert_whole_at_every_width

COUNTS = {  # parameters, native size, MACs there
    "conv-s": (3_774_024, 224, 186_005_568),
    "conv-m": (9_715_512, 256, 1_080_244_224),
    "conv-l": (32_590_864, 384, 6_376_220_672),
    "hybrid-m": (11_074_648, 256, 1_271_183_360),
    "hybrid-l": (37_764_624, 384, 7_711_877_120),
    "efficientvit-m0": (2_349_436, 224, 79_193_600),
    "efficientvit-m1": (2_980_560, 224, 167_051_840),
    "efficientvit-m2": (4_187_554, 224, 201_035_712),
    "efficientvit-m3": (6_900_722, 224, 262_662_208),
    "efficientvit-m4": (8_804_228, 224, 299_308_544),
    "efficientvit-m5": (12_473_772, 224, 521_583_104),
    "mlla-t": (24_392_200, 224, 4_131_401_728),
    "mlla-s": (43_015_048, 224, 7_248_635_904),
    "mlla-b": (95_983_960, 224, 16_113_736_704),
}


def fact(index, works=True, **figures):
    kind = KINDS[index]
    figures = {"operators": {"CONV_2D": 3, "ADD": 1}, **figures}
    return FileSupport(kind.format, kind.precision, kind.target, works, **figures)


FILES = (
    fact(0, max_relative_error=2.5e-6, tolerance=1e-4),
    fact(1, sqnr_db=47.25),
    fact(2, False, reason="has an SQNR of 1.0 dB to fp32, less than 3 dB"),
    fact(3, max_relative_error=3e-6, tolerance=1e-4, partitions=1),
    fact(4, partitions=3, outside={"[b]TILE[/]": 2, "ADD": 1}, sqnr_db=45.0),
    fact(5, partitions=1, sqnr_db=12.5),
    fact(6, partitions=4, outside={"SOFTMAX": 3}, sqnr_db=12.5),
)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Facts of every model, as if all had been recorded with the tools that are installed."""
    path = tmp_path / "facts.json"
    facts.write(
        (
            ModelSupport(
                name,
                facts.digest(name),
                11_074_648,
                16_271_183_360,
                facts.installed_tools(),
                FILES,
            )
            for name in zoo.names()
        ),
        path,
    )
    read = facts.read
    monkeypatch.setattr(facts, "read", lambda: read(path))
    return path


def rows(out):
    """The cells of each model's line."""
    return {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}


@pytest.mark.usefixtures("recorded")
def test_a_line_a_model_within_100_columns(run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    found = rows(out)
    verdicts = ["yes", "yes", "no", "yes", "yes*", "yes", "yes"]
    assert found["hybrid-m"][:11] == ["hybrid-m", "11.07", "16,271", "256", *verdicts]
    assert found["hybrid-m"][11:] == ["bundled,", "timm", "(5)"]
    assert found["conv-s-035"][11:] == []
    lines = out.splitlines()
    for name in zoo.names():
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert len(lines) < len(zoo.names()) + 10
    table = lines[: 2 + len(zoo.names())]
    assert max(map(len, table)) <= 100
    assert "CIFAR-10" in out and "where there is no *" in out


@pytest.mark.usefixtures("recorded")
def test_a_narrow_terminal_gets_whole_words():
    console = Console(width=80)
    with console.capture() as captured:
        report_models.print_models(catalogue.list_models(), console)
    found = rows(captured.get())
    assert found["efficientnet-lite0"][:9] == [
        *("efficientnet-lite0", "11.07", "16,271", "224"),
        *("yes", "no", "yes", "yes", "yes"),
    ]
    assert "…" not in captured.get()


@pytest.mark.usefixtures("recorded")
def test_what_is_not_known_is_not_said_to_work(run, monkeypatch):
    installed = {**facts.installed_tools(), "onnxruntime": "0.0.1"}
    monkeypatch.setattr(facts, "installed_tools", lambda: installed)
    _, out, _ = run("models")
    assert rows(out)["conv-m"][4:11] == ["?", "?", "?", "yes", "yes*", "yes", "yes"]
    _, out, _ = run("models", "conv-m")
    assert "ONNX fp32 (onnxruntime), ONNX fp16 (onnxruntime), ONNX int8 (onnxruntime): " in out
    assert "not with the 0.0.1 that is installed" in out
    _, out, _ = run("models", "conv-m", "--json")
    (model,) = json.loads(out)["models"]
    assert [file["works"] for file in model["files"]] == [None] * 3 + [True] * 4


def test_without_records_the_counts_are_counted(run, monkeypatch):
    monkeypatch.setattr(facts, "read", dict)
    code, out, _ = run("models", "conv-s", "--json")
    (model,) = json.loads(out)["models"]
    assert (code, model["parameters"], model["macs"]) == (0, 3_774_024, 186_005_568)
    assert {file["works"] for file in model["files"]} == {None}
    assert {file["reason"] for file in model["files"]} == {"nothing was recorded for this model"}
    assert model["recorded_with"] == {}


@pytest.mark.usefixtures("recorded")
def test_one_model_in_full(run):
    code, out, err = run("models", "hybrid-m")
    assert (code, err) == (0, "")
    assert all(choice in " ".join(out.split()) for choice in choices("hybrid-m"))
    table = [line.split() for line in out.splitlines() if line.startswith(("ONNX", "TFLite"))]
    assert table[0] == ["ONNX", "fp32", "onnxruntime", "yes", "4", "2.5e-06", "from", "PyTorch"]
    assert table[2][:5] == ["ONNX", "int8", "onnxruntime", "no", "4"]
    assert table[4][:7] == ["TFLite", "fp16", "xnnpack", "yes", "4", "3", "3"]
    assert table[4][7:] == ["45.0", "dB", "SQNR", "to", "fp32"]
    assert "TFLite fp16 (xnnpack): outside XNNPACK are 2 [b]TILE[/], 1 ADD." in out
    assert "ONNX int8 (onnxruntime): has an SQNR of 1.0 dB to fp32, less than 3 dB." in out
    assert f"torch {facts.installed_tools()['torch']}" in out


def test_an_unknown_model_is_one_sentence(run):
    code, out, err = run("models", "hybrid-x")
    assert (code, out) == (2, "")
    assert err.startswith("mnv4-deploy: There is no model 'hybrid-x'; did you mean 'hybrid-m'?")
    assert err.count("\n") == 1


def test_damaged_facts_are_one_sentence(run, recorded):
    recorded.write_text("{", encoding="utf-8")
    code, out, err = run("models")
    assert (code, out) == (2, "")
    assert "damaged" in err and err.count("\n") == 1


def test_the_counts_are_the_published_ones(run):
    _, out, _ = run("models", "--json")
    by_name = {model["name"]: model for model in json.loads(out)["models"]}
    for name, expected in COUNTS.items():
        model = by_name[name]
        assert (model["parameters"], model["native_size"], model["macs"]) == expected
    assert by_name["hybrid-m"]["weights"][0] == "bundled"
    assert by_name["conv-s"]["weights"][-1] == "random"
    assert not any("bundled" in m["weights"] for n, m in by_name.items() if n != "hybrid-m")


@pytest.mark.usefixtures("recorded")
def test_as_json_everything_is_there(run):
    code, out, err = run("models", "--json")
    answer = json.loads(out)
    assert (code, err, answer["schema_version"]) == (0, "", 1)
    assert tuple(model["name"] for model in answer["models"]) == zoo.names()
    for model in answer["models"]:
        assert tuple(model["weights"]) == choices(model["name"])
        assert model["family"] == zoo.entry(model["name"]).family
        assert set(model["recorded_with"]) == {tool for tools in TOOLS.values() for tool in tools}
        for file, expected in zip(model["files"], FILES, strict=True):
            assert file == json.loads(json.dumps(dataclasses.asdict(expected)))


def test_needs_no_torch_and_no_patience(recorded):
    """Where everything is recorded."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mnv4_deploy.cli import app\n"
        "from mnv4_deploy.support import facts\n"
        "read = facts.read\n"
        f"facts.read = lambda: read(Path({str(recorded)!r}))\n"
        "try: app.main(['models'])\n"
        "except SystemExit: print('imported', *sys.modules)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    table, _, imported = done.stdout.rpartition("imported ")
    assert "hybrid-m" in table
    assert not {"torch", "numpy", "onnx", "ai_edge_litert"} & set(imported.split())
    # The processor's time: a busy machine has no part in it.
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 1.5


def test_figures_and_words_are_whole_at_every_width():
    entries = catalogue.list_models()
    for entry in entries:
        assert_whole_at_every_width(partial(report_models.print_model, entry))
