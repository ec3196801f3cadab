"""The roofline of a profile as a picture that explains itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.reports.plots.figures import INK, MUTED, check_format, drawing, encoded, save
from mnv4_deploy.reports.plots.label_layout import Box, LabelLayout, along, around
from mnv4_deploy.reports.plots.roofline_data import CeilingLine, Point, ceiling_lines, points_of
from mnv4_deploy.reports.plots.roofline_frame import (
    draw_caption,
    draw_panel,
    draw_strip,
    draw_title,
)
from mnv4_deploy.reports.profile.kinds import WHOLE
from mnv4_deploy.text import layer_title, plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_SIZE_INCHES = (12.5, 8.6)
_PLOT_AREA = (0.06, 0.265, 0.635, 0.635)
# Area in square points of a circle that takes all of the time, and the least that is still seen.
_FULL_AREA = 9000.0
_LEAST_AREA = 14.0
_WHOLE_AREA = 300.0  # one mark alone: its size compares with nothing
_POINTS_PER_INCH = 72.0
_LABEL_CHARACTERS = 30
_LINE_PIXELS = 4.0
# In heights of the text. Of squares at 45 degrees, the corners reach 0.71 towards the line.
_OFF_LINE = 0.8
# Peaks within this factor have no room for a label between them.
_CLOSE = 1.5


@dataclass(frozen=True)
class _Range:
    left: float
    right: float
    bottom: float
    top: float


def save_roofline(profile: ModelProfile, paths: Sequence[Path]) -> None:
    """Draw the roofline of ``profile`` into each of ``paths`` (.png, .svg or .pdf).

    Raises UnsupportedError for another ending, OutputError where a file cannot be written,
    ToolchainError where matplotlib is missing.
    """
    for path in paths:
        check_format(path)
    with drawing():
        save(_drawn(profile), paths)


def roofline_svg(profile: ModelProfile) -> bytes:
    """The roofline of ``profile`` as the text of an SVG. Raises ToolchainError as above."""
    with drawing():
        return encoded(_drawn(profile), "svg")


def _drawn(profile: ModelProfile) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes(_PLOT_AREA)
    points = points_of(profile)
    lines = ceiling_lines(profile)
    _draw_axes(axes, _range_of(points, lines))
    _draw_lines(axes, lines)
    _draw_points(axes, points)
    _draw_labels(axes, points, lines)
    draw_title(figure, profile)
    draw_panel(figure, profile, points, area=marker_area)
    draw_strip(figure, profile)
    draw_caption(figure, profile, points)
    return figure


def marker_area(share: float) -> float:
    """Area in square points of a layer that takes ``share`` (0 to 1) of the time."""
    return max(_LEAST_AREA, _FULL_AREA * share)


def _area_of(point: Point) -> float:
    return _WHOLE_AREA if point.family is WHOLE else marker_area(point.share)


def _range_of(points: Sequence[Point], lines: Sequence[CeilingLine]) -> _Range:
    """Powers of ten would waste half the plane: the points' range with some air around."""
    if not points:
        return _Range(0.1, 1000.0, 0.1, 1000.0)
    left = min(p.intensity for p in points) / 1.8
    right = max(p.intensity for p in points) * 2.2
    peaks = [line.value for line in lines if line.kind != "memory"]
    diagonals = [line.value for line in lines if line.kind == "memory"]
    if peaks and diagonals:
        # The ridge of DRAM, where its slope meets the highest peak, belongs in the picture.
        right = max(right, 1.6 * max(peaks) / min(diagonals))
        # And so does a piece of every slope, long enough for its name.
        left = min(left, 0.2 * max(peaks) / max(diagonals))
    rates = [p.gmacs_per_s for p in points]
    bottom = min([*rates, *(v * left for v in diagonals)]) / 1.6
    bottom = max(bottom, min(rates) / 20)
    return _Range(left, right, bottom, max([*rates, *peaks]) * 2.2)


def _draw_axes(axes: Axes, extent: _Range) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(extent.left, extent.right)
    axes.set_ylim(extent.bottom, extent.top)
    axes.set_xlabel("Operational intensity (MACs per byte moved)")
    axes.set_ylabel("Attained speed (GMAC/s)")
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8, zorder=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _draw_lines(axes: Axes, lines: Sequence[CeilingLine]) -> None:
    for line in lines:
        start, end = _reach(axes, line, lines)
        if start < end:
            axes.plot(
                [start, end],
                [line.at(start), line.at(end)],
                color=MUTED if line.kind == "memory" else INK,
                linewidth=1.1 if line.kind == "memory" else 1.4,
                linestyle="--" if line.kind == "independent" else "-",
                zorder=2,
            )


