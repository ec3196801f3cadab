"""The classes of a head, and every name by which a folder or a labels file may call them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from mnv4_deploy.models.weights import imagenet_labels, read_labels
from mnv4_deploy.tasks.task import Model

_IMAGENET = 1000
_BACKGROUND = "background"
_MOST = 0.9
_INDEX = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Head:
    """``labels`` are "" or assumed to be ImageNet's where a head of that size has none.

    ``offset`` is 1 for TensorFlow's ImageNet heads, whose class 0 is the background.
    """

    num_classes: int
    labels: tuple[str, ...]
    offset: int
    name: str

    @classmethod
    def of(cls, model: Model) -> Head:
        classes, labels = model.num_classes, model.labels
        starts_with_background = bool(labels) and labels[0].strip().casefold() == _BACKGROUND
        is_shifted = classes == _IMAGENET + 1 and (not labels or starts_with_background)
        if not labels:
            labels = imagenet_labels(classes)
        if is_shifted and not labels:
            labels = (_BACKGROUND, *imagenet_labels(_IMAGENET))
        return cls(classes, labels, int(is_shifted), model.name)

    @property
    def own_labels(self) -> tuple[str, ...]:
        """The labels without a background."""
        return self.labels[self.offset :]

    def find(self, name: str) -> int | None:
        """The class of a WordNet id, a label, or one of a label's comma-separated synonyms."""
        return self._known.get(folded(name))

    @cached_property
    def is_imagenet(self) -> bool:
        """Whether the labels are ImageNet's, in its order, whatever their spelling."""
        alike = sum(
            bool(names_of(mine) & names_of(theirs))
            for mine, theirs in zip(self.own_labels, self._imagenet, strict=False)
        )
        return alike > _MOST * len(self._imagenet) > 0

    @property
    def _imagenet(self) -> tuple[str, ...]:
        return imagenet_labels(self.num_classes - self.offset)

    @cached_property
    def _known(self) -> dict[str, int]:
        """Names that two classes share ("crane") are none; a whole label counts before others'
        synonyms.
        """
        known: dict[str, int] = {}
        for of_label in (names_of, lambda label: {folded(label)}):
            names = [of_label(label) for label in self.labels]
            uses = Counter(name for several in names for name in several)
            for index, several in enumerate(names):
                known |= {name: index for name in several if uses[name] == 1}
        if self.is_imagenet:
            wordnet = read_labels(self.num_classes - self.offset)
            known |= {wnid: index + self.offset for index, (wnid, _) in enumerate(wordnet)}
        return known


def folded(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def as_index(text: str) -> int | None:
    """A whole number, with or without a sign, as it stands for a class."""
    return int(text) if _INDEX.fullmatch(text) else None


def names_of(label: str) -> set[str]:
    """A label and its comma-separated synonyms, ``folded``."""
    return {folded(name) for name in (label, *label.split(","))}
