"""How the order of models changes with the machine: predicted latency against its ridge point.

MobileNetV4 paper (Qin et al., 2024), section 3: ModelTime = sum over the layers of
max(MACs / peak, bytes / bandwidth). Times the peak that is max(MACs, ridge point x bytes), so
that one number, the ridge point in MACs/byte, stands for the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.reports.plots.figures import MUTED, check_format, drawing, save
from mnv4_deploy.reports.plots.pareto_panel import LEAST_SPAN, draw_front
from mnv4_deploy.reports.profile.kinds import FAMILIES
from mnv4_deploy.text import plot_text, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES = 12.5
_HEIGHT_INCHES = 10.4
_DASHES = ("-", "--", ":", "-.")
_COLOURS = tuple(family.colour for family in FAMILIES[:7])
_PARETO_PANELS = 3
_NAME_CHARACTERS = 26
_NAME_POINTS = 11.5  # a line of text


@dataclass(frozen=True)
class RidgeSweep:
    """Predicted times of models over machines.

    ``model_time`` has for each model a time for each of ``ridge_points`` (MACs/byte, growing):
    the sum over its layers of max(MACs, ridge point x bytes), in MACs. ``accuracy_percent``
    is ImageNet top-1 where it is known. ``marks`` are published machines' ridge points.
    """

    models: tuple[str, ...]
    ridge_points: tuple[float, ...]
    model_time: Mapping[str, tuple[float, ...]]
    accuracy_percent: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)

    def time_at(self, model: str, position: int) -> float:
        """In 10^9 MACs, at ``ridge_points[position]``."""
        return self.model_time[model][position] / 1e9


def save_ridge_sweep(sweep: RidgeSweep, paths: Sequence[Path]) -> None:
    """Draw ``sweep`` into each of ``paths`` (.png, .svg or .pdf): times and Pareto plots.

    Raises UnsupportedError for another ending, OutputError where a file cannot be written,
    ToolchainError where matplotlib is missing, ValueError for a sweep without models or points.
    """
    if not sweep.models or not sweep.ridge_points:
        raise ValueError("a ridge sweep needs at least one model and one ridge point")
    for path in paths:
        check_format(path)
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.06, 0.968, "Predicted latency and the machine", fontsize=15, weight="bold")
        figure.text(0.06, 0.944, _SUBTITLE, fontsize=9.5, color=MUTED)
        _draw_times(figure.add_axes((0.06, 0.485, 0.71, 0.40)), sweep)
        _draw_pareto_row(figure, sweep)
        figure.text(0.06, 0.018, _CAPTION, fontsize=8.3, color=MUTED, linespacing=1.5)
        save(figure, paths)


_SUBTITLE = (
    "ridge point = peak MACs per byte of memory bandwidth: the left is short of arithmetic,"
    " the right is short of bandwidth"
)
_CAPTION = (
    "Predicted time: for each layer the larger of its MACs and ridge point x bytes, added up;"
    " a number, not milliseconds.\nLower is faster. Below, the line joins the models that no other"
    " beats in both accuracy and time; a model that stays on it everywhere suits every machine."
)


def _draw_times(axes: Axes, sweep: RidgeSweep) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    # Nothing is at 0 on a logarithmic axis; the first of the plots below is.
    shown = [i for i, point in enumerate(sweep.ridge_points) if point > 0]
    points = [sweep.ridge_points[i] for i in shown]
    for model in sweep.models:
        colour, dashes = _style(sweep, model)
        axes.plot(
            points,
            [sweep.time_at(model, i) for i in shown],
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            marker="" if len(shown) > 1 else "o",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    if len(shown) > 1:
        axes.set_xlim(points[0], points[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Ridge point of the machine (MACs/byte)")
    axes.set_ylabel("Predicted time (10⁹ MACs)")
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    if shown:
        _name_lines(axes, sweep, shown[-1])
    _draw_marks(axes, sweep)


def _name_lines(axes: Axes, sweep: RidgeSweep, last: int) -> None:
    """Each model's name beside its line's right end, moved up or down where two would touch."""
    from matplotlib.transforms import blended_transform_factory

    frame = axes.get_window_extent()
    end = sweep.ridge_points[last]
    ends = {
        model: axes.transData.transform((end, sweep.time_at(model, last)))
        for model in sweep.models
    }
    models = sorted(sweep.models, key=lambda model: ends[model][1])
    gap = min(_NAME_POINTS * axes.figure.dpi / 72, frame.height / len(models))
    places = spread([ends[model][1] for model in models], gap, frame.y0, frame.y1)
    beside = blended_transform_factory(axes.transAxes, axes.transAxes)
    for model, place in zip(models, places, strict=True):
        colour, dashes = _style(sweep, model)
        x = (ends[model][0] - frame.x0) / frame.width
        y, at = ((value - frame.y0) / frame.height for value in (ends[model][1], place))
        axes.plot(
            [x, x + 0.022, x + 0.034],
            [y, at, at],
            transform=beside,
            color=colour,
            linestyle=dashes,
            linewidth=1.0,
            clip_on=False,
        )
        axes.text(
            x + 0.038,
            at,
            plot_text(model, _NAME_CHARACTERS),
            transform=beside,
            color=colour,
            fontsize=8.8,
            va="center",
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``wanted``, which grow, a ``gap`` apart: moved up where they touch, down at the end."""
    places: list[float] = []
    for value in wanted:
        places.append(max(value, places[-1] + gap if places else low))
    limit = high
    for at in reversed(range(len(places))):
        places[at] = min(places[at], limit)
        limit = places[at] - gap
    return places


