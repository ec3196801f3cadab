"""Accuracy against time: a point for each model, and a line through those that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from mnv4_deploy.reports.plots.figures import INK
from mnv4_deploy.reports.plots.label_layout import Box, LabelLayout, along, around
from mnv4_deploy.text import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_CHARACTERS = 26
_MARKER_PIXELS = 7.0
# Wider than it is drawn, so that names keep away from it.
_FRONT_PIXELS = 8.0
Points = Mapping[str, tuple[float, float]]
Interval = tuple[float, float]
# In points of accuracy: an image of a thousand is no gulf.
LEAST_SPAN = 4.0


@dataclass(frozen=True)
class Doubt:
    """How far a point's time and accuracy reach; None where that is not known."""

    time: Interval | None = None
    accuracy: Interval | None = None


_NO_DOUBTS: Mapping[str, Doubt] = MappingProxyType({})


def pareto_front(points: Points) -> list[str]:
    """The models that none beats in both (time, accuracy), from fast to slow."""
    front: list[str] = []
    best = float("-inf")
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if points[name][1] > best:
            best = points[name][1]
            front.append(name)
    return front


def draw_front(
    axes: Axes,
    points: Points,
    colours: Mapping[str, str],
    *,
    doubts: Mapping[str, Doubt] = _NO_DOUBTS,
    least_span: float = 0.0,
) -> None:
    """Draw (time, accuracy) ``points`` with their names, and their Pareto front.

    The axis of accuracy reaches over ``least_span`` of its unit and over every error bar.
    """
    for name, (time, accuracy) in points.items():
        axes.scatter([time], [accuracy], s=48, c=[colours[name]], zorder=3, edgecolors="white")
        doubt = doubts.get(name, Doubt())
        if doubt.time:
            axes.hlines(accuracy, *doubt.time, color=colours[name], lw=1.3, alpha=0.7, zorder=2)
        if doubt.accuracy:
            axes.vlines(time, *doubt.accuracy, color=colours[name], lw=1.3, alpha=0.7, zorder=2)
    front = pareto_front(points)
    axes.plot(*zip(*(points[name] for name in front), strict=True), color=INK, lw=1, zorder=2)
    times = [each.time for each in doubts.values() if each.time]
    axes.set_xlim(0, 1.25 * max([*(t for t, _ in points.values()), *(t for _, t in times)]))
    known = [each.accuracy for each in doubts.values() if each.accuracy]
    ends = [*(y for _, y in points.values()), *(y for interval in known for y in interval)]
    # Now: labels are placed in pixels.
    axes.set_ylim(*axis_range(min(ends), max(ends), least_span))
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    box = axes.get_window_extent()
    spots = {name: _pixels(axes, *point) for name, point in points.items()}
    half = _MARKER_PIXELS
    layout = LabelLayout(
        frame=Box(box.x0, box.y0, box.x1, box.y1),
        obstacles=[
            part
            for start, end in pairwise(spots[name] for name in front)
            for part in _segment(start, end)
        ]
        + [box for name, doubt in doubts.items() for box in _bars(axes, points[name], doubt)],
        taken=[Box(x - half, y - half, x + half, y + half) for x, y in spots.values()],
    )
    for name, point in points.items():
        _label(axes, layout, name, point, spots[name])


def axis_range(low: float, high: float, least: float) -> Interval:
    """From ``low`` to ``high`` with some air, and over ``least`` at the least."""
    air = 0.24 * (high - low) or 0.02 * abs(high) or 1.0
    more = max(0.0, (least - (high - low + 2 * air)) / 2)
    return low - air - more, high + air + more


def _label(
    axes: Axes,
    layout: LabelLayout,
    name: str,
    point: tuple[float, float],
    spot: tuple[float, float],
) -> None:
    """The name beside its point with a line to it; left out where there is no room."""
    text = axes.text(0, 0, plot_text(name, _NAME_CHARACTERS), fontsize=7.6, zorder=4)
    size = text.get_window_extent()
    x, y = spot
    places = list(around(x, y, size.width + 2, size.height + 2))
    chosen = layout.place((place,) for place in places)
    if chosen is None:
        text.remove()
        return
    place = places[chosen]
    to_data = axes.transData.inverted()
    text.set_position(tuple(to_data.transform((place.left, place.bottom))))
    near = (min(max(x, place.left), place.right), min(max(y, place.bottom), place.top))
    ends = [to_data.transform(near), point]
    axes.plot(*zip(*ends, strict=True), color="#aaaaaa", linewidth=0.6, zorder=1)


def _bars(axes: Axes, point: tuple[float, float], doubt: Doubt) -> Iterator[Box]:
    time, accuracy = point
    half = _FRONT_PIXELS / 2
    if doubt.time:
        (left, y), (right, _) = (_pixels(axes, end, accuracy) for end in doubt.time)
        yield Box(left, y - half, right, y + half)
    if doubt.accuracy:
        (x, bottom), (_, top) = (_pixels(axes, time, end) for end in doubt.accuracy)
        yield Box(x - half, bottom, x + half, top)


def _segment(start: tuple[float, float], end: tuple[float, float]) -> tuple[Box, ...]:
    degrees = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
    return along(*start, math.dist(start, end), _FRONT_PIXELS, degrees)


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)
