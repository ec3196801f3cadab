"""A profile on the terminal: where the time goes, what bounds it, what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.console import PlainConsole
from mnv4_deploy.profiles.records.profile import Bound, Layer, ModelProfile
from mnv4_deploy.profiles.roofline.groups import Group, GroupBy, group_layers
from mnv4_deploy.reports.profile.device_text import device_title
from mnv4_deploy.reports.profile.rows import gmacs_per_s
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import NO_OPERATOR_TIMES, STATISTIC_TITLES, clean, plural, trust_sentence

Sort = Literal["time", "order", "recoverable", "macs", "intensity", "roof"]
SORTS: tuple[Sort, ...] = ("time", "order", "recoverable", "macs", "intensity", "roof")
WIDTH = 100
BLOCKS = 10
_ROUNDS_TO_ZERO_US = 0.5
_DATE = len("2026-11-22")
_MILLI = 1e3
_MEGA = 1e6
_GIGA = 1e9


def console_for(width: int = WIDTH) -> Console:
    """A console as wide as the terminal, or ``width`` columns where there is none."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=width)


def print_profile(
    profile: ModelProfile,
    *,
    sort: Sort = "time",
    group_by: GroupBy = "layer",
    top: int = 15,
    console: Console | None = None,
) -> None:
    console = console or console_for()
    _print_head(profile, console)
    if profile.whole is None:
        _print_tables(profile, sort, group_by, top, console)
    for line in _sentences(profile):
        console.print(line)


def _print_tables(
    profile: ModelProfile, sort: Sort, group_by: GroupBy, top: int, console: Console
) -> None:
    if group_by != "layer":
        rows = _group_rows(profile, group_layers(profile, group_by), sort, top)
        rows.append(_sum_row(profile, "(unattributed)", profile.trust.unattributed_us, skip=1))
        _print(console, profile, _group_columns(group_by), rows)
        return
    _print(console, profile, _LAYER_COLUMNS, _layer_rows(profile, sort, top))
    blocks = group_layers(profile, "block")
    if len(blocks) > 1:
        console.print()
        rows = _group_rows(profile, blocks, "time", BLOCKS)
        _print(console, profile, _group_columns("block"), rows)


def _print(
    console: Console,
    profile: ModelProfile,
    columns: Sequence[Column],
    rows: Sequence[tuple[str, ...]],
) -> None:
    """A prediction lies on its roof: a column of it would say nothing."""
    if profile.prediction:
        at = [column.title for column in columns].index(_ROOF)
        columns = [*columns[:at], *columns[at + 1 :]]
        rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    print_table(console, columns, rows)


def _print_head(profile: ModelProfile, console: Console) -> None:
    measurement, trust = profile.measurement, profile.trust
    wall = profile.wall_spread
    threads = plural(measurement.threads, "thread")
    console.print(
        f"\n[bold]{escape(measurement.path)}[/]  {escape(clean(measurement.runtime))}, {threads}",
    )
    if measurement.device is not None:
        title = escape(device_title(measurement.device))
        address = escape(clean(measurement.device.address.text))
        console.print(f"on {title}  [dim]{address}[/]")
    cost = profile.total_cost
    how = (
        f"{STATISTIC_TITLES[profile.statistic]} of {trust.runs} runs (p10 "
        f"{wall.p10 / _MILLI:.2f}, p50 {wall.p50 / _MILLI:.2f}, p90 {wall.p90 / _MILLI:.2f})"
    )
    if profile.prediction is not None:
        how = (
            f"[bold yellow]prediction[/], ridge point {profile.prediction.ridge_point:g} "
            f"MACs/byte ({escape(profile.prediction.dtype)}; {escape(profile.prediction.source)})"
        )
    least = "at least " if profile.cost_is_least else ""
    console.print(
        f"[bold]{trust.wall_us / _MILLI:.2f} ms[/] {how}\n{least}{_mega(cost.macs)} MMACs  "
        f"{least}{_mega(cost.bytes)} MB  {cost.operational_intensity:.1f} MACs/byte\n"
    )


