"""Is a model file an image classifier, and of what images? From its facts, without running it."""

from __future__ import annotations

from mnv4_deploy.errors import InputError, ModelFileError, UnsupportedError
from mnv4_deploy.images.options import PreprocessingOptions
from mnv4_deploy.profiles.records.files import FileFacts, TensorFacts

_RANK_OF_IMAGES, _CHANNELS, _RANK_OF_CLASSES = 4, 3, 2
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


def image_size(facts: FileFacts, options: PreprocessingOptions) -> tuple[int, int] | None:
    """Height and width of the only input; the option's, or None, where they are free."""
    if len(facts.inputs) != 1:
        names = ", ".join(repr(tensor.name) for tensor in facts.inputs[:4])
        raise UnsupportedError(
            f"{facts.path} has {len(facts.inputs)} inputs ({names}): drift feeds one image."
        )
    shape = facts.inputs[0].shape
    if len(shape) == _RANK_OF_IMAGES and shape[3] == _CHANNELS:
        sides = shape[1:3]
    elif len(shape) == _RANK_OF_IMAGES and shape[1] == _CHANNELS:
        sides = shape[2:4]
    else:
        raise UnsupportedError(
            f"{facts.path} takes {_described(facts.inputs[0])}, which is no RGB image: drift "
            "needs an input [batch, height, width, 3] or [batch, 3, height, width]."
        )
    fixed = [side if isinstance(side, int) and side > 0 else None for side in sides]
    given = options.size
    if given and any(own not in (None, side) for own, side in zip(fixed, given, strict=True)):
        own = "x".join(str(side or "any") for side in fixed)
        raise InputError(
            f"{facts.path} takes images of {own}, not {given[0]}x{given[1]}: leave --size out or "
            "give that."
        )
    height, width = given or fixed
    return None if height is None or width is None else (height, width)


def declared_classes(facts: FileFacts) -> int | None:
    """How many classes the only output has; None where the file leaves that open."""
    shapes = ", ".join(_described(tensor) for tensor in facts.outputs[:4])
    # An ONNX file need not give its output's shape; running it will tell.
    open_ = facts.format == "onnx" and facts.outputs and not facts.outputs[0].shape
    if len(facts.outputs) != 1 or (not open_ and not _is_row_per_image(facts)):
        raise UnsupportedError(
            f"{facts.path} gives {shapes}: drift compares classifiers, which have one output "
            "[batch, classes]."
        )
    classes = None if open_ else facts.outputs[0].shape[1]
    return classes if isinstance(classes, int) and classes > 0 else None


def _is_row_per_image(facts: FileFacts) -> bool:
    images, rows = facts.inputs[0].shape[0], facts.outputs[0].shape[:1]
    fixed = all(isinstance(side, int) and side > 0 for side in (images, *rows))
    return len(facts.outputs[0].shape) == _RANK_OF_CLASSES and (not fixed or rows == (images,))


def check_types(facts: FileFacts) -> None:
    """Refuse types that the runner does not feed, and 8-bit ones of unknown scale."""
    from mnv4_deploy.sessions.image_runner import INPUT_TYPES, onnx_quantization

    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype not in INPUT_TYPES:
            raise UnsupportedError(
                f"{facts.path} takes or gives {_described(tensor)}: drift needs "
                f"{', '.join(INPUT_TYPES)}."
            )
        known = bool(tensor.scale)
        if facts.format == "onnx":
            try:
                known = onnx_quantization(facts.metadata, tensor.name)[0] > 0
            except ValueError as error:
                raise ModelFileError(
                    f"{facts.path} has metadata that give no number as the scale of "
                    f"{tensor.name!r}: export it again."
                ) from error
        takes_pixels = tensor in facts.inputs and tensor.dtype == "uint8" and not tensor.scale
        if tensor.dtype != "float32" and not known and not takes_pixels:
            raise UnsupportedError(
                f"{facts.path} takes or gives {_described(tensor)} and does not say in which "
                "scale: export it with float inputs and outputs."
            )


def ends_in_softmax(facts: FileFacts) -> bool:
    kinds = (op.kind.lower().replace("_", "") for op in reversed(facts.operators))
    last = next((kind for kind in kinds if kind not in _BOOKKEEPING), "")
    return last in ("softmax", "qlinearsoftmax")


def _described(tensor: TensorFacts) -> str:
    shape = ", ".join(str(side) for side in tensor.shape)
    return f"{tensor.name!r} {tensor.dtype} [{shape}]"
