"""What `mnv4-deploy models` says works: that it was recorded, that it holds, what voids it."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from packaging.utils import canonicalize_name
from torch import nn

# Scripts, which import each other by their plain names.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import record_model

from mnv4_deploy.errors import InputError, ToolchainError, UnknownModelError
from mnv4_deploy.exporters import recipes
from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks.mobilenetv4_variants import VARIANTS
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.xnnpack import rules
from mnv4_deploy.support import catalogue
from mnv4_deploy.support import facts as support_facts
from mnv4_deploy.support.catalogue import count
from mnv4_deploy.support.facts import KINDS, TOOLS, FileSupport, ModelSupport

pytestmark = pytest.mark.usefixtures("no_child")
ROOT = Path(__file__).parents[1]
RECORDS = support_facts.read()
CONV_S_035 = next(variant for variant in VARIANTS if variant.name == "conv-s-035")
# One of each kind of network, the smallest, in the format that takes seconds to make.
SAMPLE = {"conv-s-035": "tflite", "mobilenetv2-100": "onnx"}
# With these, all families, and each network with attention: minutes.
ALL = "MNV4_DEPLOY_ALL_SUPPORT_FACTS"
THOROUGH = {
    "hybrid-m-075": "tflite",
    "efficientnet-lite0": "tflite",
    "efficientvit-m0": "tflite",
    "mlla-t": "tflite",
}


def record(model="conv-s-035", **changes):
    files = tuple(FileSupport(k.format, k.precision, k.target, True) for k in KINDS)
    tools = {tool: "1.0" for tools in TOOLS.values() for tool in tools}
    made = ModelSupport(model, support_facts.digest(model), 5, 7, tools, files)
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Files of a model in a format, made once."""

    @cache
    def make_(model, format_):
        reference = load_reference(model, record_model.WEIGHTS)
        folder = tmp_path_factory.mktemp("made")
        return tuple(record_model.make_files(reference, format_, folder))

    return make_


def compare_with_record(model, format_, made):
    recorded = {file.kind: file for file in RECORDS[model].files}
    assert [file.kind for file in made] == [kind for kind in KINDS if kind.format == format_]
    for file in made:
        fact = recorded[file.kind]
        assert not (file.error and fact.works), file.error
        if not file.error:
            found = record_model.discrete(inspect_file(file.path))
            assert found == {name: getattr(fact, name) for name in found}, file.kind


class TestRecorded:
    def test_each_family_can_be_made_again(self):
        families = {zoo.entry(name).family for name in (*SAMPLE, *THOROUGH)}
        assert families == {family.name for family in zoo.FAMILIES}

    def test_nothing_is_unknown_with_the_pinned_tools(self):
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        pinned = {canonicalize_name(name): version for name, version in pins.items()}
        assert tuple(RECORDS) == zoo.names()
        for model, made in RECORDS.items():
            files = support_facts.current(model, made, pinned)
            assert tuple(file.kind for file in files) == KINDS
            assert [f.kind for f in files if f.works is None] == [], model

    # The published counts of the other models are those of their networks, and of this command.
    @pytest.mark.parametrize("model", [*SAMPLE, *THOROUGH])
    def test_counts_are_those_of_the_network(self, model):
        assert (RECORDS[model].parameters, RECORDS[model].macs) == catalogue.count(model)

    def test_figures_agree_with_the_verdicts(self):
        for file in (file for made in RECORDS.values() for file in made.files):
            if not file.works:
                assert file.reason
            elif file.precision == "fp32":
                assert file.max_relative_error <= file.tolerance
            else:
                least = record_model.MIN_SQNR_DB[file.precision]
                assert file.sqnr_db >= (
                    least if file.least_sqnr_db is None else file.least_sqnr_db
                )
                assert file.sqnr_db > 10 or file.precision == "int8"
            assert sum(file.outside.values()) <= sum(file.operators.values())
            if file.works:
                assert (file.partitions is None) == (file.format == "onnx")

    @pytest.mark.parametrize(("model", "format_"), SAMPLE.items())
    def test_files_made_again_are_what_was_recorded(self, model, format_, make):
        compare_with_record(model, format_, make(model, format_))

    @pytest.mark.skipif(ALL not in os.environ, reason=f"takes minutes: set {ALL}")
    @pytest.mark.parametrize(("model", "format_"), THOROUGH.items())
    def test_files_of_all_families_are_what_was_recorded(self, model, format_, make):
        compare_with_record(model, format_, make(model, format_))


