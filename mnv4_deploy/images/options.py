"""What the user says about a model's preprocessing, which overrides what files say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from mnv4_deploy.errors import InputError
from mnv4_deploy.models.records import Interpolation, Preprocessing

# Images are scaled up by its inverse before they are cropped: with less, all memory is too little.
MIN_CROP_PCT = 0.01
KEYS = ("mean", "std", "crop_pct", "interpolation", "size")
_MAX_STD = 10.0


@dataclass(frozen=True)
class PreprocessingOptions:
    """Fields of ``Preprocessing`` that were given; ``size`` is (height, width) in pixels."""

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    size: tuple[int, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether they alone say what a model sees; the rest has sensible defaults."""
        return self.mean is not None and self.std is not None

    @property
    def given(self) -> dict[str, object]:
        """The given fields but for the size, which a file fixes."""
        fields = {name: getattr(self, name) for name in KEYS if name != "size"}
        return {name: value for name, value in fields.items() if value is not None}

    def over(self, base: Preprocessing) -> Preprocessing:
        """``base`` with the given fields, its size excepted."""
        return dataclasses.replace(base, **self.given)  # type: ignore[arg-type]


def parse_options(overrides: Mapping[str, str]) -> PreprocessingOptions:
    """Read ``mean`` and ``std`` (one number or three between commas, of pixels scaled to 0..1),
    ``crop_pct``, ``interpolation`` and ``size``; an empty text counts as not given.

    Raises InputError naming the option that is unknown or wrong, and what to write.
    """
    given = {key: text.strip() for key, text in overrides.items() if text.strip()}
    for key in given:
        if key not in KEYS:
            raise InputError(f"There is no preprocessing option '{key}': give {', '.join(KEYS)}.")
    return PreprocessingOptions(
        mean=_colours("mean", given["mean"], 1.0) if "mean" in given else None,
        std=_colours("std", given["std"], _MAX_STD) if "std" in given else None,
        crop_pct=_crop_pct(given["crop_pct"]) if "crop_pct" in given else None,
        interpolation=_interpolation(given["interpolation"]) if "interpolation" in given else None,
        size=_size(given["size"]) if "size" in given else None,
    )


def _colours(key: str, text: str, largest: float) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise InputError(
            f"--{key} {text} is not understood: give three numbers between commas, such as "
            f"--{key} 0.5,0.5,0.5."
        )
    if max(values) > largest:
        scaled = ",".join(f"{value / 255:.4g}" for value in values)
        raise InputError(
            f"--{key} is of pixels scaled to 0..1, and {text} is too large for that: if it is of "
            f"0..255 pixels, give --{key} {scaled}."
        )
    if min(values) < 0 or (key == "std" and min(values) == 0):
        raise InputError(f"--{key} {text} is not possible: give numbers above 0.")
    red, green, blue = values
    return red, green, blue


def _crop_pct(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not MIN_CROP_PCT <= value <= 1:
        raise InputError(
            f"--crop-pct {text} is not possible: give the part of the shorter side that the model "
            f"sees, {MIN_CROP_PCT} to 1, such as 0.875."
        )
    return value


def _interpolation(text: str) -> Interpolation:
    for known in get_args(Interpolation):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise InputError(
        f"There is no --interpolation '{text}': give {' or '.join(get_args(Interpolation))}."
    )


def _size(text: str) -> tuple[int, int]:
    from mnv4_deploy.models.zoo import MAX_SIDE, parse_size

    size = parse_size(text)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InputError(f"--size {text} is not possible: give sides of 1 to {MAX_SIDE} pixels.")
    return size
