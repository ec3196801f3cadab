"""Subjects that run: PyTorch, onnxruntime and LiteRT behind one interface.

Every runner computes on one thread, in the batch size that its file has (else 1), so that an
image's outputs depend neither on its neighbours nor on how a data set was cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import DeployError, ModelFileError, UnsupportedError
from mnv4_deploy.sessions.records import ModelRef

if TYPE_CHECKING:
    from mnv4_deploy.sessions.image_runner import ArtifactRunner

Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


class Runner(Protocol):
    """A subject, loaded."""

    @property
    def batch(self) -> int:
        """How many images go through at once."""

    def outputs(self, images: Pixels) -> Outputs:
        """``[N, classes]`` for 0..255 RGB ``[N, height, width, 3]``, dequantized."""

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        """What the network sees of them: ``[N, height, width, 3]``, normalised.

        For a file with an 8-bit input these are the values that its codes stand for.
        """


def open_runner(subject: ModelRef) -> Runner:
    """Load ``subject``. Its file should have passed ``subject.open_model_ref``, in which a runtime
    that crashes does no harm.

    Raises WeightsError and UnknownModelError for a PyTorch model that cannot be loaded, and
    whatever the runtime raises for a file it does not accept.
    """
    if subject.kind == "torch":
        return TorchRunner(subject)
    from mnv4_deploy.sessions.image_runner import RUNNERS

    runner = RUNNERS[subject.kind]
    return FileRunner(runner(Path(subject.path), subject.preprocessing, threads=1))


class FileRunner:
    """A model file on its own runtime, here or on a device."""

    def __init__(self, artifact: ArtifactRunner) -> None:
        self._artifact = artifact
        self.batch = artifact.batch

    def outputs(self, images: Pixels) -> Outputs:
        return self._artifact.run(images)

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        return self._artifact.inputs(images)


class TorchRunner:
    """A model of the zoo in float32. Sets the number of PyTorch's threads to one."""

    batch = 1

    def __init__(self, subject: ModelRef) -> None:
        import torch

        from mnv4_deploy.models.weights import load_reference

        torch.set_num_threads(1)
        self._spec = subject.preprocessing
        self._module = load_reference(subject.model, subject.weights).module

    def outputs(self, images: Pixels) -> Outputs:
        import torch

        rows = []
        with torch.inference_mode():
            for image in self.inputs(images):
                x = torch.from_numpy(image).permute(2, 0, 1)[None]
                rows.append(self._module(x).numpy())
        return np.concatenate(rows)

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        from mnv4_deploy.images.preprocessing import normalize

        return normalize(images, self._spec)


def try_out(subject: ModelRef) -> int:
    """Run one grey image through a file, in a child process; the number of classes.

    Raises ModelFileError for a file its runtime cannot run, UnsupportedError where the output is
    not one row of classes.
    """
    spec = subject.preprocessing
    grey = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    try:
        outputs = open_runner(subject).outputs(grey)
    except (DeployError, MemoryError):
        raise
    except Exception as error:  # the runtimes' exceptions share no base
        reason = str(error).strip().partition("\n")[0]
        raise ModelFileError(f"{subject.path} cannot be run: {reason}") from error
    if outputs.ndim != 2 or len(outputs) != 1:
        raise UnsupportedError(
            f"{subject.path} gives an output of shape {list(outputs.shape)} for an image: drift "
            "compares classifiers, whose output is [images, classes]."
        )
    return int(outputs.shape[1])
