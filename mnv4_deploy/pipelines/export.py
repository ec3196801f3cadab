"""An export from end to end: composes the stages and owns no step of its own.

    load weights -> rewrite -> convert -> verify -> quantize -> search the budget -> publish

Everything is checked that can be checked before the first slow step, and everything is written
to a staging folder that is published only when all files agree with the PyTorch model.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.exporters.records import (
    Artifact,
    Deviation,
    Drift,
    ExportRequest,
    ExportResult,
    FileAudit,
    Int8Choice,
    RewriteSummary,
    SearchResult,
)
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.outputs import (
    MANIFEST,
    check_free,
    schema_of,
    staged,
    write_manifest,
)
from mnv4_deploy.pipelines.export_warnings import warnings_of
from mnv4_deploy.pipelines.manifest import build_manifest
from mnv4_deploy.pipelines.native_size import asks_for_another_size, size_warnings
from mnv4_deploy.pipelines.not_ours import check_source
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.progress import Progress
from mnv4_deploy.versions import tool_versions

if TYPE_CHECKING:
    from torch import nn

    from mnv4_deploy.exporters.evaluation import Evaluation
    from mnv4_deploy.images.records import Pixels
    from mnv4_deploy.images.sets import SelectedImages
    from mnv4_deploy.models.weights import ReferenceModel
    from mnv4_deploy.sessions.outputs import Outputs

    _Fp32 = dict[Format, Outputs]
    _Drifts = dict[tuple[Format, str], Drift]

_PARITY_IMAGES = 16


@dataclass(frozen=True)
class _Inputs:
    """Everything that is known before the first slow step."""

    reference: ReferenceModel
    calibration: SelectedImages | None
    evaluation: Evaluation
    warnings: tuple[str, ...] = ()


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Run an export and publish its files in ``request.out``.

    Raises InputError for anything wrong with what was asked, VerificationError where a file does
    not compute what the PyTorch model computes, ToolchainError where a library fails. In each
    case nothing appears in ``request.out``.
    """
    from mnv4_deploy.exporters.ranges import check_method

    progress = progress or Progress(show=False)
    check_source(request.source)
    check_method(request.calibration_method)
    names = [request.file_name(f, p) for f in request.formats for p in request.precisions]
    check_free(request.out, overwrite=request.overwrite, names=names)
    with progress.stage("Load weights and images"):
        inputs = _gather(request)
    if asks_for_another_size(request, inputs.evaluation):
        with progress.stage("Compare with the size of the weights"):
            found = size_warnings(request, inputs.reference, inputs.evaluation)
        inputs = replace(inputs, warnings=(*inputs.warnings, *found))
    with staged(request.out, overwrite=request.overwrite) as folder:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            result = _Export(request, inputs, folder, Path(work), progress).run()
        write_manifest(folder, result.manifest, indent=1)
    return result


def _gather(request: ExportRequest) -> _Inputs:
    from mnv4_deploy.images import sets as images

    for count in (request.evaluation_images, request.calibration_images if request.int8 else None):
        if count is not None and count < images.MIN_IMAGES:
            raise ImagesError(f"{count} images are too few: use at least {images.MIN_IMAGES}.")
    # Folders are looked at before the weights: they are quick to find wrong.
    folders = {
        spec: images.open_folder(Path(spec))
        for spec in (request.calibration, request.evaluation)
        if spec not in ("bundled", "random")
    }
    reference = request.preprocessing.applied_to(request.source.load())
    given = None if request.labels is None else str(request.labels)
    classes = request.task.name_classes(
        reference, reference.labels_from, request.evaluation, given
    )
    reference = replace(reference, labels=classes.labels, labels_from=classes.source)
    calibration = None
    if request.int8:
        if request.calibration == "random":
            calibration = images.random_images(request.calibration_images)
        else:
            found = folders.get(request.calibration) or request.task.find_images(
                "bundled", "calibration", reference
            )
            calibration = images.select(found, request.calibration_images)
    evaluation = _evaluation(request, reference, classes.labels_file)
    if request.max_drop is not None and not evaluation.labelled:
        raise ImagesError(
            f"--max-drop needs evaluation images with known answers, and those of "
            f"'{evaluation.source.name}' are not: {request.task.truth_advice} as --eval."
        )
    if calibration is not None and (shared := calibration.source.overlap(evaluation.source)):
        raise ImagesError(
            f"{shared} images are in both the calibration and the evaluation set: keep the two "
            "apart, or the accuracy figures mean nothing."
        )
    warnings = warnings_of(request, reference, calibration, evaluation)
    return _Inputs(reference, calibration, evaluation, warnings)


