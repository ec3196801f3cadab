"""Labels that cover neither each other nor the lines' own labels. All in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# What one place later in the list costs, in square pixels covered.
_LATER_COST = 12.0


class Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and self.right >= other.right
            and self.bottom <= other.bottom
            and self.top >= other.top
        )


@dataclass
class LabelLayout:
    """Finds places inside ``frame`` that no label has; ``obstacles`` are covered if need be."""

    frame: Box
    obstacles: Sequence[Box] = ()
    taken: list[Box] = field(default_factory=list)

    def place(self, candidates: Iterable[tuple[Box, ...]]) -> int | None:
        """The index of the candidate to use, and reserves it; None where all are taken.

        Each candidate is the boxes that make up one label, the best place first: a later one
        must cover less to be worth it.
        """
        best: tuple[float, int] | None = None
        boxes_of = list(candidates)
        for index, boxes in enumerate(boxes_of):
            if not all(self.frame.holds(box) for box in boxes) or overlap(boxes, self.taken):
                continue
            cost = overlap(boxes, self.obstacles) + _LATER_COST * index
            if best is None or cost < best[0]:
                best = (cost, index)
            if best[0] <= _LATER_COST * (index + 1):
                break
        if best is None:
            return None
        self.taken.extend(boxes_of[best[1]])
        return best[1]


def overlap(boxes: Sequence[Box], others: Sequence[Box]) -> float:
    """Area that both cover, added up over all pairs."""
    if not boxes or not others:
        return 0.0
    import numpy as np

    mine = np.asarray(boxes)[:, None, :]
    theirs = np.asarray(others)[None, :, :]
    width = np.minimum(mine[..., 2], theirs[..., 2]) - np.maximum(mine[..., 0], theirs[..., 0])
    height = np.minimum(mine[..., 3], theirs[..., 3]) - np.maximum(mine[..., 1], theirs[..., 1])
    return float((width.clip(0) * height.clip(0)).sum())


def around(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Boxes of the given size around a point, the nearest first."""
    for distance in (10.0, 20.0, 35.0, 55.0, 80.0, 110.0, 150.0, 200.0, 260.0):
        for angle in (30, 150, -30, -150, 60, 120, -60, -120, 0, 180, 90, -90):
            dx = math.cos(math.radians(angle))
            dy = math.sin(math.radians(angle))
            centre_x = x + dx * (distance + width / 2)
            centre_y = y + dy * (distance + height / 2)
            yield Box(
                centre_x - width / 2,
                centre_y - height / 2,
                centre_x + width / 2,
                centre_y + height / 2,
            )


def along(x: float, y: float, length: float, height: float, degrees: float) -> tuple[Box, ...]:
    """Squares that cover a text of the given size, rotated about its left end at (x, y)."""
    dx, dy = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half = height / 2
    count = max(1, math.ceil(length / height))
    centres = [half + i * (length - height) / max(1, count - 1) for i in range(count)]
    return tuple(
        Box(x + c * dx - half, y + c * dy - half, x + c * dx + half, y + c * dy + half)
        for c in centres
    )
