"""Do the two see their images cut and scaled alike? What the difference costs, tried."""

from __future__ import annotations

from dataclasses import dataclass

from mnv4_deploy.drift.causes.agreement import median_sqnr_db, repaired
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.records import Cause
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.open import open_runner
from mnv4_deploy.sessions.records import ModelRef


@dataclass(frozen=True)
class PreparationFault:
    """``after_db``: median SQNR of the outputs where both see the same images."""

    cause: Cause
    after_db: float


def sees_otherwise(reference: Preprocessing, candidate: Preprocessing) -> bool:
    """Whether the pixels differ before any normalisation."""
    return _geometry(reference) != _geometry(candidate)


def find_preparation_fault(
    reference: ModelRef, candidate: ModelRef, theirs: Pixels, mine: Pixels
) -> PreparationFault | None:
    """Whether the outputs agree once the reference sees what the candidate sees.

    ``theirs`` and ``mine`` are the same images, RGB ``[N, H, W, 3]``, as the reference and the
    candidate are said to see them.
    """
    running = open_runner(reference)
    given = open_runner(candidate).outputs(mine)
    before, after = (median_sqnr_db(running.outputs(seen), given) for seen in (theirs, mine))
    if not repaired(before, after):
        return None
    (crop, way), (other_crop, other_way) = map(
        _geometry, (reference.preprocessing, candidate.preprocessing)
    )
    cause = Cause(
        "crop or interpolation",
        f"The reference sees images with crop_pct {crop:.6g} and {way} interpolation, the "
        f"candidate with {other_crop:.6g} and {other_way}. Shown the same, their outputs agree to "
        f"{after:.1f} dB instead of {before:.1f} dB.",
        "Give both the crop and the interpolation that they were trained with.",
    )
    return PreparationFault(cause, after)


def _geometry(spec: Preprocessing) -> tuple[float, str]:
    return spec.crop_pct, spec.interpolation
