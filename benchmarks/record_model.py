"""Finds out which files of a model work, by making them: for ``record_support.py``.

The weights are random, with every norm, scale and bias away from its initial value: an untouched
network hides whole classes of mistakes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import DeployError
from mnv4_deploy.exporters.records import FORMATS, ExportRequest, FileAudit, Int8Choice
from mnv4_deploy.models import zoo
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.outputs import Outputs
from mnv4_deploy.support import facts as support_facts
from mnv4_deploy.support.catalogue import count
from mnv4_deploy.support.facts import KINDS, FileSupport, Kind, ModelSupport
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.rows import output_columns, output_figures

if TYPE_CHECKING:
    from torch import nn

    from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
    from mnv4_deploy.exporters.job import FileJob
    from mnv4_deploy.images.records import Pixels
    from mnv4_deploy.models.records import Preprocessing
    from mnv4_deploy.models.weights import ReferenceModel

WEIGHTS = "random:0"
IMAGES = 16
# A file that computes something else has as much noise as signal, 0 dB or less; random weights
# amplify rounding more than trained ones do (that of float16 weights to 30 dB in EfficientViT-M4).
MIN_SQNR_DB = {"fp16": 20.0, "int8": 3.0}
# A float16 file may have twice the noise of PyTorch with float16 weights. Where PyTorch itself
# keeps next to nothing, such weights are of no use: that is the least for any file.
HALF_MARGIN_DB = 6.0
LEAST_HALF_SQNR_DB = 10.0
_TIMEOUT_S = 3600.0
_MEMORY_BYTES = 64 << 30
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Made:
    """A file that was written, or the sentence why it could not be."""

    kind: Kind
    path: Path
    error: str = ""


def record_model(model: str, told: Callable[[str], None] = lambda _: None) -> ModelSupport:
    """Export ``model`` in all ``KINDS``, each format in a process of its own.

    A format whose process fails, or crashes, has that as the reason. ``told`` hears what is
    next. Raises UnknownModelError for a model that does not exist.
    """
    entry = zoo.entry(model)
    told("counts")
    parameters, macs = run_isolated(count, model)
    files: list[FileSupport] = []
    for format_ in FORMATS:
        told(format_)
        try:
            files += run_isolated(
                record_format,
                model,
                format_,
                timeout_s=_TIMEOUT_S,
                memory_bytes=_MEMORY_BYTES,
            )
        except DeployError as error:
            files += [_failed(kind, _sentence(error)) for kind in kinds(format_)]
    return ModelSupport(
        model=entry.name,
        depends_on=support_facts.digest(model),
        parameters=parameters,
        macs=macs,
        tools=support_facts.installed_tools(),
        files=tuple(files),
    )


def kinds(format_: Format) -> tuple[Kind, ...]:
    return tuple(kind for kind in KINDS if kind.format == format_)


def record_format(model: str, format_: Format) -> tuple[FileSupport, ...]:
    """Make the files of one format in this process and judge each."""
    from mnv4_deploy.models.weights import load_reference

    reference = load_reference(model, WEIGHTS)
    with scratch_folder() as folder:
        judge = _Judge(reference)
        return tuple(judge.judge(made) for made in make_files(reference, format_, folder))


def make_files(reference: ReferenceModel, format_: Format, folder: Path) -> Iterator[Made]:
    """Write the files of all kinds of one format below ``folder``, the float32 one first.

    Goes through the stages of an export; the file of each target is made from one conversion.
    """
    from mnv4_deploy.exporters.formats import format_module
    from mnv4_deploy.exporters.rewrites.chains import rewrite

    make = format_module(format_)
    jobs = {kind: _job(reference, kind, folder) for kind in kinds(format_)}
    first = next(iter(jobs.values()))
    source = first.source(format_)
    try:
        module = copy.deepcopy(reference.module).double()
        rewritten = rewrite(module, format_, first.input_shape[1:])
        make.convert(rewritten.module.float(), first, source)
    except DeployError as error:
        yield from (Made(kind, source, _sentence(error)) for kind in jobs)
        return
    kept = {format_: rewritten.float_modules}
    jobs = {kind: replace(job, float_modules=kept) for kind, job in jobs.items()}
    for kind, job in jobs.items():
        path = job.path(format_, kind.precision)
        try:
            if kind.precision == "fp32":
                make.write_float(source, path, job)
            elif kind.precision == "fp16":
                make.write_half(job)
            else:
                make.write_int8(source, path, job, Int8Choice())
            yield Made(kind, path)
        except DeployError as error:
            yield Made(kind, path, _sentence(error))


def _job(reference: ReferenceModel, kind: Kind, folder: Path) -> FileJob:
    from mnv4_deploy.exporters.job import FileJob
    from mnv4_deploy.images import sets as images

    integers = kind.target == "integer-only"
    own = folder / kind.target  # the int8 files of two targets have one name
    own.mkdir(exist_ok=True)
    request = ExportRequest(
        model=reference.name,
        out=own,
        weights=WEIGHTS,
        formats=(kind.format,),
        int8=True,
        fp16=True,
        target="integer-only" if integers else "xnnpack",
    )
    found = request.task.find_images(request.calibration, "calibration", reference)
    calibration = images.select(found, IMAGES)
    return FileJob(request, reference, calibration, own, folder, tools={})


class _Judge:
    """Compares files with PyTorch and with the float32 file that came before them."""

    def __init__(self, reference: ReferenceModel) -> None:
        from mnv4_deploy.images import sets as images

        self._reference = reference
        self._spec = reference.preprocessing
        found = CLASSIFICATION.find_images("bundled", "evaluation", reference)
        chosen = images.select(found, IMAGES)
        self._shown = chosen.pixels(self._spec, CLASSIFICATION.prepare)
        self._fp32: Outputs | None = None

    def judge(self, made: Made) -> FileSupport:
        from mnv4_deploy.exporters import audit
        from mnv4_deploy.sessions.image_runner import open_image_runner

        if made.error:
            return _failed(made.kind, made.error)
        try:
            outputs = open_image_runner(made.path, self._spec).outputs(self._shown)
            checked = audit.check(made.path)
        except DeployError as error:
            return _failed(made.kind, _sentence(error))
        reason, measured = (
            self._against_pytorch(made, outputs)
            if made.kind.precision == "fp32"
            else self._against_fp32(made, outputs)
        )
        reasons = [reason] if reason else []
        reasons += _defects(made.kind, checked)
        return replace(
            measured,
            works=not reasons,
            reason="; ".join(reasons)[:_REASON_CHARACTERS],
            **discrete(checked.facts),
        )

    def _against_pytorch(self, made: Made, outputs: Outputs) -> tuple[str, FileSupport]:
        """Why the file is too far off (empty if it is not), and how far."""
        self._fp32 = outputs
        deviation = self._expected.compare(made.path.name, outputs, "float32")
        error, tolerance = deviation.max_relative_error, deviation.tolerance
        reason = f"differs from {deviation.against} by {error:.2g} (tolerance {tolerance:.2g})"
        return "" if deviation.ok else reason, replace(
            _failed(made.kind), max_relative_error=error, tolerance=tolerance
        )

    def _against_fp32(self, made: Made, outputs: Outputs) -> tuple[str, FileSupport]:
        """The same, against the float32 file."""
        assert self._fp32 is not None  # the float32 file comes first
        sqnr = _median_sqnr_db(outputs, self._fp32)
        least, lowered = MIN_SQNR_DB[made.kind.precision], None
        if made.kind.precision == "fp16" and sqnr < least:
            usual = self._half_sqnr_db - HALF_MARGIN_DB
            least = lowered = min(least, max(usual, LEAST_HALF_SQNR_DB))
        enough = sqnr >= least
        reason = f"has an SQNR of {sqnr:.1f} dB to fp32, less than {least:.3g} dB"
        measured = replace(_failed(made.kind), sqnr_db=sqnr, least_sqnr_db=lowered)
        return "" if enough else reason, measured

    @cached_property
    def _half_sqnr_db(self) -> float:
        """What PyTorch itself keeps when its weights are rounded to float16."""
        half = half_outputs(self._reference.module, self._shown, self._spec)
        return _median_sqnr_db(half, self._expected.single)

    @cached_property
    def _expected(self) -> ExpectedOutputs:
        from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs

        return ExpectedOutputs(self._reference.module, self._shown, self._spec)


def half_outputs(module: nn.Module, images: Pixels, spec: Preprocessing) -> Outputs:
    """Of ``module`` with all parameters rounded to float16, computed in float32."""
    import torch

    from mnv4_deploy.exporters import verify

    rounded = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.half())
    return verify.run_module(rounded, images, spec)


def discrete(facts: FileFacts) -> dict[str, Any]:
    """What of a file's facts has no rounding in it: the same wherever the file is made."""
    return {
        "operators": facts.histogram,
        "partitions": facts.partitions,
        "outside": dict(Counter(op.kind for op in facts.not_delegated)),
    }


def _defects(kind: Kind, checked: FileAudit) -> Iterator[str]:
    facts = checked.facts
    yield from (f"the bias of {name} can overflow int32" for name in checked.overflowing_biases)
    yield from (f"{text}, which ruins the int8 range" for text in checked.padding_outliers)
    floats = sum("float" in op.compute for op in facts.operators)
    if kind.target == "integer-only" and floats:
        yield f"{floats} operators compute in float"
    if kind.target == "xnnpack" and facts.partitions is None:
        yield "; ".join(facts.notes) or "the runtime does not say what XNNPACK takes"


def _median_sqnr_db(outputs: Outputs, reference: Outputs) -> float:
    return output_figures(output_columns(reference, outputs)).median_sqnr_db


def _failed(kind: Kind, reason: str = "") -> FileSupport:
    return FileSupport(kind.format, kind.precision, kind.target, False, reason)


def _sentence(error: DeployError) -> str:
    """The message on one line, which libraries' own messages within it need not be."""
    return " ".join(str(error).split())[:_REASON_CHARACTERS]