def _draw_marks(axes: Axes, sweep: RidgeSweep) -> None:
    """Machines as lines; their names run above the plot so that close ones keep apart."""
    left, right = axes.get_xlim()
    shown = sorted((x, name) for name, x in sweep.marks.items() if left <= x <= right)
    frame = axes.get_window_extent()
    rows: list[float] = []
    for x, name in shown:
        axes.axvline(x, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        label = f"{plot_text(name, 24)} {significant(x)}"
        text = axes.text(
            x,
            1.0,
            label,
            transform=axes.get_xaxis_transform(),
            fontsize=7.8,
            color=MUTED,
            va="bottom",
            clip_on=False,
        )
        size = text.get_window_extent()
        # The one nearest to the right edge would run into the names of the lines.
        start = min(size.x0, frame.x1 - size.width)
        row = next((i for i, end in enumerate(rows) if end < start), len(rows))
        rows[row : row + 1] = [start + size.width + 8]
        at = axes.transData.inverted().transform((start, 0))[0]
        text.set_position((at, 1.012 + 0.034 * row))


def _draw_pareto_row(figure: Figure, sweep: RidgeSweep) -> None:
    rated = [model for model in sweep.models if model in sweep.accuracy_percent]
    if not rated:
        figure.text(0.06, 0.25, "No accuracy is known for these models.", color=MUTED)
        return
    width, gap = 0.93 / _PARETO_PANELS, 0.035
    for column, position in enumerate(_pareto_positions(sweep)):
        axes = figure.add_axes((0.06 + column * width, 0.115, width - gap, 0.29))
        _draw_pareto(axes, sweep, rated, position)
        if column == 0:
            axes.set_ylabel("ImageNet top-1 (%)")


def _pareto_positions(sweep: RidgeSweep) -> list[int]:
    """The first ridge point and those of the published machines at both ends, where known."""
    points = sweep.ridge_points
    if len(points) <= _PARETO_PANELS:
        return list(range(len(points)))
    known = sorted(points.index(mark) for mark in sweep.marks.values() if mark in points)
    return sorted({0, *(known[:1] or [len(points) // 4]), (known or [len(points) - 1])[-1]})


def _draw_pareto(axes: Axes, sweep: RidgeSweep, rated: Sequence[str], position: int) -> None:
    times = {model: sweep.time_at(model, position) for model in rated}
    accuracy = sweep.accuracy_percent
    point = sweep.ridge_points[position]
    machine = next(
        (plot_text(name, 24) for name, mark in sweep.marks.items() if mark == point), ""
    )
    axes.set_title(
        f"at {significant(point)} MACs/byte" + (f", {machine}" if machine else ""),
        fontsize=10,
        loc="left",
        weight="bold",
    )
    draw_front(
        axes,
        {model: (times[model], accuracy[model]) for model in rated},
        {model: _style(sweep, model)[0] for model in rated},
        least_span=LEAST_SPAN,
    )
    axes.set_xlabel("Predicted time (10⁹ MACs)")


def _style(sweep: RidgeSweep, model: str) -> tuple[str, str]:
    """A colour for each model, and dashes once the colours come round again."""
    number = sweep.models.index(model)
    return _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