class TestWhatIsUnknown:
    TOOLS = record().tools

    def reasons(self, made, installed=TOOLS):
        files = support_facts.current("conv-s-035", made, installed)
        assert tuple(file.kind for file in files) == KINDS
        for file in files:
            assert (file.works is None) == bool(file.reason)
            assert file.works is None or file.works
        return {file.kind: file.reason for file in files}

    def test_nothing_that_holds(self):
        assert not any(self.reasons(record()).values())

    def test_a_model_without_record(self):
        assert all("nothing was recorded" in reason for reason in self.reasons(None).values())

    def test_a_file_without_record(self):
        reasons = self.reasons(record(files=record().files[1:]))
        assert [kind for kind, reason in reasons.items() if reason] == [KINDS[0]]

    def test_files_of_the_format_whose_tool_changed(self):
        reasons = self.reasons(record(), {**self.TOOLS, "onnxruntime": "1.1"})
        for kind, reason in reasons.items():
            assert bool(reason) == (kind.format == "onnx")
            if reason:
                assert "onnxruntime 1.0, not with the 1.1" in reason

    def test_a_tool_that_is_not_installed_contradicts_nothing(self):
        installed = {**self.TOOLS, "torch": support_facts.NOT_INSTALLED}
        assert not any(self.reasons(record(), installed).values())
        assert all(self.reasons(record(tools={}), self.TOOLS).values())

    @pytest.mark.parametrize(
        "change",
        [
            {"native_size": 192},
            {"family": "mobilenetv2"},
            {"variant": dataclasses.replace(CONV_S_035, head_channels=640)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_model_that_changed(self, change, monkeypatch):
        before = record()
        entry = dataclasses.replace(zoo.entry("conv-s-035"), **change)
        monkeypatch.setattr(zoo, "entry", lambda _: entry)
        assert all("changed" in reason for reason in self.reasons(before).values())

    def test_code_and_where_it_lies_are_no_part_of_it(self, monkeypatch):
        before = record()
        entry = zoo.entry("conv-s-035")
        moved = dataclasses.replace(entry, network=zoo.entry("mlla-t").network)
        monkeypatch.setattr(zoo, "entry", lambda _: moved)
        blocks = {type(block) for stage in CONV_S_035.stages for block in stage}
        for kind in (type(CONV_S_035), type(entry.preprocessing), *blocks):
            monkeypatch.setattr(kind, "__module__", "mnv4_deploy.elsewhere")
        assert not any(self.reasons(before).values())

    def test_int8_recipes_that_changed(self, monkeypatch):
        before = record()
        other = dataclasses.replace(recipes.RECIPES["xnnpack"], float_ops=frozenset({"SOFTMAX"}))
        monkeypatch.setitem(recipes.RECIPES, "xnnpack", other)
        assert all("changed" in reason for reason in self.reasons(before).values())

    def test_what_digests_leave_out_decides_no_recorded_file(self):
        """Each of it would have left the delegate, as would what the digest knows nothing of."""
        left_out = {e if isinstance(e, str) else e[0] for e in support_facts.DECIDES_NO_FILE}
        assert left_out <= rules.RULES.keys()
        for made in RECORDS.values():
            for file in made.files:
                if file.target == "xnnpack":
                    assert left_out.isdisjoint(file.outside), (made.model, file.kind)

    def test_a_scale_ratio_that_changed(self, monkeypatch):
        before = record()
        known = recipes.RECIPES["xnnpack"]
        narrower = ("MUL", rules.ScaleRatio(2.0**-16, 2.0**7, of_product=True))
        others = (entry for entry in known.scale_ratios if entry[0] != "MUL")
        other = dataclasses.replace(known, scale_ratios=(*others, narrower))
        monkeypatch.setitem(recipes.RECIPES, "xnnpack", other)
        assert all("changed" in reason for reason in self.reasons(before).values())

    def test_digests_tell_models_apart_and_are_the_same_in_each_process(self):
        digests = {name: support_facts.digest(name) for name in zoo.names()}
        assert len(set(digests.values())) == len(digests)
        code = "from mnv4_deploy.support.facts import digest; print(digest('hybrid-m'))"
        for seed in ("1", "2"):  # of the order of sets
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout.strip() == digests["hybrid-m"]


class TestFile:
    def test_what_is_written_is_read_back_in_the_zoos_order(self, tmp_path):
        path = tmp_path / "facts.json"
        assert support_facts.read(path) == {}
        support_facts.write([record("hybrid-m"), record("mobilenetv2-100")], path)
        support_facts.write([record("conv-s"), record("hybrid-m", parameters=9)], path)
        records = support_facts.read(path)
        assert list(records) == ["conv-s", "hybrid-m", "mobilenetv2-100"]
        assert records["hybrid-m"] == record("hybrid-m", parameters=9)
        assert records["conv-s"] == record("conv-s")
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_records_of_models_that_are_gone_go(self, tmp_path):
        path = tmp_path / "facts.json"
        gone = dataclasses.replace(record(), model="gone")
        support_facts.write([record(), gone], path)
        assert list(support_facts.read(path)) == ["conv-s-035"]

    def test_a_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "facts.json"
        support_facts.write([record()], path)
        before = path.read_bytes()

        def full(*_, **__):
            raise OSError("disk full")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
            patch.setattr(os, "fdopen", full)
            support_facts.write([record("hybrid-m")], path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"models": [{"model": 3}]}', "\udcff"])
    def test_a_damaged_file_is_said_to_be_and_kept(self, text, tmp_path):
        path = tmp_path / "facts.json"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(InputError, match="damaged"):
            support_facts.read(path)
        with pytest.raises(InputError, match="damaged"):
            support_facts.write([record()], path)
        assert path.read_text(encoding="utf-8", errors="surrogateescape") == text


class TestRecording:
    def test_a_format_that_fails_takes_no_other_along(self, monkeypatch):
        fine = tuple(f for f in record().files if f.format == "onnx")

        def child(function, model, *format_, **_):
            assert model == "conv-s-035"
            if function is count:
                return 5, 7
            if format_ == ("tflite",):
                raise ToolchainError("It made the\nnative runtime crash.")
            return fine

        heard: list[str] = []
        monkeypatch.setattr(record_model, "run_isolated", child)
        made = record_model.record_model("conv-s-035", heard.append)
        assert heard == ["counts", "onnx", "tflite"]
        assert (made.parameters, made.macs) == (5, 7)
        assert [file.works for file in made.files] == [True] * 3 + [False] * 4
        assert tuple(file.kind for file in made.files) == KINDS
        assert {f.reason for f in made.files[3:]} == {"It made the native runtime crash."}
        assert made.tools == support_facts.installed_tools()

    def test_an_unknown_model(self):
        with pytest.raises(UnknownModelError):
            record_model.record_model("hybrid-x")

    def test_a_conversion_that_fails_is_the_reason_of_all_its_files(self, monkeypatch, tmp_path):
        from mnv4_deploy.exporters.to_onnx import write as onnx_files

        def fail(*_):
            raise ToolchainError("torch could not export the model.")

        monkeypatch.setattr(onnx_files, "convert", fail)
        reference = load_reference("conv-s-035", "random", size=(32, 32))
        made = list(record_model.make_files(reference, "onnx", tmp_path))
        assert {file.error for file in made} == {"torch could not export the model."}
        assert len(made) == 3

    def test_files_are_judged_by_what_they_compute(self, make):
        """Files that cannot be made, of another network, or with a float operator are seen."""
        made = make("conv-s-035", "tflite")
        right = record_model._Judge(load_reference("conv-s-035", "random:0"))
        fp32, fp16, int8, integers = (right.judge(file) for file in made)
        assert fp32.works and fp32.max_relative_error < 1e-4 == fp32.tolerance
        assert fp32.operators["DEPTHWISE_CONV_2D"] == 15
        assert fp16.works and 30 < fp16.sqnr_db < 90
        assert int8.works and 5 < int8.sqnr_db < fp16.sqnr_db
        assert integers.works and integers.target == "integer-only"
        for_floats = dataclasses.replace(made[3], path=made[2].path)
        assert right.judge(for_floats).reason == "2 operators compute in float"
        lost = right.judge(dataclasses.replace(made[2], error="no int8"))
        assert (lost.works, lost.reason, lost.sqnr_db) == (False, "no int8", None)
        assert right._fp32 is not None
        # Where float16 loses much, as much is asked as PyTorch itself keeps, but for 6 dB.
        assert right._half_sqnr_db == pytest.approx(fp16.sqnr_db, abs=6)
        clean = right._fp32["logits"]
        noise = np.where(np.arange(clean.shape[1]) % 2, 0.85, 1.15)  # about 15 dB
        right._fp32 = {"logits": clean * noise}
        for kept_db, works, least_db in (
            (17.0, True, 11.0),
            (23.0, False, 17.0),
            (40.0, False, 20.0),
            (-3.0, True, 10.0),
        ):
            right.__dict__["_half_sqnr_db"] = kept_db
            noisy = right.judge(made[1])
            assert 13 < noisy.sqnr_db < 17
            assert (noisy.works, noisy.least_sqnr_db) == (works, least_db)
        # Of other images, and PyTorch would keep nothing either.
        right._fp32 = {"logits": clean[::-1]}
        assert "SQNR" in right.judge(made[1]).reason
        wrong = record_model._Judge(load_reference("conv-s-035", "random:1"))
        stranger = wrong.judge(made[0])
        assert not stranger.works
        assert "differs from PyTorch" in stranger.reason
        assert stranger.max_relative_error > 0.1

    def test_half_rounds_every_parameter_and_leaves_the_module_alone(self):
        linear = nn.Linear(48, 2)
        nn.init.constant_(linear.weight, 1 + 2**-12)  # float16 has steps of 2^-10 above 1
        nn.init.constant_(linear.bias, 2**-30)  # and none so small
        images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
        spec = Preprocessing(4, 4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        found = record_model.half_outputs(nn.Sequential(nn.Flatten(), linear), images, spec)
        sums = images.reshape(3, -1).sum(axis=1, keepdims=True).repeat(2, axis=1) / 255
        np.testing.assert_allclose(found["logits"], sums, rtol=1e-5)  # and not 2.4e-4 more
        assert float(linear.weight.detach()[0, 0]) == 1 + 2**-12

    def test_the_command_says_what_cannot_be_used(self, tmp_path):
        script = ROOT / "benchmarks" / "record_support.py"
        damaged = tmp_path / "facts.json"
        damaged.write_text("{", encoding="utf-8")
        for arguments, sentence in (
            (["--models", "hybrid-x"], "no model 'hybrid-x'"),
            (["--models", "conv-s", "--out", str(damaged)], "damaged"),
        ):
            done = subprocess.run(
                [sys.executable, str(script), *arguments],
                env={**os.environ, "PYTHONSAFEPATH": ""},  # it has modules beside it
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 2
            assert done.stdout == ""
            assert sentence in done.stderr and "Traceback" not in done.stderr
        assert damaged.read_text(encoding="utf-8") == "{"


def test_the_shipped_file_is_plain_json_of_this_version():
    content = json.loads(support_facts.FACTS.read_text(encoding="utf-8"))
    assert content["schema_version"] == support_facts.SCHEMA_VERSION
    assert str(Path.home()) not in support_facts.FACTS.read_text(encoding="utf-8")