def _mega(count: int) -> str:
    """In millions, with as many digits as a small model needs to be told from nothing."""
    digits = 1 if count >= _MEGA / 10 or not count else 3
    return f"{count / _MEGA:,.{digits}f}"


_ROOF = "roof"
_LAYER_COLUMNS = (
    *(Column.name("layer"), Column.text("kind", 18), Column.text("type", 12)),
    *map(Column, ("ms", "%", "MMAC", "OI", "GMAC/s", _ROOF)),
    Column("bound", justify="left"),
)


def _layer_rows(profile: ModelProfile, sort: Sort, top: int) -> list[tuple[str, ...]]:
    layers = [layer for layer in profile.layers if layer.samples_us]
    layers.sort(key=_LAYER_KEYS[sort])
    shown = layers if top == 0 else layers[:top]
    rows = [
        (
            layer.module or layer.name,
            _kind(layer),
            _short_type(layer),
            *_numbers(profile, layer),
            *_bound_cells(layer.bound),
        )
        for layer in shown
    ]
    rest = layers[len(shown) :]
    if rest:
        rest_us = sum(layer.latency_us for layer in rest)
        rows.append(_sum_row(profile, f"{len(rest)} more layers", rest_us))
    return [*rows, _sum_row(profile, "(unattributed)", profile.trust.unattributed_us)]


def _numbers(profile: ModelProfile, layer: Layer) -> tuple[str, ...]:
    cost = layer.cost
    time = (f"{layer.latency_us / _MILLI:.3f}", _share(profile, layer.latency_us))
    if cost is None and layer.file_op_types:
        return (*time, "?", "?", "?")
    if cost is None or not cost.macs:
        return (*time, "", "", "")
    return (
        *time,
        _mega(cost.macs),
        f"{cost.operational_intensity:.1f}",
        f"{gmacs_per_s(layer) or 0.0:.1f}",
    )


def _bound_cells(bound: Bound | None) -> tuple[str, str]:
    if bound is None or bound.limit == "unknown":
        return "", ""
    percent = "" if bound.percent_of_roof is None else f"{bound.percent_of_roof:.0f} %"
    return percent, bound.level if bound.limit == "memory" else bound.limit


def _group_columns(title: str) -> tuple[Column, ...]:
    figures = ("layers", "ms", "%", "MMAC", "OI", "GMAC/s", _ROOF, "recoverable")
    return (Column.name(title), *map(Column, figures))


def _group_rows(
    profile: ModelProfile, groups: Sequence[Group], sort: Sort, top: int
) -> list[tuple[str, ...]]:
    keys: dict[Sort, Callable[[Group], float]] = {
        "time": lambda g: -g.latency_us,
        "order": lambda g: g.layers[0],
        "recoverable": lambda g: -g.recoverable_us,
        "macs": lambda g: -g.cost.macs,
        "intensity": lambda g: -g.cost.operational_intensity,
        "roof": lambda g: g.percent_of_roof or 0.0,
    }
    groups = sorted((group for group in groups if group.latency_us), key=keys[sort])
    shown = groups if top == 0 else groups[:top]
    rows = [_group_row(profile, group) for group in shown]
    rest = groups[len(shown) :]
    if rest:
        rest_us = sum(group.latency_us for group in rest)
        rows.append(_sum_row(profile, f"{len(rest)} more", rest_us, skip=1))
    return rows


def _group_row(profile: ModelProfile, group: Group) -> tuple[str, ...]:
    percent, macs = group.percent_of_roof, group.cost.macs
    rate = macs / group.latency_us * _MEGA / _GIGA
    return (
        group.name,
        str(len(group.layers)),
        f"{group.latency_us / _MILLI:.3f}",
        _share(profile, group.latency_us),
        _mega(macs) if macs else "",
        f"{group.cost.operational_intensity:.1f}" if macs else "",
        f"{rate:.1f}" if macs else "",
        "" if percent is None else f"{percent:.0f} %",
        f"{group.recoverable_us / _MILLI:.3f} ms" if profile.bounded else "",
    )


