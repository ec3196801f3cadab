"""Images through a model file, whatever its input and output types are, here or on a device.

Images come as 0..255 RGB ``[N, H, W, 3]`` uint8 and go through the model's own normalisation
(unless the file does that itself); all outputs come back by name as real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.runtimes.quiet import quiet
from mnv4_deploy.sessions.feed import Array, ImageFeed, batches
from mnv4_deploy.sessions.outputs import joined, rows
from mnv4_deploy.sessions.quantization import dequantized
from mnv4_deploy.sessions.records import ModelRef

# One inference: an array for each input, and for each output.
Run = Callable[[Sequence[Array]], tuple[Array, ...]]


class ImageRunner:
    """A file behind ``run``; images of any number stream through it in its own batch size.

    ``feed`` makes its inputs, ``results`` are its outputs in the order that ``run`` gives them.
    """

    def __init__(self, feed: ImageFeed, results: Sequence[TensorFacts], run: Run) -> None:
        self.feed = feed
        self.batch = feed.batch
        self._results = tuple(results)
        self._run = run

    def outputs(self, images: Pixels) -> dict[str, Array]:
        """Every output for every image, ``[N, ...]``, dequantized."""
        parts = []
        for chunk, count in batches(images, self.batch):
            found = self._run(self.feed.arrays(chunk))
            parts.append(
                {
                    tensor.name: dequantized(rows(values, self.batch, tensor.name), tensor)[:count]
                    for tensor, values in zip(self._results, found, strict=True)
                }
            )
        return joined(parts)

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        """See :meth:`ImageFeed.seen`."""
        return self.feed.seen(images)


def open_image_runner(
    path: Path,
    spec: Preprocessing,
    *,
    threads: int = 1,
    fixed: Mapping[str, Array] = MappingProxyType({}),
    fused: bool = True,
) -> ImageRunner:
    """``path`` on the runtime of its format, in this process; a free size becomes ``spec``'s.

    ``fused`` is of :class:`~mnv4_deploy.profiles.runtimes.tensors.TensorRunner`.

    Raises ModelFileError for a file that its runtime does not accept, UnsupportedError for one
    that takes no image.
    """
    from mnv4_deploy.profiles.runtimes.tensors import TensorRunner

    with quiet():
        session = TensorRunner(str(path), threads=threads, fused=fused)
    return ImageRunner(ImageFeed(session.inputs, spec, fixed), session.outputs, session.run)


def device_image_runner(ref: ModelRef, run: Run) -> ImageRunner:
    """The file of ``ref`` on a device behind ``run``: everything around its runtime happens here.

    What comes back must be what the file says it gives, or the runtime there is refused.
    """

    def checked(inputs: Sequence[Array]) -> tuple[Array, ...]:
        found = run(inputs)
        wanted = [(tensor.dtype, tensor.shape) for tensor in ref.outputs]
        got = [(values.dtype.name, values.shape) for values in found]
        if len(got) != len(wanted) or not all(map(_fits, wanted, got)):
            raise ToolchainError(
                f"{ref.name} gave {_listed(got)} on the device instead of {_listed(wanted)}: its "
                "runtime there is not one that can be used."
            )
        return found

    return ImageRunner(ImageFeed(ref.inputs, ref.preprocessing), ref.outputs, checked)


def _fits(
    wanted: tuple[str, tuple[int | str, ...]], got: tuple[str, tuple[int | str, ...]]
) -> bool:
    return wanted[0] == got[0] and (
        not wanted[1]
        or (
            len(wanted[1]) == len(got[1])
            and all(
                not isinstance(own, int) or own <= 0 or own == side
                for own, side in zip(wanted[1], got[1], strict=True)
            )
        )
    )


def _listed(tensors: Sequence[tuple[str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for dtype, shape in tensors) or "nothing"
