"""What reading NumPy's files of anybody raises, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mnv4_deploy.errors import InputError


@contextmanager
def reading_arrays(refusal: str) -> Iterator[None]:
    """A block that reads a foreign .npy or .npz file, or one member of it.

    NumPy evaluates headers and zipfile runs decoders, whose exceptions share no base: each
    becomes InputError with the sentence ``refusal``. InputError passes.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(refusal) from error
