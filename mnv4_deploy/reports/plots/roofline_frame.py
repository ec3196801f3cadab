"""What stands around a roofline: title, legend, what limits the time, time by kind, caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from mnv4_deploy.profiles.records.profile import ModelProfile, Statistic
from mnv4_deploy.reports.plots.figures import INK, MUTED
from mnv4_deploy.reports.plots.roofline_data import LIMIT_TITLES, Point, family_times, limit_shares
from mnv4_deploy.text import (
    NO_OPERATOR_TIMES,
    STATISTIC_TITLES,
    layer_title,
    milliseconds,
    plot_text,
    plural,
    significant,
    with_prefix,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT = 0.06
_PANEL = (0.72, 0.255, 0.27, 0.645)
_STRIP = (_LEFT, 0.135, 0.93, 0.042)
_LINE = 0.034
_FONT = 8.6
_LEGEND_SHARES = (0.01, 0.05)
# A part of the strip narrower than this has no room for its name.
_LEAST_NAMED_SHARE = 0.085
_MAX_LIMITS = 6


def draw_title(figure: Figure, profile: ModelProfile) -> None:
    measured = profile.measurement
    cost = profile.total_cost
    facts = [
        *([plot_text(measured.device.facts.title, 40)] if measured.device else []),
        plot_text(measured.runtime, 40),
        *([] if profile.prediction else [plural(measured.threads, "thread")]),
        _times(profile),
        f"{with_prefix(cost.macs)}MACs",
        f"{significant(cost.operational_intensity)} MACs/byte",
    ]
    if profile.machine:
        facts.append(plot_text(profile.machine.cpu, 44))
    name = plot_text(PurePath(measured.path).name, 90)
    what = "Predicted roofline" if profile.prediction else "Roofline"
    figure.text(_LEFT, 0.955, f"{what} of {name}", fontsize=15, weight="bold")
    figure.text(_LEFT, 0.925, "  ·  ".join(facts), fontsize=10, color=MUTED)


def _times(profile: ModelProfile) -> str:
    """The fastest run and the median, and what layers are told in where it is neither."""
    wall_us = profile.trust.wall_us
    if profile.prediction:
        return f"{milliseconds(wall_us)} predicted"
    wall = profile.wall_spread
    told: dict[Statistic, float] = {"min": wall.min, "p50": wall.p50, profile.statistic: wall_us}
    return ", ".join(
        f"{milliseconds(us)} ({STATISTIC_TITLES[statistic]} run)" for statistic, us in told.items()
    )


@dataclass
class _Panel:
    """Lines of text from the top down."""

    axes: Axes
    y: float = 0.985

    def write(
        self,
        text: str,
        *,
        x: float = 0.0,
        bold: bool = False,
        colour: str = INK,
        right: bool = False,
    ) -> None:
        self.axes.text(
            1.0 if right else x,
            self.y,
            text,
            va="center",
            ha="right" if right else "left",
            fontsize=_FONT,
            weight="bold" if bold else "normal",
            color=colour,
        )

    def down(self, lines: float = 1.0) -> None:
        self.y -= _LINE * lines


def draw_panel(
    figure: Figure,
    profile: ModelProfile,
    points: Sequence[Point],
    *,
    area: Callable[[float], float],
) -> None:
    """Legend and figures to the right; ``area`` gives a marker's area for a share of the time."""
    axes = figure.add_axes(_PANEL)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    panel = _Panel(axes)
    _legend(panel, profile, points, area)
    if profile.whole and profile.ceilings:
        return
    _limits(panel, profile)
    if not profile.whole:
        _worst(panel, profile, points)


def _legend(
    panel: _Panel,
    profile: ModelProfile,
    points: Sequence[Point],
    area: Callable[[float], float],
) -> None:
    drawn = {p.family.key for p in points}
    panel.write("What is drawn" if profile.whole else "Layers with MACs", bold=True)
    panel.write("time", right=True, colour=MUTED)
    for item in family_times(profile):
        if item.family.key not in drawn:
            continue
        panel.down()
        family = item.family
        panel.axes.scatter([0.03], [panel.y], s=55, c=[family.colour], marker=family.marker)
        count = "" if profile.whole else f" ({item.layers})"
        panel.write(f"{family.title}{count}", x=0.075)
        panel.write(milliseconds(item.latency_us), right=True)
    panel.down(1.4)
    if profile.whole:
        return
    for x, share in zip((0.03, 0.47), _LEGEND_SHARES, strict=True):
        panel.axes.scatter([x + 0.02], [panel.y], s=area(share), c="white", edgecolors=MUTED)
        panel.write(f"{share:.0%} of the time", x=x + 0.085, colour=MUTED)
    panel.down(1.9)


def _limits(panel: _Panel, profile: ModelProfile) -> None:
    panel.write("What limits the layers, by time", bold=True)
    shares = limit_shares(profile)
    for title, share in list(shares.items())[:_MAX_LIMITS]:
        panel.down()
        panel.write(f"{share:.0f} %", x=0.0)
        panel.write(title, x=0.11)
    if not shares:
        panel.down()
        panel.write("No ceilings are known for this machine and", colour=MUTED)
        panel.down()
        panel.write("number of threads, so no lines are drawn.", colour=MUTED)
    panel.down(1.7)


