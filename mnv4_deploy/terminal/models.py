"""``mnv4-deploy models`` for people: all models in a table, or one in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnv4_deploy.console import PlainConsole
from mnv4_deploy.support.catalogue import CatalogueEntry
from mnv4_deploy.support.facts import KINDS, FileSupport, Kind

_MEGA = 1e6
# The table with all its columns; where there is less room, half precision is left out.
_WIDTH = 100
_TITLES = {"onnx": "ONNX", "tflite": "TFLite"}
_FOOTNOTE = (
    "\nyes: exported at its input size with random weights and checked against PyTorch; for "
    "TFLite also one XNNPACK partition, no operator outside{split}. no: it failed. ?: not known "
    "for the tools installed here. `mnv4-deploy models MODEL` says why. int only: int8 TFLite for "
    "--target integer-only. Any model takes random weights; bundled ones are a CIFAR-10 "
    "demonstration, timm (number of checkpoints) and pypi are ImageNet-1k."
)


def print_models(entries: Iterable[CatalogueEntry], console: Console | None = None) -> None:
    """One line a model; ``console`` is the terminal by default."""
    entries, console = tuple(entries), console or _console()
    kinds = [k for k in KINDS if console.width >= _WIDTH or k.precision != "fp16"]
    # Two columns of one group are as close as they can be, so that groups can be told apart.
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("\nmodel", no_wrap=True)
    for title in ("params\nM", "MACs\nM", "\ninput"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in _kind_titles(kinds):
        table.add_column(title, no_wrap=True)
    table.add_column("\nweights")
    for entry in entries:
        by_kind = {file.kind: file for file in entry.files}
        table.add_row(
            entry.name,
            f"{entry.parameters / _MEGA:.2f}",
            f"{entry.macs / _MEGA:,.0f}",
            str(entry.native_size),
            *(_answer(by_kind.get(kind)) for kind in kinds),
            _weights(entry.weights),
        )
    console.print(table, soft_wrap=False)
    split = any(file.works and not file.whole for entry in entries for file in entry.files)
    starred = ", where there is no *" if split else ""
    console.print(_FOOTNOTE.format(split=starred), style="dim", highlight=False)


def _console() -> Console:
    """The terminal; a file or a pipe has as much room as the table needs."""
    console = PlainConsole()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    return console


def _kind_titles(kinds: Sequence[Kind]) -> Iterable[str]:
    """Two lines each; the format stands over the first of its precisions."""
    formats = [kind.format for kind in kinds]
    for index, kind in enumerate(kinds):
        if kind.target == "integer-only":
            yield "int\nonly"
        else:
            first = formats.index(kind.format) == index
            yield f"{_TITLES[kind.format] if first else ''}\n{kind.precision}"


def _answer(file: FileSupport | None) -> str:
    if file is None or file.works is None:
        return "[yellow]?[/]"
    if not file.works:
        return "[red]no[/]"
    # A target without floats has other delegates than XNNPACK.
    return "yes" if file.whole or file.target == "integer-only" else "yes*"


def _weights(choices: Sequence[str]) -> str:
    """All but random ones, timm's many as their number."""
    timm = sum(choice.startswith("timm:") for choice in choices)
    named = [c for c in choices if not c.startswith("timm:") and c != "random"]
    return ", ".join([*named, *([f"timm ({timm})"] if timm else [])])


def print_model(entry: CatalogueEntry, console: Console | None = None) -> None:
    """Everything about one model: all its weights, and each file with what it was checked for."""
    console = console or _console()
    side = entry.native_size
    console.print(
        f"[bold]{entry.name}[/]  {entry.family}, {entry.parameters / _MEGA:.2f} M parameters, "
        f"{entry.macs / _MEGA:,.0f} M MACs at {side}x{side}",
        highlight=False,
    )
    console.print(f"weights  {escape(', '.join(entry.weights))}\n", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("file", "target", "works"):
        table.add_column(title, no_wrap=True)
    for title in ("operators", "partitions", "outside", "agreement"):
        table.add_column(title, justify="left" if title == "agreement" else "right")
    for file in entry.files:
        known = file.works is not None and file.operators
        in_delegate = file.partitions is not None
        table.add_row(
            f"{_TITLES[file.format]} {file.precision}",
            file.target,
            {True: "yes", False: "[red]no[/]", None: "[yellow]?[/]"}[file.works],
            str(sum(file.operators.values())) if known else "",
            str(file.partitions) if in_delegate else "",
            str(sum(file.outside.values())) if in_delegate else "",
            _agreement(file),
        )
    console.print(table, soft_wrap=False)
    console.print()
    for sentence in _sentences(entry):
        console.print(escape(sentence), highlight=False)


def _agreement(file: FileSupport) -> str:
    if file.max_relative_error is not None:
        return f"{file.max_relative_error:.1e} from PyTorch"
    if file.sqnr_db is not None:
        return f"{file.sqnr_db:.1f} dB SQNR to fp32"
    return ""


def _sentences(entry: CatalogueEntry) -> Iterable[str]:
    """Why a file does not work or is unknown, and what leaves XNNPACK; files alike together."""
    names: dict[str, list[str]] = {}
    for file in entry.files:
        for fact in _remarks(file):
            names.setdefault(fact, []).append(
                f"{_TITLES[file.format]} {file.precision} ({file.target})"
            )
    for fact, files in names.items():
        every = len(files) == len(entry.files)
        yield f"{'All files' if every else ', '.join(files)}: {fact}."
    if any(file.works is not None for file in entry.files):
        yield (
            f"Recorded at {entry.native_size}x{entry.native_size} with random weights, which "
            f"amplify noise more than trained ones, and {_versions(entry.recorded_with)}. "
            "partitions and outside: what XNNPACK takes as a whole, and operators it does not."
        )


def _remarks(file: FileSupport) -> Iterable[str]:
    if file.reason:
        yield file.reason.rstrip(".")
    if file.outside:
        counts = ", ".join(f"{count} {kind}" for kind, count in file.outside.items())
        yield f"outside XNNPACK are {counts}"


def _versions(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{tool} {version}" for tool, version in tools.items())
