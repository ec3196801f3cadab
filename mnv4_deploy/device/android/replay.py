"""Tensors through a model on an Android device, which has no Python: replayed by benchmark_model.

benchmark_model takes the values of its inputs from files (--input_layer_value_files: raw, in the
tensor's own type) and writes those of its outputs, one behind the other, to another
(--output_filepath). Both are in LiteRT's tflite/tools/benchmark/benchmark_tflite_model.cc,
LoadInputTensorData() and OutputSaver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnv4_deploy.device.android.shell import AndroidShell
from mnv4_deploy.device.android.tool import Tool
from mnv4_deploy.device.benchmark_model.failures import failure
from mnv4_deploy.device.device import Array
from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.records.graph import Tensor
from mnv4_deploy.profiles.runtimes.tensors import check_inputs

_TIMEOUT_S = 600.0
_NEEDED = {"input_layer", "input_layer_shape", "input_layer_value_files", "output_filepath"}
# One run, and that from a fresh start, as an application's first.
_ONCE = ("num_runs=1", "min_secs=0", "warmup_runs=0", "warmup_min_secs=0")


class ReplaySession:
    """A model on the device, each run of which is a process of benchmark_model.

    ``path`` is the file here, ``graph`` its copy over there. Raises UnsupportedError where the
    device's benchmark_model cannot replay tensors, or the model has some that cannot be: of an
    open shape, or of no number type.
    """

    def __init__(
        self, shell: AndroidShell, tool: Tool, path: Path, graph: str, runtime: str
    ) -> None:
        if not tool.options >= _NEEDED:
            raise UnsupportedError(
                "The device's benchmark_model cannot save outputs (it has no --output_filepath): "
                "get a newer build of it and name that with --benchmark-model."
            )
        read = read_tflite(path)
        self._shell, self._tool, self._path, self._graph = shell, tool, path, graph
        self._outputs = [_fixed(path, read.tensors[index]) for index in read.outputs]
        inputs = [_fixed(path, read.tensors[index]) for index in read.inputs]
        self.runtime = runtime
        self.inputs = tuple(
            TensorFacts(t.name, t.shape, t.dtype, t.scale, t.zero_point) for t in inputs
        )

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        check_inputs(str(self._path), self.inputs, inputs)
        saved = f"{self._shell.folder}/outputs"
        # An earlier run's must not pass for this one's.
        self._shell.run(["rm", "-f", saved], _TIMEOUT_S)
        done = self._shell.run(self._command(self._push(inputs), saved), _TIMEOUT_S)
        if error := failure(done, str(self._path), self._tool.path):
            raise error
        return self._split(self._shell.pull(saved))

    def close(self) -> None:
        """Nothing is loaded between runs; the copy of the file serves the next session."""

    def _push(self, inputs: Sequence[Array]) -> list[str]:
        remotes = [f"{self._shell.folder}/input-{index}" for index in range(len(inputs))]
        with scratch_folder() as folder:
            for index, (array, remote) in enumerate(zip(inputs, remotes, strict=True)):
                local = folder / str(index)
                local.write_bytes(np.ascontiguousarray(array).tobytes())
                self._shell.push(local, remote)
        return remotes

    def _command(self, files: Sequence[str], saved: str) -> list[str]:
        """Inputs go by their order: a wrong name is only warned of, a name with a comma fails."""
        names = [f"input{index}" for index in range(len(files))]
        shapes = [",".join(map(str, facts.shape)) for facts in self.inputs]
        pairs = [f"{name}:{file}" for name, file in zip(names, files, strict=True)]
        return [
            self._tool.path,
            f"--graph={self._graph}",
            "--num_threads=1",
            "--use_xnnpack=true",
            f"--input_layer={','.join(names)}",
            f"--input_layer_shape={':'.join(shapes)}",
            f"--input_layer_value_files={','.join(pairs)}",
            f"--output_filepath={saved}",
            *(f"--{setting}" for setting in _ONCE),
        ]

    def _split(self, content: bytes) -> tuple[Array, ...]:
        sizes = [
            math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize for tensor in self._outputs
        ]
        if len(content) != sum(sizes):
            raise ModelFileError(
                f"{self._path} gave {len(content)} bytes of outputs on the device instead of "
                f"{sum(sizes)}: its outputs have no fixed shape, or the device's disk is full."
            )
        starts = np.cumsum([0, *sizes])
        return tuple(
            np.frombuffer(content[start : start + size], tensor.dtype).reshape(tensor.shape).copy()
            for start, size, tensor in zip(starts, sizes, self._outputs, strict=False)
        )


def _fixed(path: Path, tensor: Tensor) -> Tensor:
    if any(side < 0 for side in tensor.declared):
        raise UnsupportedError(
            f"{path} has an open shape, {list(tensor.declared)} of {tensor.name!r}, which cannot "
            "be replayed on an Android device: export it with a fixed one."
        )
    try:
        np.dtype(tensor.dtype)
    except TypeError as error:
        raise UnsupportedError(
            f"{path} has {tensor.dtype} tensors, which cannot be replayed on an Android device."
        ) from error
    return tensor
