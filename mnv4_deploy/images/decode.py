"""The one place where image files of anybody are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from mnv4_deploy.errors import DeployError
from mnv4_deploy.profiles.runtimes.quiet import quiet


@contextmanager
def opened_image(source: Path | BinaryIO) -> Iterator[Image.Image]:
    """The image of ``source``, for as long as the block works with its pixels.

    What Pillow, its logger and the libraries below it say about a damaged file is not shown, and
    whatever they raise in the block, which decodes, becomes OSError.
    """
    with quiet():
        try:
            with Image.open(source) as image:
                yield image
        except (DeployError, OSError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything
            raise OSError(str(error) or type(error).__name__) from error
