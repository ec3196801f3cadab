"""The search on real files of a small network with a planted fault, in both formats."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from mnv4_deploy.budget import trials
from mnv4_deploy.budget.build import Builder
from mnv4_deploy.budget.latency import latencies
from mnv4_deploy.budget.run import search_all
from mnv4_deploy.budget.search import Step
from mnv4_deploy.budget.trials import FileTrialRunner, HeldOut
from mnv4_deploy.errors import UnsupportedError, VerificationError
from mnv4_deploy.exporters import verify
from mnv4_deploy.exporters.evaluation import Evaluation
from mnv4_deploy.exporters.formats import format_module
from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.records import ExportRequest, Int8Choice, NotTried
from mnv4_deploy.exporters.recovery.equalize import equalize
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.images.sets import ImageSource, SelectedImages
from mnv4_deploy.models.records import Preprocessing, WeightsSource
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.progress import Progress
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

pytestmark = pytest.mark.usefixtures("no_child")
SIDE, CLASSES, CHANNELS = 16, 8, 16
SPEC = Preprocessing(SIDE, SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FORMATS = ("onnx", "tflite")


class Net(nn.Module):
    """A depthwise network whose channels differ in size by ``spread``, and compute the same.

    In int8 the small channels of ``wide`` get next to no levels of the tensor's one scale.
    """

    def __init__(self, spread):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.head = nn.Linear(CHANNELS, CLASSES)
        factor = torch.logspace(0, np.log10(spread), CHANNELS)
        with torch.no_grad():
            self.wide.weight *= factor.view(-1, 1, 1, 1)
            self.wide.bias *= factor
            self.mix.weight /= factor.view(1, -1, 1, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.wide(x))
        x = torch.relu(self.mix(x))
        return self.head(x.mean((2, 3)))


def _job(folder, net, max_drop):
    request = ExportRequest("net", folder, int8=True, max_drop=max_drop)
    source = WeightsSource("random", "planted")
    reference = ReferenceModel("net", net, SPEC, (), source, 1, CLASSES)
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    return FileJob(request, reference, _images(0, 64), out, work, {})


class Blot:
    """An image of one colour and some noise, as different from others as photographs are."""

    truth = None

    def __init__(self, seed):
        self.seed = seed

    def pixels(self, spec, prepare=None):
        del prepare
        generator = np.random.default_rng(self.seed)
        colour = generator.integers(0, 256, 3)
        noise = generator.normal(0, 40, (spec.height, spec.width, 3))
        return np.clip(colour + noise, 0, 255).astype(np.uint8)


def _images(first, count):
    source = ImageSource("folder", "blots", count, "")
    blots: Any = tuple(Blot(seed) for seed in range(first, first + count))
    return SelectedImages(source, blots)


class World:
    """A job whose float32 and int8 files are there, and images labelled by the float32 file."""

    def __init__(self, folder, spread=300.0, max_drop=0.0, formats=FORMATS):
        self.module = Net(spread).eval()
        self.job = _job(folder, self.module, max_drop)
        outputs = verify.run_module(self.module, self.job.calibration_sample(64), SPEC)["logits"]
        with torch.no_grad():  # or every image would be of one class
            self.module.head.bias.sub_(torch.from_numpy(outputs.mean(0)))
        self.pixels = _images(1000, 400).pixels(SPEC)
        self.choice = Int8Choice()
        self.fp32, drifts = {}, []
        for format_ in formats:
            make, source = format_module(format_), self.job.source(format_)
            paths = [self.job.path(format_, precision) for precision in ("fp32", "int8")]
            make.convert(self.module, self.job, source)
            make.write_float(source, paths[0], self.job)
            make.write_int8(source, paths[1], self.job, self.choice)
            self.fp32[format_] = self.job.run(paths[0], self.pixels)
            self.labels = tuple(int(i) for i in self.fp32[format_]["logits"].argmax(1))
            drifts.append(self.drift(format_, paths[1]))
        self.drifts = tuple(drifts)

    def drift(self, format_, path):
        outputs = self.job.run(path, self.pixels)
        return self.evaluation.drift(path.name, outputs, self.fp32[format_])

    @property
    def evaluation(self):
        images = tuple(DatasetImage("", str(i), label) for i, label in enumerate(self.labels))
        source = ImageSource("folder", "blots", len(images), "")
        return Evaluation(CLASSIFICATION, self.job.reference, source, images, self.pixels)

    def run_search(self):
        held = HeldOut(self.evaluation, self.fp32)
        modules = dict.fromkeys(self.fp32, self.module)
        quiet = Progress(show=False)
        return search_all(self.job, modules, self.choice, held, self.drifts, quiet)

    def trial_runner(self, format_):
        builder = Builder(self.job, format_, self.module)
        first = self.job.path(format_, "int8")
        quiet = Progress(show=False)
        return FileTrialRunner(builder, first, HeldOut(self.evaluation, self.fp32), quiet)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def found(world):
    """Both searches to the top: no int8 file of this network answers as the float32 file does."""
    before = [file_sha256(world.job.path(format_, "fp32")) for format_ in FORMATS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "_LAYERS", 1)
        result = world.run_search()
    assert [file_sha256(world.job.path(format_, "fp32")) for format_ in FORMATS] == before
    return result


class TestClimb:
    def test_equalization_is_adopted_and_buys_the_planted_loss_back(self, found):
        for search in found.searches:
            by_name = {trial.name: trial for trial in search.trials}
            first, equalized = by_name["calibration average"], by_name["equalization"]
            assert first.drop > 30
            assert equalized.adopted
            assert equalized.drop < first.drop - 20
            assert equalized.median_sqnr_db > first.median_sqnr_db + 6
            assert search.chosen.choice.equalize

    def test_all_trials_were_tried_in_order(self, found):
        for format_, search in zip(FORMATS, found.searches, strict=True):
            assert search.format == format_
            names = [trial.name for trial in search.trials]
            assert names[:8] == [
                *("calibration average", "calibration minmax", "calibration percentile"),
                *("calibration mse", "calibration entropy"),
                *("equalization", "bias correction", "rounding"),
            ]
            assert all(trial.reason for trial in search.trials if not trial.adopted)
            assert search.trials[0].latency_ratio == search.trials[0].size_ratio == 1
            precisions = {layer.precision for layer in search.sensitivities}
            assert precisions == ({"float"} if format_ == "onnx" else {"float", "int16x8"})
            assert search.not_tried == ()

    def test_the_file_in_place_is_the_chosen_one(self, world, found):
        for format_, search, drift in zip(FORMATS, found.searches, found.drifts, strict=True):
            path = world.job.path(format_, "int8")
            again = world.drift(format_, path)
            assert again == drift
            assert search.chosen.drop == pytest.approx(100 - again.figures["top1"])
            assert search.chosen.size_bytes == path.stat().st_size
            adopted = [trial for trial in search.trials if trial.adopted]
            assert search.chosen.drop == min(trial.drop for trial in adopted)

    def test_equalized_models_are_proved_and_all_conversions_checked(self, found):
        proofs = {proof.subject: proof for proof in found.deviations}
        assert all(proof.ok for proof in found.deviations)
        for format_ in FORMATS:
            assert proofs[f"the equalized model for {format_}"].tier == "float64"
            assert proofs[f"equalized net-fp32.{format_}"].tier == "float32"
            corrected = f"equalized, bias-corrected net-fp32.{format_}"
            assert proofs[corrected].against == "its PyTorch model"

    def test_a_file_is_the_same_each_time(self, world, found):
        choice = found.searches[0].chosen.choice
        builder = Builder(world.job, "onnx", world.module)
        builder.prepare(choice)
        again = builder.int8_file(choice).read_bytes()
        assert again == world.job.path("onnx", "int8").read_bytes()


def test_a_file_that_cannot_be_made_is_told_in_its_place(world):
    steps = [
        Step("no such layer", Int8Choice(float_layers=("nonsense",))),
        Step("plain", Int8Choice("minmax")),
    ]
    missing, plain = world.trial_runner("onnx").measure("both", steps)
    assert isinstance(missing, NotTried)
    assert missing.name == "no such layer"
    assert "nonsense" in missing.reason
    assert plain.name == "plain"
    assert plain.choice.method == "minmax"


def test_a_network_without_pairs_has_nothing_to_equalize(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3)).eval()
    builder = Builder(_job(tmp_path, net, 1.0), "onnx", net)
    with pytest.raises(UnsupportedError, match="no layers that it applies to"):
        builder.prepare(Int8Choice(equalize=True))


def test_a_wrong_equalization_is_not_believed(tmp_path, monkeypatch):
    net = Net(30.0).eval()

    def wrong(module, *arguments):
        report = equalize(module, *arguments)
        with torch.no_grad():
            next(module.parameters())[0] *= 1 + 1e-6
        return report

    monkeypatch.setattr("mnv4_deploy.budget.build.equalize", wrong)
    builder = Builder(_job(tmp_path, net, 1.0), "onnx", net)
    with pytest.raises(VerificationError, match="the equalized model for onnx"):
        builder.prepare(Int8Choice(equalize=True))


def test_choices_that_change_weights_alike_share_one_conversion():
    equalized = Int8Choice(equalize=True)
    assert Int8Choice("mse", float_layers=("a",)).float_model == Int8Choice().float_model
    assert replace(equalized, method="mse").float_model == equalized.float_model
    assert equalized.float_model != Int8Choice().float_model
    corrected = Int8Choice(correct_bias=True)
    assert replace(corrected, method="mse").float_model == corrected.float_model


def test_latencies_are_over_the_first_file(tmp_path):
    def products(count):
        names = [f"y{i}" for i in range(count + 1)]
        nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
        value = partial(helper.make_tensor_value_info, elem_type=1, shape=[128, 128])
        weights = numpy_helper.from_array(np.eye(128, dtype=np.float32), "w")
        graph = helper.make_graph(nodes, "g", [value("y0")], [value(names[-1])], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        path = tmp_path / f"{count}.onnx"
        onnx.save(model, path)
        return path

    measured = latencies([products(4), products(32), products(4)])
    assert measured.ratios[0] == 1
    # Eight times the work, on a machine that may be busy with other tests.
    assert measured.ratios[1] > 3
    assert 1 / 3 < measured.ratios[2] < 3
    assert measured.median_us > 1