def _sum_row(
    profile: ModelProfile, what: str, latency_us: float, *, skip: int = 2
) -> tuple[str, ...]:
    if abs(latency_us) < _ROUNDS_TO_ZERO_US:
        latency_us = 0.0  # and not -0.000
    blanks = [""] * skip
    return (what, *blanks, f"{latency_us / _MILLI:.3f}", _share(profile, latency_us))


_LAYER_KEYS: Mapping[Sort, Callable[[Layer], float]] = {
    "time": lambda x: -x.latency_us,
    "order": lambda x: x.index,
    "recoverable": lambda x: -(x.bound.recoverable_us if x.bound else 0.0),
    "macs": lambda x: -(x.cost.macs if x.cost else 0),
    "intensity": lambda x: -(x.cost.operational_intensity if x.cost else 0.0),
    "roof": lambda x: (x.bound.percent_of_roof or 1000.0) if x.bound else 0.0,
}


def _share(profile: ModelProfile, latency_us: float) -> str:
    return f"{100 * latency_us / profile.trust.wall_us:.1f}" if profile.trust.wall_us else ""


def _kind(layer: Layer) -> str:
    """The operator, and how often it runs where that is not once."""
    return f"{layer.op_type} x{layer.runs}" if layer.runs > 1 else layer.op_type


def _short_type(layer: Layer) -> str:
    """The arithmetic; marked where XNNPACK did not take the operator."""
    return f"{layer.compute} !" if layer.backend == "builtin" else layer.compute


def _sentences(profile: ModelProfile) -> Iterable[str]:
    ceilings = profile.ceilings
    if profile.whole is None:
        yield ""
    if profile.prediction is None:
        yield trust_sentence(profile)
        if profile.whole is not None:
            yield NO_OPERATOR_TIMES
    if ceilings is not None and profile.machine is not None:
        source = "onnxruntime" if profile.measurement.format == "onnx" else "xnnpack"
        peaks = ", ".join(
            f"{compute} {rate / _GIGA:.0f}"
            for compute, rate in ceilings.peak_macs_per_s.get(source, {}).items()
        )
        memory = ", ".join(f"{m.name} {m.bytes_per_s / _GIGA:.0f}" for m in ceilings.memory)
        yield (
            f"[dim]Roof: {escape(profile.machine.cpu)}, {source} {peaks} GMAC/s; {memory} GB/s"
            f" (measured {escape(profile.machine.measured_on[:_DATE])})."
            f"{'' if profile.whole else ' ! = outside XNNPACK.'}[/]"
        )
    if profile.unknown_op_types:
        yield f"[yellow]Cost unknown:[/] {escape(', '.join(profile.unknown_op_types))}"
    if profile.findings:
        yield "\n[bold]What would help most[/] (at most; none of it is promised)"
    for number, finding in enumerate(profile.findings, start=1):
        yield (
            f"{number}. [bold]{finding.recoverable_us / _MILLI:.2f} ms[/]  "
            f"{escape(finding.title)}. {escape(finding.advice)}"
        )
    if profile.warnings or profile.measurement.notes:
        yield ""
    for warning in profile.warnings:
        yield f"[yellow]warning:[/] {escape(clean(warning))}"
    for note in profile.measurement.notes:
        yield f"[yellow]note:[/] {escape(clean(note))}"


def print_outputs(out: Path | None, console: Console | None = None) -> None:
    """Where the pictures are, or how to get them."""
    console = console or console_for()
    if out is None:
        console.print(
            "[dim]--out DIR writes the roofline plot, an HTML report, CSV, JSON and overlays.[/]"
        )
        return
    console.print(f"Report: {escape(str(out / 'report.html'))}, plot: roofline.png beside it.")
