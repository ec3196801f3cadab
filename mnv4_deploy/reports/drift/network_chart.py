"""SQNR along the network as SVG: through the network as a line, each layer alone as a dot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.reports.drift.words import in_db, number_text
from mnv4_deploy.reports.markup import Markup, brief, tag

WIDTH, HEIGHT = 1160.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 16.0, 30.0
_STEP_DB = 10
_LETTER = 6.6  # width of a letter of the axis' font
BADGES = 5


def network_chart(layers: LayersDrift) -> Markup:
    """The chart; each layer has a hover text and leads to its row in the table."""
    shown = layers.layers
    low, high = _limits(shown)
    place = _Places(len(shown), low, high)
    return tag(
        "svg",
        *_stripes(shown, place),
        *_grid(place),
        *_line(shown, place),
        *(_dot(layer, at, place) for at, layer in enumerate(shown)),
        *_badges(layers, place),
        *(_hover(layer, at, place) for at, layer in enumerate(shown)),
        class_="network",
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        aria_label="SQNR of every layer in dB, in the order they run",
    )


class _Places:
    """Where a layer and a figure lie."""

    def __init__(self, count: int, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.width = (WIDTH - _LEFT - _RIGHT) / max(count, 1)

    def x(self, at: float) -> float:
        return _LEFT + (at + 0.5) * self.width

    def y(self, sqnr_db: float) -> float:
        """Figures above the axis, such as 200 dB for no difference, lie on its upper end."""
        known = self.low if math.isnan(sqnr_db) else sqnr_db
        inside = min(max(known, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _limits(layers: Iterable[LayerDrift]) -> tuple[int, int]:
    figures = [
        agreement.sqnr_db
        for layer in layers
        for agreement in (layer.accumulated, layer.isolated)
        if agreement and math.isfinite(agreement.sqnr_db)
    ]
    # Float layers agree to 100 dB and more, which would press everything else flat.
    ordinary = [db for db in figures if db <= 70] or figures or [0.0]
    low = max(math.floor(min(ordinary) / _STEP_DB) * _STEP_DB, -40)
    high = math.ceil(min(max(ordinary), 70) / _STEP_DB) * _STEP_DB
    return low, max(high, low + 2 * _STEP_DB)


def _grid(place: _Places) -> Iterable[Markup]:
    for db in range(place.low, place.high + 1, _STEP_DB):
        y = place.y(db)
        yield tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y)
        yield tag("text", str(db), class_="tick", x=_LEFT - 8, y=y + 4, text_anchor="end")
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    yield tag(
        "text",
        "SQNR (dB)",
        class_="tick",
        text_anchor="middle",
        transform=f"translate(12 {middle:.0f}) rotate(-90)",
    )


def _stripes(layers: tuple[LayerDrift, ...], place: _Places) -> Iterable[Markup]:
    """Every other stage shaded, and its name where there is room."""
    start = 0
    for number, (name, members) in enumerate(groupby(layers, key=_stage)):
        count = len(list(members))
        left, width = place.x(start - 0.5), count * place.width
        if number % 2:
            yield tag(
                "rect",
                class_="stripe",
                x=left,
                width=width,
                y=_TOP,
                height=HEIGHT - _TOP - _BOTTOM,
            )
        if len(name) * _LETTER + 8 < width:
            yield tag(
                "text",
                name,
                class_="tick",
                x=left + width / 2,
                y=HEIGHT - 10,
                text_anchor="middle",
            )
        start += count


def _stage(layer: LayerDrift) -> str:
    return brief(block_of(layer.module, 2 if _numbered(layer.module) else 1), 40)


def _numbered(module: str) -> bool:
    """Whether the second step is a number, as in "blocks.0"."""
    return module.partition("." if "/" not in module else "/")[2][:1].isdigit()


def _line(layers: tuple[LayerDrift, ...], place: _Places) -> Iterable[Markup]:
    points = " ".join(
        f"{place.x(at):.1f},{place.y(layer.accumulated.sqnr_db):.1f}"
        for at, layer in enumerate(layers)
    )
    yield tag("polyline", class_="accumulated", points=points)


def _dot(layer: LayerDrift, at: int, place: _Places) -> Markup:
    if layer.isolated is None:
        return Markup()
    return tag(
        "circle",
        class_="isolated",
        cx=place.x(at),
        cy=place.y(layer.isolated.sqnr_db),
        r=3.2 if place.width > 7 else 2.2,
    )


def _badges(layers: LayersDrift, place: _Places) -> Iterable[Markup]:
    at_of = {layer.index: at for at, layer in enumerate(layers.layers)}
    for rank, layer in enumerate(layers.most_damaged(BADGES), 1):
        x = place.x(at_of[layer.index])
        y = place.y((layer.isolated or layer.accumulated).sqnr_db)
        down = y + 34 < HEIGHT - _BOTTOM
        y += 17 if down else -17
        yield tag("circle", class_="badge", cx=x, cy=y, r=9.0)
        yield tag("text", str(rank), class_="badge-text", x=x, y=y + 4, text_anchor="middle")


def _hover(layer: LayerDrift, at: int, place: _Places) -> Markup:
    return tag(
        "a",
        tag(
            "rect",
            tag("title", hover_text(layer).replace("\n", "; ")),
            class_="hit",
            x=place.x(at - 0.5),
            width=place.width,
            y=_TOP,
            height=HEIGHT - _TOP - _BOTTOM,
            data_tip=hover_text(layer),
        ),
        href=f"#layer-{layer.index}",
    )


def hover_text(layer: LayerDrift) -> str:
    """What a layer is and how it fared, a line for each."""
    lines = [
        brief(layer.module or layer.tensor or layer.kind, 80),
        f"{brief(layer.kind, 40)}, {brief(layer.compute, 30)}",
        f"alone: {in_db(layer.isolated.sqnr_db) if layer.isolated else 'not known'}",
        f"through the network: {in_db(layer.accumulated.sqnr_db)}",
    ]
    if layer.output:
        use = layer.output
        lines.append(
            f"range used: {number_text(use.used_percent)} %, "
            f"clipped: {number_text(use.clipped_percent, 2)} %"
        )
    if layer.cause:
        lines.append(f"cause: {layer.cause.kind}")
    return "\n".join(lines)
