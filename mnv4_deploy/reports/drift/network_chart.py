"""SQNR along the network: where the figures of each layer lie in a chart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.text import brief, in_db, number_text

WIDTH, HEIGHT = 1160.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 1150.0, 16.0, 310.0
_STEP_DB = 10
_LETTER = 6.6  # width of a letter of the axis' font
_BADGES = 5


@dataclass(frozen=True)
class NetworkChart:
    """Coordinates in pixels of a picture of ``WIDTH`` x ``HEIGHT``; a layer is ``step`` wide.

    ``ticks`` are (decibels, y) of the axis, ``stages`` (name, x, width) with "" where there is no
    room for a name, ``points`` (x, y) of the accumulated figures and ``dots`` of the isolated
    ones, ``badges`` (rank, x, y) of the most damaged layers, ``hovers`` (index of the layer, x,
    lines to say of it).
    """

    step: float
    ticks: tuple[tuple[int, float], ...]
    stages: tuple[tuple[str, float, float], ...]
    points: tuple[tuple[float, float], ...]
    dots: tuple[tuple[float, float], ...]
    badges: tuple[tuple[int, float, float], ...]
    hovers: tuple[tuple[int, float, tuple[str, ...]], ...]


def network_chart(layers: LayersDrift) -> NetworkChart:
    """The chart of at least one layer."""
    shown, scale = layers.layers, _Scale(layers.layers)
    step = (RIGHT - LEFT) / len(shown)
    x = {layer.index: LEFT + (at + 0.5) * step for at, layer in enumerate(shown)}
    return NetworkChart(
        step=step,
        ticks=tuple((db, scale.y(db)) for db in range(scale.low, scale.high + 1, _STEP_DB)),
        stages=tuple(_stages(shown, step)),
        points=tuple((x[layer.index], scale.y(layer.accumulated.sqnr_db)) for layer in shown),
        dots=tuple(
            (x[layer.index], scale.y(layer.isolated.sqnr_db)) for layer in shown if layer.isolated
        ),
        badges=tuple(
            (rank, x[layer.index], _beside(scale.y((layer.isolated or layer.accumulated).sqnr_db)))
            for rank, layer in enumerate(layers.most_damaged(_BADGES), 1)
        ),
        hovers=tuple(
            (layer.index, x[layer.index] - step / 2, tuple(_hover_lines(layer))) for layer in shown
        ),
    )


class _Scale:
    """The axis of decibels, in whole steps."""

    def __init__(self, layers: Iterable[LayerDrift]) -> None:
        figures = [
            agreement.sqnr_db
            for layer in layers
            for agreement in (layer.accumulated, layer.isolated)
            if agreement and math.isfinite(agreement.sqnr_db)
        ]
        # Float layers agree to 100 dB and more, which would press everything else flat.
        ordinary = [db for db in figures if db <= 70] or figures or [0.0]
        self.low = max(math.floor(min(ordinary) / _STEP_DB) * _STEP_DB, -40)
        high = math.ceil(min(max(ordinary), 70) / _STEP_DB) * _STEP_DB
        self.high = max(high, self.low + 2 * _STEP_DB)

    def y(self, sqnr_db: float) -> float:
        """Figures above the axis, such as 200 dB for no difference, lie on its upper end."""
        known = self.low if math.isnan(sqnr_db) else sqnr_db
        inside = min(max(known, self.low), self.high)
        return BOTTOM - (inside - self.low) / (self.high - self.low) * (BOTTOM - TOP)


def _stages(layers: tuple[LayerDrift, ...], step: float) -> Iterable[tuple[str, float, float]]:
    x = LEFT
    parts: Counter[str] = Counter()
    for stage, members in groupby(layers, key=_stage):
        width = len(list(members)) * step
        # One that others interrupt is there several times.
        parts[stage] += 1
        name = f"{stage} ({parts[stage]})" if stage and parts[stage] > 1 else stage
        yield name if len(name) * _LETTER + 8 < width else "", x, width
        x += width


def _stage(layer: LayerDrift) -> str:
    return brief(block_of(layer.module, 2 if _numbered(layer.module) else 1), 40)


def _numbered(module: str) -> bool:
    """Whether the second step is a number, as in "blocks.0"."""
    return module.partition("." if "/" not in module else "/")[2][:1].isdigit()


def _beside(y: float) -> float:
    """Below a dot, or above it where there is no room."""
    return y + 17 if y + 34 < BOTTOM else y - 17


def _hover_lines(layer: LayerDrift) -> Iterable[str]:
    """What a layer is and how it fared."""
    yield brief(layer.module or layer.tensor or layer.kind, 80)
    yield f"{brief(layer.kind, 40)}, {brief(layer.compute, 30)}"
    yield f"isolated: {in_db(layer.isolated.sqnr_db) if layer.isolated else 'not known'}"
    yield f"accumulated: {in_db(layer.accumulated.sqnr_db)}"
    if layer.output:
        use = layer.output
        yield (
            f"range used: {number_text(use.used_percent)} %, "
            f"clipped: {number_text(use.clipped_percent, 2)} %"
        )
    if layer.cause:
        yield f"cause: {layer.cause.kind}"
