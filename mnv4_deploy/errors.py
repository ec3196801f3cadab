"""Everything that can go wrong in a way the user can act on.

    DeployError
    |- InputError           exit 2   what was given cannot be used; nothing was written
    |  |- UnknownModelError          no such model; names the nearest one
    |  |- WeightsError               checkpoint missing, unreadable, or for another model
    |  |- ImagesError                image folder empty, unreadable, or too few good images
    |  |- ModelFileError             .tflite/.onnx truncated, not a model, or crashes the runtime
    |  |- MissingLibraryError        one that an extra of ours brings; names the extra
    |  |- OutputError                output exists, is not writable, or the disk is full
    |  `- UnsupportedError           a combination of options that cannot be done
    |- VerificationError    exit 3   the artifacts do not agree with the reference
    `- ToolchainError       exit 4   a library or runtime failed, or has a version never tried

Each message is one sentence that says what to do. ``cli`` turns them into exit codes in one
place; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations


class DeployError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = 4


class InputError(DeployError):
    exit_code = 2


class UnknownModelError(InputError):
    pass


class WeightsError(InputError):
    pass


class ImagesError(InputError):
    pass


class ModelFileError(InputError):
    pass


class MissingLibraryError(InputError):
    pass


class OutputError(InputError):
    pass


class UnsupportedError(InputError):
    pass


class VerificationError(DeployError):
    exit_code = 3


class ToolchainError(DeployError):
    exit_code = 4


def missing_demo_data(what: str) -> MissingLibraryError:
    """``what`` needs the distribution that ``demo_data/`` makes."""
    return MissingLibraryError(
        f"{what}, which are not installed: run pip install ./demo_data in a checkout of "
        "mnv4-deploy, or give weights and images of your own."
    )


def missing_library(what: str, extra: str, otherwise: str = "") -> MissingLibraryError:
    """``what`` needs a library that ``extra`` brings; ``otherwise`` is what would do as well.

    No index has mnv4-deploy: it is installed from a checkout.
    """
    return MissingLibraryError(
        f"{what}: run pip install '.[{extra}]' in a checkout of mnv4-deploy{otherwise}."
    )