def _worst(panel: _Panel, profile: ModelProfile, points: Sequence[Point]) -> None:
    panel.write("Most time to win" if profile.bounded else "Slowest layers", bold=True)
    for point in sorted((p for p in points if p.rank), key=lambda p: p.rank or 0):
        panel.down()
        panel.write(f"{point.rank}", bold=True)
        name = layer_title(point.layer)
        op_type = point.layer.op_type
        panel.write(plot_text(name if op_type in name else f"{name}, {op_type}", 42), x=0.045)
        panel.down(0.88)
        panel.write(_outlook(point, profile), x=0.045, colour=MUTED)


def _outlook(point: Point, profile: ModelProfile) -> str:
    now = milliseconds(point.layer.latency_us)
    bound = point.layer.bound
    if bound is None or bound.roof_us is None:
        return f"{now}, {100 * point.share:.1f} % of the time"
    if profile.prediction:
        return f"{now}, its MACs alone {milliseconds(bound.compute_us or 0.0)}"
    least = milliseconds(max(bound.roof_us, bound.overhead_us))
    limit = bound.level if bound.limit == "memory" else LIMIT_TITLES[bound.limit]
    return f"{now}, at its roof {least} ({limit})"


def draw_strip(figure: Figure, profile: ModelProfile) -> None:
    """All the time as one bar by kind, with the layers that have no place in the plot."""
    if profile.whole:
        return
    axes = figure.add_axes(_STRIP)
    axes.set_axis_off()
    times = family_times(profile)
    total_us = sum(item.latency_us for item in times)
    axes.set(xlim=(0, total_us or 1.0), ylim=(0, 1))
    axes.set_title("All layers: time by kind", loc="left", fontsize=9, weight="bold", pad=4)
    start = 0.0
    unnamed = []
    for item in times:
        axes.barh(
            [0.5],
            [item.latency_us],
            left=[start],
            height=1.0,
            color=item.family.colour,
            edgecolor="white",
            linewidth=0.8,
        )
        share = item.latency_us / total_us if total_us else 0.0
        label = f"{item.family.title.split(',')[0]}\n{100 * share:.0f} %"
        if share >= _LEAST_NAMED_SHARE:
            axes.text(
                start + item.latency_us / 2,
                0.47,
                label,
                ha="center",
                va="center",
                fontsize=7.8,
                color=_ink_on(item.family.colour),
            )
        elif item.latency_us:
            unnamed.append(f"{item.family.title.split(',')[0]} {100 * share:.1f} %")
        start += item.latency_us
    if unnamed:
        figure.text(
            _LEFT + _STRIP[2],
            0.1865,
            "Narrow ones: " + ", ".join(unnamed),
            ha="right",
            fontsize=7.8,
            color=MUTED,
        )


def _ink_on(colour: str) -> str:
    """Black or white, whichever is read better on ``colour`` (ITU-R BT.601 luma)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def draw_caption(figure: Figure, profile: ModelProfile, points: Sequence[Point]) -> None:
    figure.text(
        _LEFT,
        0.105,
        "\n".join(_caption(profile, points)),
        fontsize=8.3,
        color=MUTED,
        va="top",
        linespacing=1.5,
    )


def _caption(profile: ModelProfile, points: Sequence[Point]) -> list[str]:
    reading = (
        "How to read it: each mark is a layer, its area the time it takes. Numbers name the"
        f" {'layers with most time to win' if profile.bounded else 'slowest layers'}."
    )
    if profile.whole:
        reading = "How to read it: the mark is the model as a whole, all its operators together."
    if profile.prediction:
        reading += " Times are predicted: each lies on one of the lines"
    elif profile.ceilings:
        reading += " Lines are what this machine can do: under a slope, memory is"
    lines = [reading]
    if profile.prediction:
        lines.append(
            "that stand for the machine, of its memory where the bytes take longer, of its"
            " arithmetic where the MACs do. Bytes count each tensor once."
        )
    elif profile.ceilings:
        lines.append(
            "the limit, under a level line arithmetic; the further a mark lies below the lines,"
            " the more could be won. Bytes count each tensor once."
        )
    lines.append(_left_out(profile, points))
    return lines


def _left_out(profile: ModelProfile, points: Sequence[Point]) -> str:
    """How much time the plot cannot show, and why."""
    if profile.whole:
        return NO_OPERATOR_TIMES + _unknown(profile)
    drawn = {point.layer.index for point in points}
    total_us = sum(layer.latency_us for layer in profile.layers)
    absent = [layer for layer in profile.layers if layer.index not in drawn]
    idle_us = sum(layer.latency_us for layer in absent)
    share = 100 * idle_us / total_us if total_us else 0.0
    text = (
        f"Not in the plot: {plural(len(absent), 'layer')} without MACs or without a time,"
        f" {milliseconds(idle_us)} ({share:.1f} %); the bar shows them too."
    )
    return text + _unknown(profile)


def _unknown(profile: ModelProfile) -> str:
    unknown = profile.unknown_op_types
    if not unknown:
        return ""
    named = ", ".join(plot_text(op_type, 24) for op_type in unknown[:4])
    more = len(unknown) - 4
    return f" Cost not known: {named}{f' and {more} more' if more > 0 else ''}."
