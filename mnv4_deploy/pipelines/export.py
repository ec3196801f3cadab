"""An export from end to end: composes the stages and owns no step of its own.

    load weights -> rewrite -> convert -> verify -> quantize -> search the budget -> publish

Everything is checked that can be checked before the first slow step, and everything is written
to a staging folder that is published only when all files agree with the PyTorch model.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.exporters.records import (
    Artifact,
    Deviation,
    ExportRequest,
    ExportResult,
    FileAudit,
    Format,
    Int8Choice,
    RewriteSummary,
    SearchResult,
)
from mnv4_deploy.outputs import (
    MANIFEST,
    check_free,
    schema_of,
    sha256,
    staged,
    write_manifest,
)
from mnv4_deploy.pipelines import manifest as manifests
from mnv4_deploy.progress import Progress
from mnv4_deploy.versions import tool_versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from mnv4_deploy.images.sets import SelectedImages
    from mnv4_deploy.models.weights import ReferenceModel

_PARITY_IMAGES = 16
_COMPARED = ("fp32", "int8")


@dataclass(frozen=True)
class _Inputs:
    """Everything that is known before the first slow step."""

    reference: ReferenceModel
    calibration: SelectedImages | None
    evaluation: SelectedImages


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Run an export and publish its files in ``request.out``.

    Raises InputError for anything wrong with what was asked, VerificationError where a file does
    not compute what the PyTorch model computes, ToolchainError where a library fails. In each
    case nothing appears in ``request.out``.
    """
    from mnv4_deploy.exporters.ranges import check_method
    from mnv4_deploy.exporters.recipes import recipe
    from mnv4_deploy.models import zoo

    progress = progress or Progress(show=False)
    zoo.entry(request.model)
    if request.size is not None:
        zoo.check_size(request.model, request.size)
    recipe(request.target)
    check_method(request.calibration_method)
    names = [request.file_name(f, p) for f in request.formats for p in request.precisions]
    check_free(request.out, overwrite=request.overwrite, names=names)
    with progress.stage("Load weights and images"):
        inputs = _gather(request)
    with staged(request.out, overwrite=request.overwrite) as folder:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            result = _Export(request, inputs, folder, Path(work), progress).run()
        write_manifest(folder, result.manifest, indent=1)
    return result


def _gather(request: ExportRequest) -> _Inputs:
    from mnv4_deploy.images import sets as images
    from mnv4_deploy.models.weights import load_reference

    for count in (request.evaluation_images, request.calibration_images if request.int8 else None):
        if count is not None and count < images.MIN_IMAGES:
            raise ImagesError(f"{count} images are too few: use at least {images.MIN_IMAGES}.")
    # Folders are looked at before the weights: they are quick to find wrong.
    folders = {
        spec: images.open_folder(Path(spec))
        for spec in (request.calibration, request.evaluation)
        if spec not in ("bundled", "random")
    }
    reference = load_reference(
        request.model, request.weights, size=request.size, num_classes=request.num_classes
    )
    if request.crop_pct is not None:
        spec = replace(reference.preprocessing, crop_pct=request.crop_pct)
        reference = replace(reference, preprocessing=spec)
    calibration = None
    if request.int8:
        if request.calibration == "random":
            calibration = images.random_images(request.calibration_images)
        else:
            found = (
                images.bundled_calibration(reference)
                if request.calibration == "bundled"
                else folders[request.calibration]
            )
            calibration = images.select(found, request.calibration_images)
    if request.evaluation == "bundled":
        to_evaluate = images.bundled_evaluation(reference)
    else:
        to_evaluate = images.open_folder(Path(request.evaluation), reference.labels)
    evaluation = images.select(to_evaluate, request.evaluation_images)
    if request.max_drop is not None and not any(x is not None for x in evaluation.labels):
        raise ImagesError(
            f"--max-drop needs evaluation images with known classes, and those of "
            f"'{evaluation.source.name}' are not: give --eval a folder with one subfolder a class."
        )
    if calibration is not None and (shared := calibration.source.overlap(evaluation.source)):
        raise ImagesError(
            f"{shared} images are in both the calibration and the evaluation set: keep the two "
            "apart, or the accuracy figures mean nothing."
        )
    return _Inputs(reference, calibration, evaluation)


