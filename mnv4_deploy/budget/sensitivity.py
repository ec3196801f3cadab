"""Which layers damage an int8 file most, and what the outputs gain when one is not int8.

On calibration images: no label is needed, and the held-out images are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.sessions.records import ModelRef

# Times closer than this are the same to a clock on a busy machine.
_CLOCK_STEP = 0.02
_US_PER_MS = 1000


@dataclass(frozen=True)
class Suspect:
    """A layer, or a block with all its layers, and the noise it adds (see ``Sensitivity``)."""

    module: str
    modules: tuple[str, ...]
    damage: float


def most_damaging(
    reference: Path, candidate: Path, job: FileJob, images: Pixels, count: int
) -> tuple[Suspect, ...]:
    """The ``count`` layers that add most noise of their own, worst first, then their blocks.

    Noise is power over the power of the layer's output, summed over a module's operators.
    """
    from mnv4_deploy.layers.compare import compare_layers

    found = compare_layers(_subject(reference, job), _subject(candidate, job), images)
    return suspects(found, count)


def suspects(found: LayersDrift, count: int) -> tuple[Suspect, ...]:
    """:func:`most_damaging` of a comparison; operators without a module are left out.

    Blocks, because a single layer in float still hands on its result in 8 bits.
    """
    damages: defaultdict[str, float] = defaultdict(float)
    for layer in found.layers:
        if layer.module and layer.isolated is not None:
            damages[layer.module] += layer.damage
    order = sorted(damages, key=lambda module: (-damages[module], module))
    worst = [module for module in order if damages[module] > 0][:count]
    blocks = dict.fromkeys(block_of(module) for module in worst)
    members = {
        block: tuple(module for module in damages if block_of(module) == block) for block in blocks
    }
    return (
        *(Suspect(module, (module,), damages[module]) for module in worst),
        *(
            Suspect(block, inside, sum(damages[module] for module in inside))
            for block, inside in members.items()
            if len(inside) > 1
        ),
    )


def gain_per_ms(gain: float, added_us: float, latency_us: float) -> float:
    """``gain`` over the time added to ``latency_us``, in whole steps of 2 % and at least one.

    The steps keep the order of two bargains from hanging on the noise of the clock.
    """
    step_us = _CLOCK_STEP * latency_us
    steps = max(1, round(added_us / step_us))
    return gain / (steps * step_us / _US_PER_MS)


def _subject(path: Path, job: FileJob) -> ModelRef:
    return ModelRef(
        kind="onnx" if path.suffix == ".onnx" else "tflite",
        name=path.name,
        path=str(path),
        preprocessing=job.spec,
        preprocessing_from="model",
        labels=job.reference.labels,
        num_classes=job.reference.num_classes,
        sha256=file_sha256(path),
        size_bytes=path.stat().st_size,
    )
