"""Measured latency against accuracy, a panel for each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnv4_deploy.reports.plots.figures import MUTED, check_format, drawing, save
from mnv4_deploy.reports.plots.pareto_panel import LEAST_SPAN, Doubt, Interval, draw_front
from mnv4_deploy.reports.profile.kinds import FAMILIES
from mnv4_deploy.text import plot_text

_COLUMNS = 3
_PANEL_INCHES = (4.3, 3.7)
_MARGIN_INCHES = 0.75
_COLOURS = tuple(family.colour for family in FAMILIES[:7])
_CAPTION = (
    "The line joins the models that no other beats in both accuracy and latency. A model keeps"
    " its colour on every device.\nAcross: from the 10th to the 90th percentile of the runs."
    " Upright: 95 % interval of the accuracy, where the images it is from are known."
)


@dataclass(frozen=True)
class ParetoPanel:
    """One device: latency of each model in ms, by name, and where most of its runs are."""

    title: str
    latency_ms: Mapping[str, float]
    spread_ms: Mapping[str, Interval] = field(default_factory=dict)


def save_pareto(
    panels: Sequence[ParetoPanel],
    accuracy: Mapping[str, float],
    paths: Sequence[Path],
    *,
    label: str,
    unit: str,
    statistic: str,
    intervals: Mapping[str, Interval] | None = None,
) -> None:
    """Draw a panel for each device into each of ``paths`` (.png, .svg or .pdf).

    ``accuracy`` is by model, called ``label`` and in ``unit``; models without are left out.
    ``intervals`` say how sure it is. ``statistic`` names the run of ``latency_ms``. Raises
    UnsupportedError for another ending, OutputError where a file cannot be written,
    ToolchainError where matplotlib is missing, ValueError where no model of a panel has an
    accuracy.
    """
    for path in paths:
        check_format(path)
    names = [n for n in dict.fromkeys(n for p in panels for n in p.latency_ms) if n in accuracy]
    if not names:
        raise ValueError("no model has an accuracy")
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = columns * _PANEL_INCHES[0] + _MARGIN_INCHES
    height = rows * _PANEL_INCHES[1] + 2 * _MARGIN_INCHES
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        left = _MARGIN_INCHES / width
        figure.text(
            left, 1 - 0.4 / height, "Accuracy and measured latency", fontsize=14, weight="bold"
        )
        figure.text(left, 0.18 / height, _CAPTION, fontsize=8, color=MUTED, linespacing=1.5)
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            axes = figure.add_axes(
                (
                    (_MARGIN_INCHES + column * _PANEL_INCHES[0]) / width,
                    1 - (1.0 + row * _PANEL_INCHES[1] + _PANEL_INCHES[1] - 0.8) / height,
                    (_PANEL_INCHES[0] - 0.55) / width,
                    (_PANEL_INCHES[1] - 0.8) / height,
                )
            )
            axes.set_title(plot_text(panel.title, 44), fontsize=10, loc="left", weight="bold")
            axes.set_xlabel(f"Latency (ms), {statistic} run")
            if column == 0:
                axes.set_ylabel(plot_text(f"{label} ({unit})" if unit else label, 60))
            points = {
                name: (panel.latency_ms[name], accuracy[name])
                for name in names
                if name in panel.latency_ms
            }
            if points:
                doubts = {
                    name: Doubt(panel.spread_ms.get(name), (intervals or {}).get(name))
                    for name in points
                }
                least = LEAST_SPAN if unit == "%" else 0.0
                draw_front(axes, points, colours, doubts=doubts, least_span=least)
        save(figure, paths)
