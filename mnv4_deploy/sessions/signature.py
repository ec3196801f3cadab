"""Does a model file take images that can be fed? From its facts, without running it."""

from __future__ import annotations

from mnv4_deploy.errors import InputError, ModelFileError, UnsupportedError
from mnv4_deploy.images.options import PreprocessingOptions
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.sessions.feed import INPUT_TYPES
from mnv4_deploy.sessions.quantization import onnx_quantization

_RANK_OF_IMAGES, _CHANNELS = 4, 3
_MAX_BATCH = 1024  # the largest that an export has


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
            f"{facts.path} takes {facts.inputs[0].described}, which is no RGB image: drift "
            "needs an input [batch, height, width, 3] or [batch, 3, height, width]."
        )
    batch = shape[0]
    if isinstance(batch, int) and batch > _MAX_BATCH:
        raise UnsupportedError(
            f"{facts.path} takes {batch:,} images at once, and no more than {_MAX_BATCH:,} can be "
            "filled: export it with a smaller batch."
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


def check_types(facts: FileFacts) -> None:
    """Refuse types that the runner does not feed, and 8-bit ones of unknown scale."""
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype not in INPUT_TYPES:
            raise UnsupportedError(
                f"{facts.path} takes or gives {tensor.described}: drift needs "
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
                f"{facts.path} takes or gives {tensor.described} and does not say in which "
                "scale: export it with float inputs and outputs."
            )
