"""Records as tables and sentences on the terminal. All text from files is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.console import PlainConsole
from mnv4_deploy.exporters.records import Drift, ExportResult, FileAudit
from mnv4_deploy.profiles.records.files import FileFacts, OperatorFacts
from mnv4_deploy.profiles.xnnpack.refusals import UNKNOWN, grouped
from mnv4_deploy.tasks.task import Task
from mnv4_deploy.terminal.budget import print_budget
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import clean

_MEGA = 1e6
_SHOWN_CLASSES = 6


def print_export(result: ExportResult, console: Console | None = None) -> None:
    """What was written, how well it agrees, what int8 cost, and what runs where."""
    console = console or PlainConsole()
    console.print(f"\n[bold]{escape(str(result.request.out))}[/]")
    task = result.request.task
    titles = ("MB", "int8 ops", "XNNPACK", *(column.title for column in task.brief))
    audits = {truth.subject: truth for truth in result.audits}
    drifts = {drift.subject: drift for drift in result.drifts}
    rows = [
        (
            clean(artifact.path.name),
            f"{artifact.size_bytes / _MEGA:.1f}",
            _int8_share(audits[artifact.path.name].facts) if artifact.precision == "int8" else "",
            ""
            if artifact.path.name == _integer_only(result)
            else _partitions(audits[artifact.path.name].facts),
            *_accuracy(task, artifact.path.name, artifact.precision, drifts),
        )
        for artifact in result.artifacts
    ]
    print_table(console, (Column.whole("file"), *map(Column, titles)), rows)
    for sentence in _export_sentences(result):
        console.print(sentence)
    for search in result.searches:
        print_budget(search, console)


def _int8_share(facts: FileFacts) -> str:
    """Operators that compute in 8 bits, of all that compute (conversions left out)."""
    computing = [
        op.compute
        for op in facts.operators
        if not op.kind.upper().startswith(("QUANTIZE", "DEQUANTIZE"))
    ]
    int8 = sum(kind.startswith(("int8", "uint8")) for kind in computing)
    return f"{int8} of {len(computing)}"


def _partitions(facts: FileFacts) -> str:
    if facts.partitions is None:
        return ""
    outside = len(facts.not_delegated)
    return f"{facts.partitions} part." + (f" +{outside} ops" if outside else "")


def _accuracy(task: Task, name: str, precision: str, drifts: dict[str, Drift]) -> tuple[str, ...]:
    """The task's figures of a file; of a float32 file those that the comparison with it tells."""
    drift = drifts.get(name)
    if drift is not None:
        return tuple(_figure(task, drift, column.metric) for column in task.brief)
    own = [d for d in drifts.values() if Path(d.subject).suffix == Path(name).suffix]
    if precision != "float32" or not own:
        return ("",) * len(task.brief)
    return tuple(_figure(task, own[0], column.reference_metric) for column in task.brief)


def _figure(task: Task, drift: Drift, metric: str) -> str:
    value = drift.figures.get(metric)
    return "" if value is None else f"{value:.1f} {task.metrics[metric].unit}".rstrip()


def _export_sentences(result: ExportResult) -> Iterable[str]:
    worst = max(
        (d for d in result.deviations if d.tier != "float64"),
        key=lambda d: d.max_relative_error / d.tolerance,
    )
    yield (
        f"\nAll files agree with PyTorch on {worst.images} images: largest relative error "
        f"{worst.max_relative_error:.1e} ({escape(worst.subject)}, tolerance "
        f"{worst.tolerance:.2g})."
    )
    for format_ in result.request.formats:
        done = ", ".join(
            f"{rewrite.name} {len(rewrite.changed)}"
            for rewrite in result.rewrites
            if rewrite.format == format_ and rewrite.changed
        )
        yield f"Rewritten for {format_}: {done}."
    manifest = result.manifest
    calibration, evaluation = manifest["calibration"], manifest["evaluation"]
    if calibration is not None:
        what = f"{calibration['count']} {calibration['kind']} images"
        if calibration["kind"] == "random":
            what = "[bold red]random data[/]: the int8 ranges are arbitrary, use real images"
        yield (
            f"int8 ranges: {what}, method {escape(_methods(result))}. "
            f"{', '.join(column.title for column in result.request.task.brief)} are on "
            f"{evaluation['count']} other images ({escape(evaluation['name'])})."
        )
    if result.request.int8 and result.request.targets.weights("onnx") == "full":
        yield (
            f"{escape(result.request.file_name('onnx', 'int8'))} is for "
            f"{result.request.targets.onnx}: its products saturate on x86 without VNNI, so "
            "figures that are taken there are those of its operators one by one."
        )
    for source in (calibration, evaluation):
        for image in (source or {}).get("skipped", ()):
            yield f"[yellow]skipped[/] {escape(image['name'])}: {escape(image['reason'])}"
    for truth in result.audits:
        yield from _defects(truth, integer_only=truth.subject == _integer_only(result))
    yield from _classes(manifest)
    note = manifest["weights"]["note"]
    if note:
        yield f"Weights: {escape(manifest['weights']['name'])}, {escape(note)}."
    for warning in manifest["warnings"]:
        yield f"[yellow]warning[/] {escape(clean(warning))}"
    stages = sorted(result.seconds_by_stage.items(), key=lambda item: -item[1])
    total = sum(result.seconds_by_stage.values())
    slowest = ", ".join(f"{name[:1].lower()}{name[1:]} {s:.0f} s" for name, s in stages[:3])
    yield f"[dim]{total:.0f} s, most of it: {slowest}. Details: manifest.json[/]"


