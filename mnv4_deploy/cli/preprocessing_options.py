"""Options of every command that prepares images. Parsing only."""

from __future__ import annotations

from typing import Annotated

import typer

Mean = Annotated[
    str | None,
    typer.Option("--mean", help="R,G,B in 0..1.  [default: as the files or weights say]"),
]
Std = Annotated[str | None, typer.Option("--std", help="R,G,B in 0..1.")]
CropPct = Annotated[
    str | None,
    typer.Option(
        "--crop-pct",
        help="Part of the shorter side that the model sees, 1 for images that are crops already.",
    ),
]
InterpolationName = Annotated[
    str | None,
    typer.Option("--interpolation", metavar="bilinear|bicubic", help="Of the resize."),
]


def given_options(
    *, mean: str | None, std: str | None, crop_pct: str | None, interpolation: str | None
) -> dict[str, str]:
    """Those that were given, as ``images.options.parse_options`` takes them."""
    options = {"mean": mean, "std": std, "crop_pct": crop_pct, "interpolation": interpolation}
    return {key: value for key, value in options.items() if value is not None}
