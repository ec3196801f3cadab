"""Does the candidate want other pixels than it gets? Found out by giving them to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mnv4_deploy.decibels import decibels
from mnv4_deploy.drift.causes.agreement import median_sqnr_db, repaired
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.families import PRODUCT
from mnv4_deploy.layers.join import join
from mnv4_deploy.layers.layer import Array, Network
from mnv4_deploy.layers.networks.open_network import open_network
from mnv4_deploy.layers.records import Cause, CauseKind
from mnv4_deploy.models.records import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mnv4_deploy.sessions.image_runner import ImageRunner
from mnv4_deploy.sessions.open import open_runner
from mnv4_deploy.sessions.outputs import Outputs
from mnv4_deploy.sessions.records import ModelRef

_Colours = tuple[float, float, float]

# More images make the figures finer but not the answer another one.
_IMAGES = 16
# Above this the outputs agree as quantized ones do, and no input can be to blame.
_AGREES_DB = 25.0
_FIRST_LAYER_DB = 3.0


def _grey(value: float) -> _Colours:
    return value, value, value


# Mean and deviation of pixels scaled to 0..1, by the name that users know.
NORMALISATIONS: dict[str, tuple[_Colours, _Colours]] = {
    "pixels of 0..1": (_grey(0.0), _grey(1.0)),
    "pixels of -1..1": (_grey(0.5), _grey(0.5)),
    "pixels of 0..255": (_grey(0.0), _grey(1 / 255)),
    "pixels of -128..127": (_grey(128 / 255), _grey(1 / 255)),
    "ImageNet's mean and deviation": (IMAGENET_MEAN, IMAGENET_STD),
    "ImageNet's mean, not divided by a deviation": (IMAGENET_MEAN, _grey(1.0)),
    "ImageNet's mean on 0..255": (IMAGENET_MEAN, _grey(1 / 255)),
    "CIFAR-10's mean and deviation": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CLIP's mean and deviation": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}


@dataclass(frozen=True)
class _Guess:
    """What else the candidate may want. ``words`` say how it is then fed."""

    kind: CauseKind
    words: str
    swapped: bool
    transposed: bool
    spec: Preprocessing

    def pixels(self, pixels: Pixels) -> Pixels:
        pixels = pixels[..., ::-1] if self.swapped else pixels
        return np.ascontiguousarray(pixels.swapaxes(1, 2) if self.transposed else pixels)


def find_input_fault(reference: ModelRef, candidate: ModelRef, pixels: Pixels) -> Cause | None:
    """Whether the two agree once one of them sees other pixels than it is given.

    ``pixels`` are RGB ``[N, H, W, 3]``, of which the first 16 are used. Tried are swapped
    channels, the usual normalisations, both together, and swapped axes of square images: on the
    candidate or, where that takes pixels and normalises them itself, on the reference. The
    sentence says how much better the outputs agree; which of the two is wrong cannot be told.
    """
    pixels = pixels[:_IMAGES]
    theirs, mine = _Trials(reference), _Trials(candidate)
    roles = ("candidate", "reference")
    fixed, probed = theirs, mine
    if mine.takes_pixels and not theirs.takes_pixels:
        roles, fixed, probed = roles[::-1], mine, theirs
    wanted, given = fixed.plain(pixels), probed.plain(pixels)
    before = median_sqnr_db(wanted, given)
    if before > _AGREES_DB:
        return None
    trials = [(guess, probed.guessed(pixels, guess)) for guess in _guesses(probed, pixels)]
    best, outputs = max(trials, key=lambda trial: median_sqnr_db(wanted, trial[1]))
    after = median_sqnr_db(wanted, outputs)
    if not repaired(before, after):
        return None
    # The input is not to blame where the first layer had it right: later ones only happen to.
    if not _mends_first_layer(theirs, mine, pixels[0], best, probed):
        return None
    return Cause(
        best.kind,
        f"Fed {best.words}, the {roles[0]} agrees with the {roles[1]} to {after:.1f} dB instead "
        f"of {before:.1f} dB.",
        "Give both the input they were made for: check the preprocessing of the one that was "
        "converted or trained elsewhere.",
    )


def _mends_first_layer(
    theirs: _Trials, mine: _Trials, image: Pixels, guess: _Guess, probed: _Trials
) -> bool:
    """Whether the first product agrees better with the guess; True where none can be compared."""
    size = (int(image.shape[0]), int(image.shape[1]))
    reference = open_network(theirs.subject, size, mine.subject.kind)
    candidate = open_network(mine.subject, size, theirs.subject.kind)

    def values(trials: _Trials, network: Network, *, guessed: bool) -> dict[int, Array]:
        if guessed and trials is probed:
            return network.run(network.feed(guess.pixels(image[None])[0], guess.spec))
        return network.run(network.feed(image, trials.subject.preprocessing))

    plain = [
        (values(theirs, reference, guessed=guessed), values(mine, candidate, guessed=guessed))
        for guessed in (False, True)
    ]
    matches = join(reference, candidate, *plain[0])
    products = [x.output for x in candidate.layers if x.family == PRODUCT and x.output in matches]
    if not products:
        return True
    first, match = products[0], matches[products[0]]
    before, after = (
        decibels(
            float(np.square(match(wanted)).sum()),
            float(np.square(match(wanted) - given[first]).sum()),
        )
        for wanted, given in plain
    )
    return after > before + _FIRST_LAYER_DB


def _guesses(probed: _Trials, pixels: Pixels) -> Iterator[_Guess]:
    own = probed.subject.preprocessing
    swapped = "red and blue swapped"
    yield _Guess("channel order", f"with {swapped}", True, False, own)
    if pixels.shape[1] == pixels.shape[2]:
        yield _Guess("channel order", "with rows and columns swapped", False, True, own)
    if probed.takes_pixels:
        return
    yield _Guess("channel order", f"with {swapped} after normalising", True, False, _reversed(own))
    for name, (mean, std) in NORMALISATIONS.items():
        other = replace(own, mean=mean, std=std)
        if np.allclose([*mean, *std], [*own.mean, *own.std]):
            continue
        yield _Guess("normalisation", f"as {name}", False, False, other)
        words = f"as {name} with {swapped}"
        yield _Guess("normalisation", words, True, False, _reversed(other))


def _reversed(spec: Preprocessing) -> Preprocessing:
    """Each colour keeps its own mean and deviation where the order of the channels changes."""
    return replace(spec, mean=spec.mean[::-1], std=spec.std[::-1])


class _Trials:
    """A subject, loaded once if it is a file, with any input.

    ``takes_pixels``: it normalises by itself, so that no other normalisation can be tried.
    """

    def __init__(self, subject: ModelRef) -> None:
        self.subject = subject
        self._file: ImageRunner | None = None
        if subject.kind != "torch":
            found = open_runner(subject)
            assert isinstance(found, ImageRunner)
            self._file = found
        self.takes_pixels = self._file is not None and self._file.feed.takes_pixels

    def plain(self, pixels: Pixels) -> Outputs:
        """Of N images, as the subject is said to be fed."""
        return self._outputs(pixels, self.subject.preprocessing)

    def guessed(self, pixels: Pixels, guess: _Guess) -> Outputs:
        return self._outputs(guess.pixels(pixels), guess.spec)

    def _outputs(self, pixels: Pixels, spec: Preprocessing) -> Outputs:
        if self._file is None:
            return open_runner(replace(self.subject, preprocessing=spec)).outputs(pixels)
        self._file.feed.spec = spec
        return self._file.outputs(pixels)
