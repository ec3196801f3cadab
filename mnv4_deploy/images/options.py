"""What the user says about a model's preprocessing, which overrides what files say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mnv4_deploy.errors import InputError
from mnv4_deploy.models.records import Interpolation, Preprocessing

if TYPE_CHECKING:
    from mnv4_deploy.models.weights import ReferenceModel

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

    def __post_init__(self) -> None:
        """Raise InputError naming the option that is not possible, and what to write."""
        for key, values, largest in (("mean", self.mean, 1.0), ("std", self.std, _MAX_STD)):
            if values is not None:
                _check_colours(key, values, largest)
        if self.crop_pct is not None and not MIN_CROP_PCT <= self.crop_pct <= 1:
            raise InputError(
                f"--crop-pct {self.crop_pct:g} is not possible: give the part of the shorter side "
                f"that the model sees, {MIN_CROP_PCT} to 1, such as 0.875."
            )
        if self.interpolation not in (None, *get_args(Interpolation)):
            raise InputError(
                f"There is no --interpolation '{self.interpolation}': give "
                f"{' or '.join(get_args(Interpolation))}."
            )

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

    def applied_to(self, reference: ReferenceModel) -> ReferenceModel:
        """``reference`` with the given fields; an assumption ends where they are complete."""
        known = self.complete or reference.preprocessing_from != "assumed"
        source = "options" if self.given and known else reference.preprocessing_from
        return dataclasses.replace(
            reference,
            preprocessing=self.over(reference.preprocessing),
            preprocessing_from=source,
        )


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
        mean=_colours("mean", given["mean"]) if "mean" in given else None,
        std=_colours("std", given["std"]) if "std" in given else None,
        crop_pct=_number(given["crop_pct"]) if "crop_pct" in given else None,
        interpolation=given.get("interpolation"),  # type: ignore[arg-type]
        size=_size(given["size"]) if "size" in given else None,
    )


def _colours(key: str, text: str) -> tuple[float, float, float]:
    values = [_number(part) for part in text.split(",")]
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise InputError(
            f"--{key} {text} is not understood: give three numbers between commas, such as "
            f"--{key} 0.5,0.5,0.5."
        )
    red, green, blue = values
    return red, green, blue


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_colours(key: str, values: tuple[float, float, float], largest: float) -> None:
    shown = ",".join(f"{value:.6g}" for value in values)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise InputError(f"--{key} {shown} is not possible: give three numbers.")
    if max(values) > largest:
        scaled = ",".join(f"{value / 255:.4g}" for value in values)
        raise InputError(
            f"--{key} is of pixels scaled to 0..1, and {shown} is too large for that: if it is of "
            f"0..255 pixels, give --{key} {scaled}."
        )
    if min(values) < 0 or (key == "std" and min(values) == 0):
        raise InputError(f"--{key} {shown} is not possible: give numbers above 0.")


def _size(text: str) -> tuple[int, int]:
    from mnv4_deploy.models.zoo import MAX_SIDE, parse_size

    size = parse_size(text)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InputError(f"--size {text} is not possible: give sides of 1 to {MAX_SIDE} pixels.")
    return size
