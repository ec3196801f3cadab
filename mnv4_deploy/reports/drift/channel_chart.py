"""Small charts of one layer's channels: which of them rule the common scale."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mnv4_deploy.layers.records import LayerDrift
from mnv4_deploy.reports.drift.words import number_text
from mnv4_deploy.reports.markup import Markup, tag

_WIDTH, _HEIGHT, _BARS = 360.0, 90.0, 180
_Peaks = npt.NDArray[np.float64]


def channel_charts(layer: LayerDrift) -> list[Markup]:
    """A figure for the activations and one for the weights, where they are known."""
    evidence, use = layer.evidence, layer.output
    charts = []
    if _shown(evidence.channel_peaks) is not None:
        limit = max(abs(use.low), abs(use.high)) if use else None
        charts.append(_figure("Output, largest |value|", evidence.channel_peaks, limit))
    if _shown(evidence.weight_peaks) is not None:
        charts.append(_figure("Weights, largest |value|", evidence.weight_peaks, None))
    return charts


def _shown(peaks: _Peaks | None) -> _Peaks | None:
    """Peaks worth a chart: of several channels, not all of them 0."""
    if peaks is None or len(peaks) < 2:
        return None
    finite = np.nan_to_num(peaks, nan=0.0, posinf=0.0, neginf=0.0)
    return finite if finite.max() > 0 else None


def _figure(title: str, peaks: _Peaks | None, limit: float | None) -> Markup:
    finite = _shown(peaks)
    assert finite is not None
    top = float(finite.max())
    if limit is not None and np.isfinite(limit):
        top = max(top, min(limit, 1.5 * top))
    else:
        limit = None
    return tag(
        "figure",
        tag("figcaption", f"{title} of each of {len(finite)} channels"),
        tag(
            "svg",
            *_bars(finite, top),
            *_limit(limit, top),
            class_="channels",
            viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
            preserveAspectRatio="none",
            role="img",
            aria_label=title,
        ),
        tag("p", _caption(finite, limit), class_="muted"),
        class_="chart",
    )


def _bars(peaks: _Peaks, top: float) -> Iterable[Markup]:
    """One path for all bars; where there are too many the largest of neighbours stands."""
    groups = np.array_split(peaks, min(len(peaks), _BARS))
    width = _WIDTH / len(groups)
    gap = 0.15 * width if width > 3 else 0.0
    path = "".join(
        f"M{at * width:.1f} {_HEIGHT:.0f}v{-_HEIGHT * float(group.max()) / top:.1f}"
        f"h{width - gap:.2f}V{_HEIGHT:.0f}z"
        for at, group in enumerate(groups)
    )
    yield tag("path", class_="bars", d=path)


def _limit(limit: float | None, top: float) -> Iterable[Markup]:
    if limit is not None and 0 < limit <= top:
        y = max(_HEIGHT * (1 - limit / top), 1.0)
        yield tag("line", class_="limit", x1=0.0, x2=_WIDTH, y1=y, y2=y)


def _caption(peaks: _Peaks, limit: float | None) -> str:
    largest, median = int(peaks.argmax()), float(np.median(peaks))
    text = f"Channel {largest} reaches {number_text(float(peaks.max()))}"
    if median > 0:
        text += f", {number_text(float(peaks.max()) / median, 2)} times the median"
    if limit is not None:
        text += f"; the type can hold {number_text(limit)} (dashed line)"
    return f"{text}."
