"""From PyTorch mobile vision models to verified int8 ONNX and TFLite.

The command line has a function for each command here::

    import mnv4_deploy

    result = mnv4_deploy.export("hybrid-m", "out/hybrid-m", int8=True)
    facts = mnv4_deploy.inspect("out/hybrid-m/hybrid-m-int8.tflite")
    profile = mnv4_deploy.profile("out/hybrid-m/hybrid-m-int8.tflite", threads=2)
    for finding in profile.findings:
        print(finding.title, finding.recoverable_us)
    drift = mnv4_deploy.measure_drift("m-fp32.onnx", "m-int8.tflite", data="photos")
    print(drift.output.top1_drop, drift.layers.ranking[0].cause.sentence)
    parity = mnv4_deploy.check_parity("m-int8.tflite", "ssh://pi")
    print(parity.devices[0].outputs.verdict)
    for model in mnv4_deploy.list_models():
        print(model.name, model.macs)

Errors that the caller can act on derive from ``mnv4_deploy.errors.DeployError``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Before anything of ours imports them: these libraries tell their vendors how they are used
# unless they are told not to. Who wants that sets the variables.
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

if TYPE_CHECKING:
    from mnv4_deploy.drift.records import DriftResult
    from mnv4_deploy.exporters.records import ExportResult
    from mnv4_deploy.models.source import ModelSource
    from mnv4_deploy.parity.records import ParityResult
    from mnv4_deploy.profiles.records.device import DeviceOptions
    from mnv4_deploy.profiles.records.files import FileFacts
    from mnv4_deploy.profiles.records.profile import ModelProfile
    from mnv4_deploy.profiles.roofline.comparison import Comparison
    from mnv4_deploy.support.catalogue import CatalogueEntry

__version__ = "0.1.0"


def export(
    model: str | ModelSource, out: str | Path | None = None, **options: Any
) -> ExportResult:
    """Export ``model`` to ``out``, by default out/MODEL; ``options`` are the fields of
    ``ExportRequest``.

    Raises InputError, VerificationError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.exporters.records import ExportRequest, default_out
    from mnv4_deploy.pipelines import export as pipeline

    folder = default_out(model) if out is None else Path(out)
    return pipeline.export(ExportRequest(model=model, out=folder, **options))


def inspect(path: str | Path) -> FileFacts:
    """What a .tflite or .onnx file is. Raises ModelFileError for one that cannot be read."""
    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    return inspect_file(Path(path))


def profile(
    path: str | Path,
    *,
    ceilings: bool = True,
    statistic: Literal["min", "p10", "p50", "mean"] = "min",
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "",
    device_options: DeviceOptions | None = None,
    **options: Any,
) -> ModelProfile:
    """Where the time of a model file goes; ``options`` are the fields of ``MeasureRequest``.

    ``device`` is where it runs, such as "ssh://pi" or "adb://" ("": here). ``ceilings`` measures
    what that machine can do where that is not known yet (seconds); without there are no bounds
    and no findings. With ``out`` the reports are written there. Raises InputError or
    ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.pipelines import profile as profile_pipeline
    from mnv4_deploy.profiles.records.device import DeviceOptions
    from mnv4_deploy.profiles.records.profile import MeasureRequest
    from mnv4_deploy.progress import Progress

    request = profile_pipeline.ProfileRequest(
        MeasureRequest(path=str(path), **options),
        ceilings=ceilings,
        statistic=statistic,
        out=None if out is None else Path(out),
        overwrite=overwrite,
        device=device,
        device_options=device_options or DeviceOptions(),
    )
    return profile_pipeline.profile(request, Progress(show=False))


def compare(
    a: str | Path,
    b: str | Path,
    *,
    fail_if_slower: float | None = None,
    max_total_seconds: float | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Comparison:
    """``b`` against ``a``, run in turns; ``options`` are the fields of ``MeasureRequest``, by
    default those of the command line: 2000 runs in at most 20 s.

    With ``fail_if_slower`` it measures on until that is decided, and ``outcome_of`` of
    ``mnv4_deploy.profiles.roofline.verdict`` says how. With ``out`` the reports are written
    there. Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.pipelines import compare as compare_pipeline
    from mnv4_deploy.profiles.records.profile import MeasureRequest
    from mnv4_deploy.progress import Progress

    asked = {"runs": 2000, "max_seconds": 20.0, **options}
    first, second = (MeasureRequest(path=str(path), **asked) for path in (a, b))
    request = compare_pipeline.CompareRequest(
        first,
        second,
        fail_if_slower=fail_if_slower,
        max_total_seconds=max_total_seconds,
        out=None if out is None else Path(out),
        overwrite=overwrite,
    )
    return compare_pipeline.compare(request, Progress(show=False))


def check_parity(path: str | Path, *devices: str, **options: Any) -> ParityResult:
    """Whether ``devices`` compute what this machine does, and if not, since which layer.

    ``options`` are those of ``ParityRequest``. Raises InputError or ToolchainError.
    """
    from mnv4_deploy.parity.records import ParityRequest
    from mnv4_deploy.pipelines.parity import parity
    from mnv4_deploy.progress import Progress

    return parity(ParityRequest(str(path), tuple(devices), **options), Progress(show=False))


def measure_drift(
    reference: str | Path | ModelSource,
    candidate: str | Path | ModelSource,
    *,
    out: str | Path | None = None,
    **options: Any,
) -> DriftResult:
    """What ``candidate`` lost against ``reference``; ``options`` are those of ``DriftRequest``.

    Either is a model file, the name of a model or where else a network comes from. With ``out``
    the reports are written there.
    Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.drift.records import DriftRequest
    from mnv4_deploy.pipelines import drift as drift_pipeline
    from mnv4_deploy.progress import Progress

    request = DriftRequest(
        reference=str(reference) if isinstance(reference, Path) else reference,
        candidate=str(candidate) if isinstance(candidate, Path) else candidate,
        out=None if out is None else Path(out),
        **options,
    )
    return drift_pipeline.drift(request, Progress(show=False))


def list_models() -> tuple[CatalogueEntry, ...]:
    """The models there are, with exact parameter and MAC counts."""
    from mnv4_deploy.support import catalogue

    return catalogue.list_models()