def _evaluation(
    request: ExportRequest, reference: ReferenceModel, labels_file: str | None
) -> Evaluation:
    from mnv4_deploy.exporters.evaluation import Evaluation
    from mnv4_deploy.images import sets as images

    task = request.task
    found = task.find_images(request.evaluation, "evaluation", reference, labels_file)
    selected = images.select(found, request.evaluation_images)
    # What an untrained network answers is neither right nor wrong.
    knows = reference.source.kind != "random"
    return Evaluation(
        task=task,
        reference=reference,
        source=selected.source,
        images=tuple(
            DatasetImage(str(ref.path), ref.path.name, ref.truth if knows else None)
            for ref in selected.refs
            if isinstance(ref, images.ImageRef)
        ),
        pixels=selected.pixels(reference.preprocessing, task.prepare),
    )


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
        self.warnings = inputs.warnings
        self.progress = progress
        self.spec = inputs.reference.preprocessing
        self.size = (self.spec.height, self.spec.width)
        self.choice = Int8Choice(method=request.calibration_method)
        self.rewrites: list[RewriteSummary] = []
        self.deviations: list[Deviation] = []
        self.histograms: dict[str, dict[str, dict[str, int]]] = {}
        self._modules: dict[Format, nn.Module] = {}

    def run(self) -> ExportResult:
        from mnv4_deploy.exporters import audit, verify
        from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
        from mnv4_deploy.exporters.formats import format_module
        from mnv4_deploy.exporters.job import in_parallel
        from mnv4_deploy.exporters.one_thread import one_thread
        from mnv4_deploy.models.macs import count_macs

        parity = self.evaluation.pixels[:_PARITY_IMAGES]
        with self.progress.stage("Run the PyTorch reference"):
            expected = ExpectedOutputs(
                self.reference.module, parity, self.spec, self.reference.outputs
            )
        for format_ in self.request.formats:
            module = self._rewritten(format_, parity)
            with self.progress.stage(f"Convert to {format_}"), one_thread():
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
                        continue  # is compared with fp32
                    path = self.job.path(format_, precision)
                    outputs = self.job.run(path, parity)
                    tier = "float16" if precision == "fp16" else "float32"
                    self.deviations.append(expected.compare(path.name, outputs, tier))
        verify.raise_if_failed(self.deviations)
        if self.request.int8:
            self._quantize()
        fp32, drifts = self._compare()
        int8 = self._search(fp32, drifts) if self.request.int8 else SearchResult((), (), ())
        self.deviations += int8.deviations
        with self.progress.stage("Check what the files really are"):
            audits = in_parallel(
                lambda a: audit.check(a.path, self._float_reasons(a, int8)), self._artifacts()
            )
        macs = count_macs(self.reference.module, self.size)
        final = dict(zip(self.request.formats, int8.drifts, strict=False))
        told = tuple(
            final[format_] if precision == "int8" else drift
            for (format_, precision), drift in drifts.items()
        )
        return self._result(int8, told, audits, macs)

    def _quantize(self) -> None:
        from mnv4_deploy.exporters.formats import format_module
        from mnv4_deploy.exporters.job import in_parallel

        with self.progress.stage("Quantize to int8"):
            in_parallel(
                lambda format_: format_module(format_).write_int8(
                    self.job.source(format_), self.job.path(format_, "int8"), self.job, self.choice
                ),
                self.request.formats,
            )

    def _compare(self) -> tuple[_Fp32, _Drifts]:
        """What the fp32 files make of the evaluation images, and how far the others are off."""
        from mnv4_deploy.exporters.job import in_parallel

        formats, others = self.request.formats, self.request.precisions[1:]
        if not others:
            return {}, {}
        paths = [self.job.path(f, p) for f in formats for p in ("fp32", *others)]
        with self.progress.stage(f"Compare {' and '.join(others)} to fp32"):
            outputs = in_parallel(lambda path: self.job.run(path, self.evaluation.pixels), paths)
            by_path = dict(zip(paths, outputs, strict=True))
            fp32: _Fp32 = {f: by_path[self.job.path(f, "fp32")] for f in formats}
            drifts = {}
            for format_, precision in itertools.product(formats, others):
                path = self.job.path(format_, precision)
                found = self.evaluation.drift(path.name, by_path[path], fp32[format_])
                drifts[format_, precision] = found
        return fp32, drifts

    def _search(self, fp32: _Fp32, drifts: _Drifts) -> SearchResult:
        """Where there is a budget, the int8 files are made again until they meet it."""
        first = tuple(drifts[format_, "int8"] for format_ in self.request.formats)
        if self.request.max_drop is None:
            return SearchResult((), first, ())
        from mnv4_deploy.budget.run import search_all
        from mnv4_deploy.budget.trials import HeldOut

        held = HeldOut(self.evaluation, fp32)
        return search_all(self.job, self._modules, self.choice, held, first, self.progress)

    def _float_reasons(self, artifact: Artifact, int8: SearchResult) -> dict[str, str]:
        """Why nodes of the int8 .onnx file are float, as its quantizer says; of others nothing."""
        from mnv4_deploy.exporters.to_onnx.write import float_reasons

        if (artifact.format, artifact.precision) != ("onnx", "int8"):
            return {}
        chosen = {search.format: search.chosen.choice for search in int8.searches}
        return float_reasons(self.job, chosen.get("onnx", Int8Choice()))

    def _rewritten(self, format_: Format, parity: Pixels) -> nn.Module:
        """The module to convert, proved equal in float64 before it is used."""
        import copy

        from mnv4_deploy.exporters import verify
        from mnv4_deploy.exporters.one_thread import one_thread
        from mnv4_deploy.exporters.rewrites.chains import first_wrong, rewrite

        with self.progress.stage("Rewrite"), one_thread():
            double = copy.deepcopy(self.reference.module).double()
            rewritten = rewrite(double, format_, self.size)
            sample, outputs = parity[:1], self.reference.outputs
            expected = verify.run_module(double, sample, self.spec, outputs, double=True)

            def proof(module: nn.Module) -> Deviation:
                subject = f"the rewritten model for {format_}"
                found = verify.run_module(module, sample, self.spec, outputs, double=True)
                return verify.compare(subject, "PyTorch", found, expected, "float64")

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
            Artifact(path, format_, names[precision], path.stat().st_size, file_sha256(path))
            for format_, precision, path in paths
        )

    def _result(
        self,
        int8: SearchResult,
        drifts: tuple[Drift, ...],
        audits: tuple[FileAudit, ...],
        macs: int,
    ) -> ExportResult:
        artifacts = tuple(
            replace(artifact, path=self.request.out / artifact.path.name)
            for artifact in self._artifacts()
        )
        manifest = build_manifest(
            request=self.request,
            reference=self.reference,
            macs=macs,
            artifacts=artifacts,
            rewrites=tuple(self.rewrites),
            layer_histograms=self.histograms,
            calibration=None if self.job.calibration is None else self.job.calibration.source,
            evaluation=self.evaluation.source,
            deviations=tuple(self.deviations),
            drifts=drifts,
            searches=int8.searches,
            audits=audits,
            warnings=self.warnings,
            seconds_by_stage=self.progress.seconds_by_stage,
        )
        return ExportResult(
            request=self.request,
            artifacts=artifacts,
            rewrites=tuple(self.rewrites),
            deviations=tuple(self.deviations),
            drifts=drifts,
            audits=audits,
            seconds_by_stage=dict(self.progress.seconds_by_stage),
            manifest={"schema": schema_of(MANIFEST), **manifest},
            searches=int8.searches,
        )
