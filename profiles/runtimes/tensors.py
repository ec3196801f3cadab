"""Runs arrays through a model file and gives back outputs or intermediate tensors, raw.

Needs Python 3.10, NumPy and the runtime of the file's format. Belongs in a child process: the
runtimes crash on hostile files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.litert.interpreter import (
    allocate,
    installed_runtime,
    open_interpreter,
)
from mnv4_deploy.profiles.runtimes.ort.session import element_type, open_session, runtime_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TFLITE_MAGIC = b"TFL3"


class _Backend(Protocol):
    runtime: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]: ...


class TensorRunner:
    """A model file, loaded on the runtime that is installed.

    ``tensors`` are indices of a .tflite file's main graph whose values each run gives; XNNPACK
    stays on, but takes every operator alone (``experimental_preserve_all_tensors``). None gives
    the file's outputs, computed exactly as an application computes them. An .onnx file gives its
    outputs, with onnxruntime's default optimisations; ``fused`` False: each operator by itself,
    between conversions in float32, which adds products of 8-bit codes all but exactly.

    ``runtime`` is its name and version ("tflite-runtime 2.14.0"), ``inputs`` and ``outputs`` are
    those of the file, in its order, with -1, a name or "?" for open sides.

    Raises ModelFileError for a file that the runtime does not accept, UnsupportedError for
    tensors that it does not have, MemoryError where memory runs out, ToolchainError where no
    runtime is installed.
    """

    def __init__(
        self,
        path: str,
        tensors: Sequence[int] | None = None,
        threads: int = 1,
        *,
        fused: bool = True,
    ) -> None:
        self._backend: _Backend | None
        if _is_tflite(path):
            self._backend = _Tflite(path, tensors, threads)
        elif tensors is not None:
            raise UnsupportedError(f"{path} is an .onnx file, which gives its outputs alone.")
        else:
            self._backend = _Onnx(path, threads, fused)
        self._path = path
        self.runtime = self._backend.runtime
        self.inputs = self._backend.inputs
        self.outputs = self._backend.outputs

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """The tensors asked for: codes of quantized ones, arrays of their own.

        A tensor that the runtime never had in memory comes back with shape ``(0,)``. Open sides
        of the inputs take the arrays' shapes.
        Raises UnsupportedError for arrays of a wrong number, shape or type, ModelFileError where
        the runtime fails, MemoryError where memory runs out.
        """
        if self._backend is None:
            raise UnsupportedError(f"{self._path} was closed: open it again to run it.")
        check_inputs(self._path, self.inputs, inputs)
        return self._backend.run(inputs)

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._backend = None


def check_inputs(path: str, facts: Sequence[TensorFacts], inputs: Sequence[NDArray[Any]]) -> None:
    """Raise UnsupportedError where ``inputs`` are not what a file takes."""
    if len(inputs) != len(facts):
        raise UnsupportedError(f"{path} takes {len(facts)} inputs, not {len(inputs)}.")
    for fact, array in zip(facts, inputs, strict=True):
        if array.dtype.name != fact.dtype:
            raise UnsupportedError(
                f"{path} takes {fact.dtype} as {fact.name!r}, not {array.dtype.name}."
            )
        fits = len(fact.shape) == array.ndim and all(
            not isinstance(own, int) or own < 0 or own == side
            for own, side in zip(fact.shape, array.shape, strict=True)
        )
        if fact.shape and not fits:  # a file need not even give the rank
            raise UnsupportedError(
                f"{path} takes {list(fact.shape)} as {fact.name!r}, not {list(array.shape)}."
            )


class _Tflite:
    def __init__(self, path: str, tensors: Sequence[int] | None, threads: int) -> None:
        self.runtime = installed_runtime().name
        self._path = path
        with translated(self.runtime, "load", path):
            self._own = open_interpreter(path, threads=threads, keep_tensors=tensors is not None)
            inputs, outputs = self._own.get_input_details(), self._own.get_output_details()
            known = {int(detail["index"]) for detail in self._own.get_tensor_details()}
            self.inputs = tuple(map(_tflite_facts, inputs))
            self.outputs = tuple(map(_tflite_facts, outputs))
            self._shapes: list[tuple[int, ...]] = []
            # With open sides the file's own sizes may be too small for its operators.
            if not any(-1 in fact.shape for fact in self.inputs):
                allocate(self._own)
                self._shapes = [tuple(map(int, detail["shape"])) for detail in inputs]
        self._sources = [int(detail["index"]) for detail in inputs]
        self._results = [int(detail["index"]) for detail in outputs]
        self._targets = self._results if tensors is None else [int(tensor) for tensor in tensors]
        unknown = [tensor for tensor in self._targets if tensor not in known]
        if unknown and tensors is not None:
            raise UnsupportedError(f"{path} has no tensor {unknown[0]}.")

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        with translated(self.runtime, "run", self._path):
            self._resize([tuple(array.shape) for array in inputs])
            for source, array in zip(self._sources, inputs, strict=True):
                self._own.set_tensor(source, array)
            self._own.invoke()
            return tuple(map(self._value, self._targets))

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = []  # unknown until the interpreter has taken all of them
        allocate(self._own, dict(zip(self._sources, shapes, strict=True)))
        self._shapes = shapes

    def _value(self, tensor: int) -> NDArray[Any]:
        import numpy as np

        try:
            return np.asarray(self._own.get_tensor(tensor))
        except (RuntimeError, ValueError):
            if tensor in self._results:
                raise
            return np.zeros(0, np.uint8)  # fused away: the runtime has no memory for it


class _Onnx:
    def __init__(self, path: str, threads: int, fused: bool) -> None:
        self.runtime = runtime_name()
        self._path = path
        with translated(self.runtime, "load", path):
            self._own = open_session(path, threads=threads, optimize=fused)
            metadata = self._own.get_modelmeta().custom_metadata_map
            inputs, outputs = self._own.get_inputs(), self._own.get_outputs()
            self.inputs = tuple(_onnx_facts(spec, metadata) for spec in inputs)
            self.outputs = tuple(_onnx_facts(spec, metadata) for spec in outputs)

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        import numpy as np

        feeds = {fact.name: array for fact, array in zip(self.inputs, inputs, strict=True)}
        with translated(self.runtime, "run", self._path):
            return tuple(map(np.asarray, self._own.run(None, feeds)))


def _is_tflite(path: str) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return _TFLITE_MAGIC in stream.read(8)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _tflite_facts(detail: dict[str, Any]) -> TensorFacts:
    import numpy as np

    signature = detail.get("shape_signature")
    own = detail["shape"] if signature is None or not len(signature) else signature
    quantization = detail["quantization_parameters"]
    return TensorFacts(
        name=str(detail["name"]),
        shape=tuple(map(int, own)),
        dtype=np.dtype(detail["dtype"]).name,
        scale=tuple(map(float, quantization["scales"])),
        zero_point=tuple(map(int, quantization["zero_points"])),
    )


def _onnx_facts(spec: Any, metadata: dict[str, str]) -> TensorFacts:
    """Scale and zero point are those of the file's metadata, where it has any."""
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    if f"{spec.name}.scale" in metadata:
        scale = (float(metadata[f"{spec.name}.scale"]),)
        zero_point = (int(metadata.get(f"{spec.name}.zero_point", "0")),)
    shape = tuple(side if isinstance(side, int | str) else "?" for side in spec.shape or ())
    return TensorFacts(spec.name, shape, element_type(spec), scale, zero_point)
