"""Do the labels mean the classes that the network means? A reference that is never right tells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Classes = npt.NDArray[np.int32]

# A network that is right on this part of the images knows the classes by these numbers.
_KNOWS = 0.25
# This part of the answers must fit another numbering, and fewer images tell nothing.
_FITS = 0.5
_FEWEST = 20
# Of so many images a label one tells what it is called by its most frequent answer.
_IMAGES_A_LABEL = 3
# Right on no more than this part, a network is not one for these labels.
_NEVER = 0.01


def label_doubt(labels: _Classes, answers: _Classes) -> str:
    """A sentence where the labels seem to be numbered otherwise; "" where they are in order.

    ``labels`` and the reference's first ``answers`` are classes of N images each.
    """
    if len(labels) < _FEWEST:
        return ""
    right = float(np.mean(labels == answers))
    if right >= _KNOWS:
        return ""
    never = f"The reference is right on {100 * right:.1f} % of the images"
    steps, counts = np.unique(answers - labels, return_counts=True)
    step, share = int(steps[counts.argmax()]), float(counts.max()) / len(labels)
    if step and share >= max(_FITS, 2 * right):
        return (
            f"{never}, but its answer is label {'+' if step > 0 else '-'} {abs(step)} on "
            f"{100 * share:.0f} %: the labels seem to be off by {abs(step)}"
        )
    names, images = np.unique(labels, return_counts=True)
    if len(names) > 1 and images.mean() >= _IMAGES_A_LABEL:
        most = {name: _most(answers[labels == name]) for name in names}
        share = float(np.mean(np.array([most[label] for label in labels]) == answers))
        if share >= max(_FITS, 2 * right) and len(set(most.values())) > len(names) / 2:
            return (
                f"{never}, but gives images of one label the same answer on {100 * share:.0f} %: "
                "the labels seem to be in another order than the classes"
            )
    return f"{never}: labels and network seem to be of other classes" if right <= _NEVER else ""


def _most(answers: _Classes) -> int:
    return int(np.bincount(answers).argmax())