def _reach(axes: Axes, line: CeilingLine, lines: Sequence[CeilingLine]) -> tuple[float, float]:
    """From and to which intensity ``line`` is a limit: diagonals end at the highest peak."""
    left, right = axes.get_xlim()
    if line.kind == "memory":
        peaks = [other.value for other in lines if other.kind != "memory"]
        return left, min([right, *(max(peaks) / line.value for _ in peaks[:1])])
    bandwidths = [other.value for other in lines if other.kind == "memory"]
    return max([left, *(line.value / max(bandwidths) for _ in bandwidths[:1])]), right


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    # Large ones first, so that small ones lie on top of them.
    for point in sorted(points, key=lambda p: -p.share):
        axes.scatter(
            [point.intensity],
            [point.gmacs_per_s],
            s=_area_of(point),
            c=[point.family.colour],
            marker=point.family.marker,
            alpha=0.75,
            edgecolors=INK if point.rank else "white",
            linewidths=1.4 if point.rank else 0.6,
            zorder=4 if point.rank else 3,
        )


def _draw_labels(axes: Axes, points: Sequence[Point], lines: Sequence[CeilingLine]) -> None:
    box = axes.get_window_extent()
    dpi = axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    layout = LabelLayout(
        frame=Box(box.x0 + 2, box.y0 + 2, box.x1 - 2, box.y1 - 2),
        obstacles=[
            *(_marker_box(axes, point, dpi) for point in points),
            *(box for line in lines for box in _line_boxes(axes, line, lines)),
        ],
    )
    for line in lines:
        _label_line(axes, line, _reach(axes, line, lines), _sides(line, lines), layout)
    for point in sorted((p for p in points if p.rank), key=lambda p: p.rank or 0):
        _label_point(axes, point, layout)


def _marker_box(axes: Axes, point: Point, dpi: float) -> Box:
    x, y = axes.transData.transform((point.intensity, point.gmacs_per_s))
    radius = math.sqrt(_area_of(point)) / 2 * dpi / _POINTS_PER_INCH
    return Box(x - radius, y - radius, x + radius, y + radius)


def _line_boxes(axes: Axes, line: CeilingLine, lines: Sequence[CeilingLine]) -> tuple[Box, ...]:
    start, end = (axes.transData.transform((x, line.at(x))) for x in _reach(axes, line, lines))
    dx, dy = end - start
    if dx <= 0:
        return ()
    degrees = math.degrees(math.atan2(dy, dx))
    return along(start[0], start[1], math.hypot(dx, dy), _LINE_PIXELS, degrees)


def _label_line(
    axes: Axes,
    line: CeilingLine,
    reach: tuple[float, float],
    sides: tuple[int, int],
    layout: LabelLayout,
) -> None:
    """Along the line, at the end where it is alone: the left of slopes, the right of peaks."""
    if reach[0] >= reach[1]:
        return
    text = axes.text(0, 0, plot_text(line.label), fontsize=8.5, color=INK, zorder=5)
    size = text.get_window_extent()
    start, end = (axes.transData.transform((x, line.at(x))) for x in reach)
    length = math.dist(start, end)
    degrees = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
    ux, uy = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height = size.height + 2
    places = [i / 40 * max(0.0, length - size.width) for i in range(41)]
    if line.kind != "memory":
        places.reverse()
    for side in sides:
        # Moved off the line to one side of it, so that the line does not cross the text.
        starts = [
            (
                start[0] + place * ux - side * uy * height * _OFF_LINE,
                start[1] + place * uy + side * ux * height * _OFF_LINE,
            )
            for place in places
        ]
        chosen = layout.place(along(x, y, size.width, height, degrees) for x, y in starts)
        if chosen is not None:
            _move_to(axes, text, *starts[chosen])
            text.set(rotation=degrees, rotation_mode="anchor", ha="left", va="center")
            return
    text.remove()


def _sides(line: CeilingLine, lines: Sequence[CeilingLine]) -> tuple[int, int]:
    """Above the line first, but below a peak that has another one close above it."""
    above = [x.value for x in lines if x.kind != "memory" and x.value > line.value]
    crowded = line.kind != "memory" and min(above, default=math.inf) < _CLOSE * line.value
    return (-1, 1) if crowded else (1, -1)


def _label_point(axes: Axes, point: Point, layout: LabelLayout) -> None:
    name = plot_text(layer_title(point.layer), _LABEL_CHARACTERS)
    text = axes.text(0, 0, f"{point.rank}  {name}", fontsize=8.5, zorder=7, ha="left", va="bottom")
    text.set_bbox({"facecolor": "white", "edgecolor": "#999999", "pad": 2.0, "alpha": 0.92})
    size = text.get_window_extent()
    pad = 6.0
    width, height = size.width + 2 * pad, size.height + 2 * pad
    x, y = axes.transData.transform((point.intensity, point.gmacs_per_s))
    places = list(around(x, y, width, height))
    chosen = layout.place((place,) for place in places)
    if chosen is None:
        text.remove()
        return
    place = places[chosen]
    _move_to(axes, text, place.left + pad, place.bottom + pad)
    to_data = axes.transData.inverted()
    near = (min(max(x, place.left), place.right), min(max(y, place.bottom), place.top))
    ends = [to_data.transform(near), (point.intensity, point.gmacs_per_s)]
    axes.plot(*zip(*ends, strict=True), color=INK, linewidth=0.8, zorder=6)


def _move_to(axes: Axes, text: Text, x: float, y: float) -> None:
    text.set_position(tuple(axes.transData.inverted().transform((x, y))))
