"""Small charts of one layer's channels: which of them rule the common scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnv4_deploy.layers.records import LayerDrift
from mnv4_deploy.text import number_text

WIDTH, HEIGHT = 360.0, 90.0
_BARS = 180
_Peaks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelChart:
    """``bars`` is a path within ``WIDTH`` x ``HEIGHT``, ``limit`` the height of what the type
    can hold, None where that is out of sight or unknown."""

    title: str
    channels: int
    bars: str
    limit: float | None
    caption: str


def channel_charts(layer: LayerDrift) -> Iterable[ChannelChart]:
    """One of the activations and one of the weights, where they are known."""
    use = layer.output
    limit = max(abs(use.low), abs(use.high)) if use else None
    if (peaks := _shown(layer.evidence.channel_peaks)) is not None:
        yield _chart("Output, largest |value|", peaks, limit)
    if (peaks := _shown(layer.evidence.weight_peaks)) is not None:
        yield _chart("Weights, largest |value|", peaks, None)


def _shown(peaks: _Peaks | None) -> _Peaks | None:
    """Peaks worth a chart: of several channels, not all of them 0."""
    if peaks is None or len(peaks) < 2:
        return None
    finite = np.nan_to_num(peaks, nan=0.0, posinf=0.0, neginf=0.0)
    return finite if finite.max() > 0 else None


def _chart(title: str, peaks: _Peaks, limit: float | None) -> ChannelChart:
    top = float(peaks.max())
    if limit is not None and np.isfinite(limit):
        top = max(top, min(limit, 1.5 * top))
    else:
        limit = None
    seen = limit is not None and 0 < limit <= top
    return ChannelChart(
        title=title,
        channels=len(peaks),
        bars=_bars(peaks, top),
        limit=max(HEIGHT * (1 - limit / top), 1.0) if limit is not None and seen else None,
        caption=_caption(peaks, limit),
    )


def _bars(peaks: _Peaks, top: float) -> str:
    """One path for all bars; where there are too many the largest of neighbours stands."""
    groups = np.array_split(peaks, min(len(peaks), _BARS))
    width = WIDTH / len(groups)
    gap = 0.15 * width if width > 3 else 0.0
    return "".join(
        f"M{at * width:.1f} {HEIGHT:.0f}v{-HEIGHT * float(group.max()) / top:.1f}"
        f"h{width - gap:.2f}V{HEIGHT:.0f}z"
        for at, group in enumerate(groups)
    )


def _caption(peaks: _Peaks, limit: float | None) -> str:
    largest, median = int(peaks.argmax()), float(np.median(peaks))
    text = f"Channel {largest} reaches {number_text(float(peaks.max()))}"
    if median > 0:
        text += f", {number_text(float(peaks.max()) / median, 2)} times the median"
    if limit is not None:
        text += f"; the type can hold {number_text(limit)} (dashed line)"
    return f"{text}."
