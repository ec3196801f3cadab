"""Is a model file an image classifier? From its facts, without running it."""

from __future__ import annotations

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.files import FileFacts

_RANK_OF_CLASSES = 2
# What may come after a file's last layer and leaves its output what it is.
_BOOKKEEPING = {
    "cast",
    "dequantize",
    "dequantizelinear",
    "flatten",
    "identity",
    "quantize",
    "quantizelinear",
    "reshape",
    "squeeze",
}


def declared_classes(facts: FileFacts) -> int | None:
    """How many classes the only output has; None where the file leaves that open."""
    shapes = ", ".join(tensor.described for tensor in facts.outputs[:4])
    # An ONNX file need not give its output's shape; running it will tell.
    open_ = facts.format == "onnx" and facts.outputs and not facts.outputs[0].shape
    if len(facts.outputs) != 1 or (not open_ and not _is_row_per_image(facts)):
        raise UnsupportedError(
            f"{facts.path} gives {shapes}: a classifier has one output [batch, classes]."
        )
    classes = None if open_ else facts.outputs[0].shape[1]
    return classes if isinstance(classes, int) and classes > 0 else None


def gives_classes(facts: FileFacts) -> bool:
    """Whether the only output is a row of two or more classes an image."""
    try:
        return (declared_classes(facts) or 0) > 1
    except UnsupportedError:
        return False


def _is_row_per_image(facts: FileFacts) -> bool:
    images, rows = facts.inputs[0].shape[0], facts.outputs[0].shape[:1]
    fixed = all(isinstance(side, int) and side > 0 for side in (images, *rows))
    return len(facts.outputs[0].shape) == _RANK_OF_CLASSES and (not fixed or rows == (images,))


def ends_in_softmax(facts: FileFacts) -> bool:
    kinds = (op.kind.lower().replace("_", "") for op in reversed(facts.operators))
    last = next((kind for kind in kinds if kind not in _BOOKKEEPING), "")
    return last in ("softmax", "qlinearsoftmax")