def _classes(manifest: dict[str, Any]) -> Iterable[str]:
    """What the classes are called if the weights did not say it."""
    names, source = manifest["labels"], manifest["labels_from"]
    if names and source != "weights":
        shown = names if len(names) <= _SHOWN_CLASSES else [*names[: _SHOWN_CLASSES - 1], "…"]
        yield (
            f"Names of the {len(names)} classes: from the {source} "
            f"({escape(clean(', '.join(shown)))})."
            if source != "assumed"
            else f"Names of the {len(names)} classes: assumed."
        )


def _methods(result: ExportResult) -> str:
    """The calibration methods of the int8 files, which a search may have changed."""
    chosen = [search.chosen.choice.method for search in result.searches]
    return " and ".join(dict.fromkeys(chosen or [result.request.calibration_method]))


def _integer_only(result: ExportResult) -> str:
    """The name of the file for accelerators without floats, whose delegate is not XNNPACK."""
    request = result.request
    only = request.targets.tflite == "integer-only"
    return request.file_name("tflite", "int8") if only else ""


def _defects(truth: FileAudit, *, integer_only: bool = False) -> Iterable[str]:
    for name in truth.overflowing_biases:
        yield f"[red]{escape(truth.subject)}: the bias of {escape(name)} can overflow int32[/]"
    for text in truth.padding_outliers:
        yield f"[red]{escape(truth.subject)}: {escape(text)}, which ruins the int8 range[/]"
    for op in () if integer_only else truth.facts.not_delegated[:5]:
        said = f"{truth.subject}: {op.kind} is outside XNNPACK: {op.refusal or ''}"
        yield escape(said)
    for what, reason in _in_float(truth.facts)[:5]:
        yield f"{escape(truth.subject)}: {escape(what)} in float: {escape(reason)}"


def _in_float(facts: FileFacts) -> list[tuple[str, str]]:
    """How many operators of a kind are float in a quantized .onnx file, and why; most first."""
    counts = Counter((op.kind, op.float_reason or "") for op in facts.in_float)
    return [(f"{count} x {kind}", reason) for (kind, reason), count in counts.most_common()]


def print_facts(facts: FileFacts, console: Console | None = None) -> None:
    """``inspect`` for people."""
    console = console or PlainConsole()
    console.print(
        f"[bold]{_name(facts.path)}[/]  {facts.format}, {facts.size_bytes / _MEGA:.2f} MB, "
        f"sha256 {facts.sha256[:12]}…",
    )
    for side, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        for tensor in tensors:
            scale = (
                f"  scale {tensor.scale[0]:.6g} zero point {tensor.zero_point[0]}"
                if len(tensor.scale) == 1
                else ""
            )
            shape = "x".join(map(str, tensor.shape))
            console.print(
                f"{side:<7} {_name(tensor.name)}  {tensor.dtype} {_name(shape)}{scale}",
            )
    if len(facts.signatures) > 1:
        for known in facts.signatures:
            shown = "  (listed here)" if known.name == facts.signature else ""
            takes, gives = (
                ", ".join(tensor.described for tensor in side)
                for side in (known.inputs, known.outputs)
            )
            console.print(
                f"signature {_name(known.name)}: {_name(takes)} -> {_name(gives)}{shown}",
            )
    weights = ", ".join(
        f"{count / _MEGA:.2f} MB {dtype}" for dtype, count in facts.weight_bytes_by_dtype.items()
    )
    console.print(f"weights {weights or 'none'}")
    console.print(f"runs    {_name(_counts(facts.compute_histogram))}")
    counts = [(clean(kind), str(count)) for kind, count in facts.histogram.items()]
    print_table(console, (Column.text("operator"), Column("count")), counts)
    if facts.executed_histogram is not None:
        console.print(f"onnxruntime really runs: {_name(_counts(facts.executed_histogram))}")
        for what, reason in _in_float(facts):
            console.print(f"  float {_name(what)}: {_name(reason)}")
    if facts.partitions is not None:
        _print_delegation(facts.operators, facts.partitions, console)
    for body in facts.bodies:
        kinds = Counter(op.kind for op in body.operators)
        console.print(
            f"graph {body.index}, run by {_name(', '.join(body.run_by))}: "
            f"{_name(_counts(dict(kinds.most_common())))}",
        )
        if body.partitions is not None:
            _print_delegation(body.operators, body.partitions, console)
    for note in facts.notes:
        console.print(f"note: {_name(note)}")


def _print_delegation(
    operators: Sequence[OperatorFacts], partitions: int, console: Console
) -> None:
    """How much of a graph XNNPACK takes, and why not the rest."""
    left = [op for op in operators if op.delegated is False]
    console.print(
        f"XNNPACK takes {len(operators) - len(left)} of {len(operators)} operators in "
        f"{partitions} partition(s)."
    )
    for count, kind, reason in grouped((op.kind, op.refusal or UNKNOWN) for op in left):
        console.print(f"  not {count} x {_name(kind)}: {_name(reason)}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _name(text: str) -> str:
    """What a file says, in one line and not taken for markup."""
    return escape(clean(text))
