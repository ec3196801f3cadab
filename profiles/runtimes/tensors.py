"""Runs arrays through a model file and gives back outputs or intermediate tensors, raw.

Needs Python 3.10, NumPy and the runtime of the file's format. Belongs in a child process: the
runtimes crash on hostile files.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.records.files import TensorFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TFLITE_MAGIC = b"TFL3"
# Modules with an Interpreter, and the distributions they come from; the newest first.
_INTERPRETERS = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)
_ORT_ERROR_LEVEL = 4
_ORT_TYPES = {"float": "float32", "double": "float64"}
_MEMORY_SIGNS = ("bad_alloc", "bad allocation", "Failed to allocate memory")


class _Backend(Protocol):
    runtime: str
    inputs: tuple[TensorFacts, ...]

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]: ...


class TensorRunner:
    """A model file, loaded on the runtime that is installed.

    ``tensors`` are indices of a .tflite file's main graph whose values each run gives; XNNPACK
    stays on, but takes every operator alone (``experimental_preserve_all_tensors``). None gives
    the file's outputs, computed exactly as an application computes them. An .onnx file gives its
    outputs, with onnxruntime's default optimisations.

    ``runtime`` is its name and version ("tflite-runtime 2.14.0"), ``inputs`` are those of the
    file with -1, a name or "?" for open sides.

    Raises ModelFileError for a file that the runtime does not accept, UnsupportedError for
    tensors that it does not have, ToolchainError where no runtime is installed.
    """

    def __init__(self, path: str, tensors: Sequence[int] | None = None, threads: int = 1) -> None:
        self._backend: _Backend | None
        if _is_tflite(path):
            self._backend = _Tflite(path, tensors, threads)
        elif tensors is not None:
            raise UnsupportedError(f"{path} is an .onnx file, which gives its outputs alone.")
        else:
            self._backend = _Onnx(path, threads)
        self._path = path
        self.runtime = self._backend.runtime
        self.inputs = self._backend.inputs

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """The tensors asked for: codes of quantized ones, arrays of their own.

        A tensor that the runtime never had in memory comes back with shape ``(0,)``. Open sides
        of the inputs take the arrays' shapes.
        Raises UnsupportedError for arrays of a wrong number, shape or type, ModelFileError where
        the runtime fails.
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
        interpreter, self.runtime = _interpreter()
        self._path = path
        keep = {"experimental_preserve_all_tensors": True} if tensors is not None else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # preserving tensors costs memory: known
                self._own = interpreter(model_path=path, num_threads=threads, **keep)
                self._own.allocate_tensors()
            details = self._own.get_input_details()
        except (RuntimeError, ValueError) as error:
            raise self._refused("load", error) from error
        self.inputs = tuple(map(_tflite_facts, details))
        self._sources = [int(detail["index"]) for detail in details]
        self._shapes = [tuple(map(int, detail["shape"])) for detail in details]
        outputs = [int(detail["index"]) for detail in self._own.get_output_details()]
        known = {int(detail["index"]) for detail in self._own.get_tensor_details()}
        self._targets = outputs if tensors is None else [int(tensor) for tensor in tensors]
        unknown = [tensor for tensor in self._targets if tensor not in known]
        if unknown and tensors is not None:
            raise UnsupportedError(f"{path} has no tensor {unknown[0]}.")

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        try:
            self._resize([tuple(array.shape) for array in inputs])
            for source, array in zip(self._sources, inputs, strict=True):
                self._own.set_tensor(source, array)
            self._own.invoke()
        except (RuntimeError, ValueError) as error:
            raise self._refused("run", error) from error
        return tuple(map(self._value, self._targets))

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = []  # unknown until the interpreter has taken all of them
        for source, shape in zip(self._sources, shapes, strict=True):
            self._own.resize_tensor_input(source, shape)
        self._own.allocate_tensors()
        self._shapes = shapes

    def _value(self, tensor: int) -> NDArray[Any]:
        import numpy as np

        try:
            value = np.asarray(self._own.get_tensor(tensor))
        except (RuntimeError, ValueError):
            if tensor in {int(detail["index"]) for detail in self._own.get_output_details()}:
                raise
            return np.zeros(0, np.uint8)  # fused away: the runtime has no memory for it
        return value

    def _refused(self, what: str, error: Exception) -> Exception:
        return _refused(self.runtime, what, self._path, error)


class _Onnx:
    def __init__(self, path: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing("an .onnx file", "onnxruntime") from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ORT_ERROR_LEVEL
        try:
            self._own = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            metadata = self._own.get_modelmeta().custom_metadata_map
            self.inputs = tuple(_onnx_facts(spec, metadata) for spec in self._own.get_inputs())
        except Exception as error:  # onnxruntime's exceptions share no base
            raise _refused(self.runtime, "load", path, error) from error

    def run(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        import numpy as np

        feeds = {fact.name: array for fact, array in zip(self.inputs, inputs, strict=True)}
        try:
            found = self._own.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base
            raise _refused(self.runtime, "run", self._path, error) from error
        return tuple(map(np.asarray, found))


def _is_tflite(path: str) -> bool:
    try:
        with Path(path).open("rb") as stream:
            return _TFLITE_MAGIC in stream.read(8)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _interpreter() -> tuple[Any, str]:
    """The class Interpreter, and the runtime's name and version."""
    for module, distribution in _INTERPRETERS:
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        return found.Interpreter, f"{distribution} {_version(distribution)}"
    raise _missing("a .tflite file", "ai-edge-litert (or tflite-runtime)")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _missing(what: str, runtime: str) -> ToolchainError:
    return ToolchainError(f"Running {what} needs {runtime}: install it with pip, or set it up.")


def _refused(runtime: str, what: str, path: str, error: Exception) -> Exception:
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or any(sign in reason for sign in _MEMORY_SIGNS):
        return MemoryError(f"{path}: {reason}")
    return ModelFileError(f"{runtime} cannot {what} {path}: {reason}")


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
    element = str(spec.type).removeprefix("tensor(").removesuffix(")")
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    if f"{spec.name}.scale" in metadata:
        scale = (float(metadata[f"{spec.name}.scale"]),)
        zero_point = (int(metadata.get(f"{spec.name}.zero_point", "0")),)
    shape = tuple(side if isinstance(side, int | str) else "?" for side in spec.shape or ())
    return TensorFacts(spec.name, shape, _ORT_TYPES.get(element, element), scale, zero_point)
