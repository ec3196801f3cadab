"""This machine's ceilings, the published machines and the zoo's predicted latencies."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.profiles.records.machine import Machine, PublishedMachine
from mnv4_deploy.reports.plots.ridge_plot import RidgeSweep
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import clean, plural

_GIGA = 1e9
_MEGA = 1e6
_KIBI = 1 << 10


def print_machine(
    machine: Machine, published: Sequence[PublishedMachine], console: Console | None = None
) -> None:
    console = console or console_for()
    caches = ", ".join(f"{name} {size // _KIBI} KiB" for name, size in machine.caches.items())
    console.print(
        f"\n[bold]{escape(machine.cpu)}[/], {machine.cores} cores, "
        f"{escape(', '.join(machine.isa))}; {escape(caches)}",
    )
    console.print(f"[dim]Measured {escape(machine.measured_on)}. {escape(machine.method)}[/]")
    for ceilings in machine.ceilings:
        clock = f", {ceilings.clock_ghz:.2f} GHz" if ceilings.clock_ghz else ""
        console.print(f"\n[bold]{plural(ceilings.threads, 'thread')}[/]{clock}")
        rows = []
        slowest = ceilings.memory[-1].bytes_per_s if ceilings.memory else None
        for source, peaks in ceilings.peak_macs_per_s.items():
            for compute, rate in peaks.items():
                ridge = f"{rate / slowest:.1f} MACs/byte" if slowest else ""
                rows.append((f"{source}, {compute}", f"{rate / _GIGA:.1f}", "", ridge))
        for level in ceilings.memory:
            rows.append((clean(level.name), "", f"{level.bytes_per_s / _GIGA:.1f}", ""))
        titles = ("GMAC/s", "GB/s", "ridge point")
        print_table(console, (Column.whole("ceiling"), *map(Column, titles)), rows)
        costs = ", ".join(f"{name} {us:.2f} us" for name, us in ceilings.op_overhead_us.items())
        if costs:
            console.print(f"An operator with nothing to do: {escape(costs)}.")
    for compute, limit in machine.limits_macs_per_s.items():
        console.print(
            f"[dim]Instruction set and clock allow {limit / _GIGA:.0f} GMAC/s a core in "
            f"{escape(compute)}.[/]"
        )
    console.print("\n[bold]Published machines[/], for --machine NAME (predictions)")
    columns = (Column.whole("name"), Column.text("machine"), Column.whole("type"))
    machines = [(m.name, m.title, m.dtype, f"{m.ridge_point:g}") for m in published]
    print_table(console, (*columns, Column("ridge point")), machines)


def print_sweep(result: RidgeSweep, console: Console | None = None) -> None:
    """ModelTime at the ends of the sweep and at the published machines' ridge points."""
    console = console or console_for()
    ends = {"MACs only": result.ridge_points[0], "": result.ridge_points[-1]}
    columns = [*sorted({**ends, **result.marks}.items(), key=lambda item: item[1])]
    titles = ("top-1", *(f"{point:g}" for _, point in columns))
    rows = []
    for name in result.models:
        accuracy = result.accuracy_percent.get(name)
        times = dict(zip(result.ridge_points, result.model_time[name], strict=True))
        figures = (f"{times[point] / _MEGA:,.0f}" for _, point in columns)
        rows.append((name, "" if accuracy is None else f"{accuracy:.1f} %", *figures))
    console.print(
        "\n[bold]Predicted latency[/] in millions of MAC times, by ridge point (MACs/byte)"
    )
    print_table(console, (Column.name("model"), *map(Column, titles)), rows)
    for title, point in columns:
        if title:
            console.print(f"[dim]{point:g}: {escape(title)}[/]")
