"""Devices on the terminal: one as it is; files on several: latencies, bounds, layers ranked."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnv4_deploy.pipelines.compare_devices import DevicesComparison, bound_shares, pareto_names
from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceState
from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.profiles.roofline.ranking import ModuleOnDevice, rank_correlation
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import STATISTIC_TITLES, with_interval

_MILLI = 1e3
_MEBI, _GIBI = 1 << 20, 1 << 30


def print_device(
    where: str, facts: DeviceFacts, state: DeviceState, console: Console | None = None
) -> None:
    """What a device is and how it is doing."""
    console = console or console_for()
    console.print(f"\n[bold]{escape(facts.title)}[/]  {escape(where)}")
    rows = {
        "system": f"{facts.system}, {facts.architecture}",
        "processor": facts.cpu,
        "emulated by": facts.emulator,
        "python": facts.python,
        "runtimes": ", ".join(f"{name} {version}" for name, version in facts.runtimes.items())
        or "none: give --setup",
        "memory": f"{facts.memory_bytes / _GIBI:.1f} GiB" if facts.memory_bytes else "",
        "free for files": f"{facts.free_bytes / _MEBI:,.0f} MiB" if facts.free_bytes else "",
        "governor": ", ".join(f"{cpus}: {name}" for cpus, name in state.governors.items()),
        "clock": ", ".join(
            f"{cpus}: {now:.0f} of {most:.0f} MHz"
            for cpus, (now, most) in state.clocks_mhz.items()
        ),
        "temperature": ", ".join(
            f"{zone}: {degrees:.1f} °C" for zone, degrees in state.temperatures_c.items()
        ),
        "throttled": state.throttled,
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in rows.items():
        if text:
            table.add_row(title, escape(text))
    console.print(table, soft_wrap=False)


def print_devices(
    result: DevicesComparison, *, top: int = 15, console: Console | None = None
) -> None:
    console = console or console_for()
    _print_devices(result, console)
    _print_latencies(result, console)
    for path, found in result.accuracy.items():
        about = escape(f"{found.title or 'accuracy'} of {path}: {found.source}")
        console.print(f"[dim]{about}[/]")
    for path in result.files:
        if len(result.ranked_on[path]) > 1:
            _print_ranking(result, path, top, console)
    for device in result.devices:
        for path, profile in device.profiles.items():
            run = profile.measurement.device
            for line in (*(run.warnings if run else ()), *profile.measurement.notes):
                where = escape(f"{device.device}, {Path(path).name}")
                console.print(f"[yellow]note:[/] {where}: {escape(line)}")
        for path, error in device.errors.items():
            where = escape(f"{device.device}, {Path(path).name}")
            console.print(f"[red]failed:[/] {where}: {escape(error)}")


def _print_devices(result: DevicesComparison, console: Console) -> None:
    for letter, device in zip(_letters(result), result.devices, strict=True):
        facts = next(
            (run.facts for p in device.profiles.values() if (run := p.measurement.device)), None
        )
        about = f", {facts.cpu}, {facts.system}" if facts else ""
        console.print(
            f"[bold]{letter}[/]  {escape(device.device)}  "
            f"[dim]{escape(device.title)}{escape(about)}[/]",
        )
    console.print()


def _letters(result: DevicesComparison) -> list[str]:
    return [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(len(result.devices))]


def _print_latencies(result: DevicesComparison, console: Console) -> None:
    columns = [Column.name("file"), Column("accuracy")]
    for letter in _letters(result):
        columns += map(Column, (f"{letter} ms", "p50"))
        columns.append(Column("bound", justify="left"))
    if len(result.devices) == 2:
        columns.append(Column("B/A"))
    names = pareto_names(result)
    rows = []
    for path in result.files:
        found = result.accuracy.get(path)
        accuracy = with_interval(found.value, None, None, found.unit) if found else "–"
        cells, walls = [names[path], accuracy], []
        for device in result.devices:
            profile = device.profiles.get(path)
            walls.append(profile.trust.wall_us if profile else None)
            cells += _latency_cells(profile)
        if len(walls) == 2:
            a, b = walls
            cells.append(f"{b / a:.2f}" if a and b else "–")
        rows.append(cells)
    print_table(console, columns, rows)
    profiles = [p for device in result.devices for p in device.profiles.values()]
    if profiles:
        console.print(f"[dim]ms: {STATISTIC_TITLES[profiles[0].statistic]} run, and p50.[/]")


def _latency_cells(profile: ModelProfile | None) -> tuple[str, str, str]:
    if profile is None:
        return "failed", "", ""
    shares = [(k, v) for k, v in bound_shares(profile).items() if v]
    limit, share = max(shares, key=lambda item: item[1], default=("", 0.0))
    return (
        f"{profile.trust.wall_us / _MILLI:.2f}",
        f"{profile.wall_spread.p50 / _MILLI:.2f}",
        f"{limit} {share:.0f} %" if limit else "",
    )


def _print_ranking(result: DevicesComparison, path: str, top: int, console: Console) -> None:
    modules, devices = result.modules[path], result.ranked_on[path]
    letters = dict(zip((d.device for d in result.devices), _letters(result), strict=True))
    console.print(f"\n[bold]{escape(path)}[/], layers by their mean share")
    columns = [Column.name("module"), Column.text("kind", 20)]
    for device in devices:
        columns += map(Column, (f"{letters[device]} ms", "%", "rank"))
        columns.append(Column("bound", justify="left"))
    shown = modules if top == 0 else modules[:top]
    rows = [
        (
            module.module,
            ", ".join(module.op_types),
            *(cell for place in module.places for cell in _ranking_cells(place)),
        )
        for module in shown
    ]
    print_table(console, columns, rows)
    if len(modules) > len(shown):
        console.print(f"[dim]{len(modules) - len(shown)} more modules[/]")
    for position, device in enumerate(devices[1:], 1):
        rho = rank_correlation(modules, 0, position)
        if rho is not None:
            console.print(
                f"{letters[devices[0]]} and {letters[device]} rank the modules alike to "
                f"Spearman's rho {rho:.2f} (1: the same order)."
            )


def _ranking_cells(place: ModuleOnDevice | None) -> tuple[str, str, str, str]:
    if place is None:
        return "–", "", "", ""
    return (
        f"{place.latency_us / _MILLI:.3f}",
        f"{place.share_percent:.1f}",
        str(place.rank),
        place.bound,
    )
