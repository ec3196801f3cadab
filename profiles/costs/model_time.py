"""The roofline model of MobileNetV4 (arXiv 2404.10518, section 3)."""

from __future__ import annotations

from collections.abc import Iterable


def model_time(costs: Iterable[tuple[int, int]], ridge_point: float) -> float:
    """The time of a model, in units of the time one MAC takes at the peak.

    ``costs`` are the MACs and bytes of each layer; ``ridge_point`` is peak MACs over peak
    memory bandwidth, in MACs per byte. ModelTime = sum of max(MACTime, MemTime) where MemTime
    is bytes times the ridge point in these units. A ridge point of 0 counts MACs.
    """
    return float(sum(max(macs, moved * ridge_point) for macs, moved in costs))
