"""Makes the int8 file of a choice: changes the float model, converts it once, quantizes it."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters import verify
from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
from mnv4_deploy.exporters.formats import format_module
from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.records import Deviation, Int8Choice
from mnv4_deploy.exporters.recovery.correct_bias import correct_bias
from mnv4_deploy.exporters.recovery.equalize import equalize
from mnv4_deploy.exporters.recovery.rounding import optimise_rounding
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.profiles.records.graph import Format

# All of these are held in memory, with one layer's results for them.
_MAX_IMAGES = 128
_BATCH = 16
_PARITY_IMAGES = 8


class Builder:
    """Files of one format, made of ``module``, its rewritten float32 model.

    ``deviations`` are the proofs that what was converted computes what it should.
    """

    def __init__(self, job: FileJob, format_: Format, module: nn.Module) -> None:
        self.job = job
        self.format: Format = format_
        self.deviations: list[Deviation] = []
        self._module = module
        self._maker = format_module(format_)
        self._sources = {Int8Choice().float_model: job.source(format_)}
        self._finished = {Int8Choice().float_model: job.path(format_, "fp32")}
        self._numbers = itertools.count()

    def prepare(self, choice: Int8Choice) -> None:
        """Change and convert the float model if that was not done yet.

        Raises UnsupportedError where the change finds nothing in this network, and
        VerificationError where the changed model or its file computes something else.
        """
        key = choice.float_model
        if key in self._sources:
            return
        module = self._changed(key)
        source = self._path("source")
        self._maker.convert(module, self.job, source)
        finished = self._path("fp32")
        self._maker.write_float(source, finished, self.job)
        self._check_file(key, module, finished)
        self._sources[key], self._finished[key] = source, finished

    def float_file(self, choice: Int8Choice) -> Path:
        """The float32 file of a prepared choice."""
        return self._finished[choice.float_model]

    def int8_file(self, choice: Int8Choice) -> Path:
        """A new int8 file of a prepared choice. Several threads may ask at once."""
        path = self._path("int8")
        self._maker.write_int8(self._sources[choice.float_model], path, self.job, choice)
        return path

    def _path(self, what: str) -> Path:
        return self.job.work / f"{what}-{next(self._numbers)}.{self.format}"

    def _changed(self, choice: Int8Choice) -> nn.Module:
        """A copy of the module with the choice's weights."""
        module = copy.deepcopy(self._module)
        pixels = self.job.calibration_sample(_MAX_IMAGES)
        batches = [
            torch.from_numpy(normalize(pixels[start : start + _BATCH], self.job.spec))
            .permute(0, 3, 1, 2)
            .contiguous()
            for start in range(0, len(pixels), _BATCH)
        ]
        if choice.equalize:
            module = self._equalized(module, batches)
        weights = self.job.request.targets.weights(self.format)
        if choice.optimise_rounding:
            optimise_rounding(module, batches, weights=weights)
        if choice.correct_bias:
            # After rounding, whose weights it finds on the grid already.
            correct_bias(module, batches, weights=weights)
        return module

    def _equalized(self, module: nn.Module, batches: list[Tensor]) -> nn.Module:
        """Equalized in float64, and proved to compute the same.

        On calibration images: a ReLU6 is kept from clipping on those, and may on others.
        """
        double = copy.deepcopy(module).double()
        sample = self.job.calibration_sample(_PARITY_IMAGES)
        outputs = self.job.reference.outputs
        expected = verify.run_module(double, sample, self.job.spec, outputs, double=True)
        report = equalize(double, batches[0][:1].double(), (batch.double() for batch in batches))
        if not report.changed:
            raise UnsupportedError("this network has no layers that it applies to")
        actual = verify.run_module(double, sample, self.job.spec, outputs, double=True)
        subject = f"the equalized model for {self.format}"
        self._demand(verify.compare(subject, "PyTorch", actual, expected, "float64"))
        return double.float()

    def _check_file(self, choice: Int8Choice, module: nn.Module, path: Path) -> None:
        """The converted file computes what the changed module computes."""
        sample = self.job.calibration_sample(_PARITY_IMAGES)
        expected = ExpectedOutputs(
            module, sample, self.job.spec, self.job.reference.outputs, "its PyTorch model"
        )
        subject = f"{_changes(choice)} {self.job.path(self.format, 'fp32').name}"
        self._demand(expected.compare(subject, self.job.run(path, sample), "float32"))

    def _demand(self, deviation: Deviation) -> None:
        verify.raise_if_failed([deviation])
        self.deviations.append(deviation)


def _changes(choice: Int8Choice) -> str:
    done = {
        "equalized": choice.equalize,
        "rounded": choice.optimise_rounding,
        "bias-corrected": choice.correct_bias,
    }
    return ", ".join(name for name, is_done in done.items() if is_done)