class _Export:
    """The slow part, between a staging folder and a result."""

    def __init__(
        self, request: ExportRequest, inputs: _Inputs, folder: Path, work: Path, progress: Progress
    ) -> None:
        from mnv4_deploy.exporters.job import FileJob

        self.job = FileJob(
            request, inputs.reference, inputs.calibration, folder, work, tool_versions()
        )
        self.request = request
        self.reference = inputs.reference
        self.evaluation = inputs.evaluation
        self.progress = progress
        self.spec = inputs.reference.preprocessing
        self.size = (self.spec.height, self.spec.width)
        self.rewrites: list[RewriteSummary] = []
        self.deviations: list[Deviation] = []
        self.histograms: dict[str, dict[str, dict[str, int]]] = {}
        self._modules: dict[Format, nn.Module] = {}

    def run(self) -> ExportResult:
        from mnv4_deploy.exporters import audit as truth
        from mnv4_deploy.exporters import verify
        from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
        from mnv4_deploy.exporters.formats import format_module
        from mnv4_deploy.exporters.job import in_parallel
        from mnv4_deploy.models.macs import count_macs
        from mnv4_deploy.sessions import image_runner as run_artifact

        shown = run_artifact.pixels(self.evaluation, self.spec)
        parity = shown[:_PARITY_IMAGES]
        with self.progress.stage("Run the PyTorch reference"):
            expected = ExpectedOutputs(self.reference.module, parity, self.spec)
        for format_ in self.request.formats:
            module = self._rewritten(format_, parity)
            with self.progress.stage(f"Convert to {format_}"):
                make, source = format_module(format_), self.job.source(format_)
                make.convert(module, self.job, source)
                make.write_float(source, self.job.path(format_, "fp32"), self.job)
                if self.request.fp16:
                    make.write_half(self.job)
            if self.request.max_drop is not None:
                self._modules[format_] = module
        with self.progress.stage("Verify against PyTorch"):
            for format_ in self.request.formats:
                for precision in self.request.precisions:
                    if precision == "int8":
                        continue  # is compared with fp32, by drift
                    path = self.job.path(format_, precision)
                    outputs = self.job.run(path, parity)
                    tier = "half" if precision == "fp16" else "close"
                    self.deviations.append(expected.compare(path.name, outputs, tier))
        verify.raise_if_failed(self.deviations)
        int8 = self._int8(shown) if self.request.int8 else SearchResult((), (), ())
        self.deviations += int8.deviations
        with self.progress.stage("Check what the files really are"):
            audits = in_parallel(truth.check, [a.path for a in self._artifacts()])
        macs = count_macs(self.request.model, self.size, self.reference.num_classes)
        return self._result(int8, audits, macs)

    def _int8(self, shown: npt.NDArray[np.uint8]) -> SearchResult:
        """Write the int8 files and, where there is a budget, search until they meet it."""
        from mnv4_deploy.exporters import verify
        from mnv4_deploy.exporters.formats import format_module
        from mnv4_deploy.exporters.job import in_parallel

        choice = Int8Choice(method=self.request.calibration_method)
        formats = self.request.formats
        with self.progress.stage("Quantize to int8"):
            in_parallel(
                lambda format_: format_module(format_).write_int8(
                    self.job.source(format_), self.job.path(format_, "int8"), self.job, choice
                ),
                formats,
            )
        with self.progress.stage("Compare int8 to fp32"):
            paths = [self.job.path(f, precision) for f in formats for precision in _COMPARED]
            outputs = in_parallel(lambda path: self.job.run(path, shown), paths)
            by_path = dict(zip(paths, outputs, strict=True))
            fp32 = {f: by_path[self.job.path(f, "fp32")] for f in formats}
            drifts = tuple(
                verify.measure_drift(
                    path.name, by_path[path], fp32[format_], self.evaluation.labels
                )
                for format_ in formats
                for path in (self.job.path(format_, "int8"),)
            )
        if self.request.max_drop is None:
            return SearchResult((), drifts, ())
        from mnv4_deploy.budget.run import HeldOut, search_all

        held = HeldOut(self.evaluation.labels, shown, fp32)
        return search_all(self.job, self._modules, choice, held, drifts, self.progress)

    def _rewritten(self, format_: Format, parity: npt.NDArray[np.uint8]) -> nn.Module:
        """The module to convert, proved equal in float64 before it is used."""
        import copy

        from mnv4_deploy.exporters import verify
        from mnv4_deploy.exporters.rewrites.chains import first_wrong, rewrite

        with self.progress.stage("Rewrite"):
            double = copy.deepcopy(self.reference.module).double()
            rewritten = rewrite(double, format_, self.size)
            sample = parity[:1]
            expected = verify.run_module(double, sample, self.spec, double=True)

            def proof(module: nn.Module) -> Deviation:
                subject = f"the rewritten model for {format_}"
                found = verify.run_module(module, sample, self.spec, double=True)
                return verify.compare(subject, "PyTorch", found, expected, "exact")

            deviation = proof(rewritten.module)
            if not deviation.ok:
                culprit = first_wrong(double, format_, self.size, lambda m: proof(m).ok)
                subject = f"{deviation.subject}, from its {culprit or 'last step'} on,"
                verify.raise_if_failed([replace(deviation, subject=subject)])
        self.deviations.append(deviation)
        self.histograms[format_] = {
            "before": rewritten.histogram_before,
            "after": rewritten.histogram_after,
        }
        kept = {**self.job.float_modules, format_: rewritten.float_modules}
        self.job = replace(self.job, float_modules=kept)
        self.rewrites += [
            RewriteSummary(format_, report.name, report.changed, report.refused)
            for report in rewritten.reports
        ]
        return rewritten.module.float()

    def _artifacts(self) -> tuple[Artifact, ...]:
        names = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
        paths = [
            (format_, precision, self.job.path(format_, precision))
            for format_ in self.request.formats
            for precision in self.request.precisions
        ]
        return tuple(
            Artifact(path, format_, names[precision], path.stat().st_size, sha256(path))
            for format_, precision, path in paths
        )

    def _result(
        self, int8: SearchResult, audits: tuple[FileAudit, ...], macs: int
    ) -> ExportResult:
        artifacts = tuple(
            replace(artifact, path=self.request.out / artifact.path.name)
            for artifact in self._artifacts()
        )
        manifest = manifests.build(
            request=self.request,
            reference=self.reference,
            macs=macs,
            artifacts=artifacts,
            rewrites=tuple(self.rewrites),
            layer_histograms=self.histograms,
            calibration=None if self.job.calibration is None else self.job.calibration.source,
            evaluation=self.evaluation.source,
            deviations=tuple(self.deviations),
            drifts=int8.drifts,
            searches=int8.searches,
            audits=audits,
            seconds_by_stage=self.progress.seconds_by_stage,
        )
        return ExportResult(
            request=self.request,
            artifacts=artifacts,
            rewrites=tuple(self.rewrites),
            deviations=tuple(self.deviations),
            drifts=int8.drifts,
            audits=audits,
            seconds_by_stage=dict(self.progress.seconds_by_stage),
            manifest={"schema": schema_of(MANIFEST), **manifest},
            searches=int8.searches,
        )
