"""A compiled TFLite model behind LiteRT's C API, with its per-operator profiler.

The wheel's own Python calls run a model too, but none of them reaches the profiler or the
XNNPACK flags; the C API does. See ``library`` for the binding.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.runtimes.errors import refusal
from mnv4_deploy.profiles.runtimes.litert import library as lib
from mnv4_deploy.profiles.runtimes.native_log import captured_stderr

KernelMode = Literal["delegate", "builtin", "reference"]

# LiteRtElementType -> NumPy (litert_model_types.h).
_DTYPES = {
    1: "float32",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float16",
    11: "float64",
    13: "uint64",
    16: "uint32",
    17: "uint16",
}
_PLACE = re.compile(r"^\[[\w.]+:\d+\] ")
_CPU = 1
_OPTION_MIN_LOGGER_SEVERITY = 25
_ANY_TYPE_INT = 2
_SEVERITY_ERROR = 3
_LOCK_READ, _LOCK_WRITE = 0, 1

# LiteRtProfilerEventType.
EVENT_RUNTIME = 1
EVENT_BUILTIN_OP = 2
EVENT_XNNPACK_OP = 8


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the compiled model holds it; unknown dimensions are resolved."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ProfilerEvent:
    """One event of one run.

    ``index`` is, for a built-in operator, its index in its subgraph; for an XNNPACK operator its
    number within its partition. ``subgraph`` is meaningful for built-in operators only.
    """

    tag: str
    type: int
    elapsed_us: int
    index: int
    subgraph: int


# Payloads belong to the CompiledModel object, which outlives the options: nothing to free.
_KEEP_PAYLOAD = lib.PayloadDeleter(lambda _payload: None)


class CompiledModel:
    """A .tflite file compiled for the CPU, with its input and output buffers.

    ``flags`` are XNNPACK delegate flags (``xnnpack_delegate.h``), None leaves the runtime's
    default. ``kernel_mode`` "builtin" and "reference" run without XNNPACK. ``shapes``, by
    tensor name, resize dynamic inputs; the file's own shapes hold for the others, with 1 for
    what it leaves open. Use it as a context manager, or call :meth:`close`.

    Raises ModelFileError where LiteRT does not accept the file, UnsupportedError for inputs or
    outputs that are not numbers, ToolchainError where the library is missing, untried or fails.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        profiling: bool = False,
        kernel_mode: KernelMode = "delegate",
        flags: int | None = None,
        signature: int = 0,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._path = Path(path)
        self._lib = lib.load_library()
        self._environment = c_void_p()
        self._model = c_void_p()
        self._options = c_void_p()
        self._compiled = c_void_p()
        self._profiler = c_void_p()
        self._payloads: list[ctypes.Array[ctypes.c_char]] = []
        self._input_buffers: list[c_void_p] = []
        self._output_buffers: list[c_void_p] = []
        self._signature = signature
        self._shapes = shapes or {}
        if not self._path.is_file():
            raise ModelFileError(f"{self._path} is not a file: give the path of a .tflite model.")
        try:
            self._open(threads, profiling, kernel_mode, flags)
        except BaseException:
            self.close()
            raise

    def _open(
        self, threads: int, profiling: bool, kernel_mode: KernelMode, flags: int | None
    ) -> None:
        quiet = lib.EnvironmentOption(
            _OPTION_MIN_LOGGER_SEVERITY, _ANY_TYPE_INT, 0, _SEVERITY_ERROR
        )
        self._call("LiteRtCreateEnvironment", 1, byref(quiet), byref(self._environment))
        self._load(
            "LiteRtCreateModelFromFile",
            self._environment,
            str(self._path).encode(),
            byref(self._model),
        )
        self._call("LiteRtCreateOptions", byref(self._options))
        self._call("LiteRtSetOptionsHardwareAccelerators", self._options, _CPU)
        cpu = [f"num_threads = {threads}", f'kernel_mode = "{kernel_mode}"']
        if flags is not None:
            cpu.append(f"flags = {flags}")
        self._add_options("xnnpack", cpu)
        if profiling:
            self._add_options("runtime_options_string", ["enable_profiling = true"])
        self._load(
            "LiteRtCreateCompiledModel",
            self._environment,
            self._model,
            self._options,
            byref(self._compiled),
        )
        if profiling:
            self._call("LiteRtCompiledModelGetProfiler", self._compiled, byref(self._profiler))
        self.inputs, self.outputs = self._make_buffers()
        self._inputs_array = (c_void_p * len(self.inputs))(*self._input_buffers)
        self._outputs_array = (c_void_p * len(self.outputs))(*self._output_buffers)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._lib, name)(*arguments)
        if status:
            raise ToolchainError(
                f"LiteRT {lib.litert_version()} failed on {self._path}:"
                f" {name} said '{lib.STATUS_NAMES.get(status, status)}'."
            )

    def _load(self, name: str, *arguments: object) -> None:
        """A call whose failure is the file's: it does not parse, or names unknown operators."""
        with captured_stderr() as log:
            status = getattr(self._lib, name)(*arguments)
        if status:
            said = [line.partition("ERROR: ")[2] for line in log if "ERROR: " in line]
            reason = said[0] if said else lib.STATUS_NAMES.get(status, status)
            # LiteRT begins its lines with the place in its source.
            text = _PLACE.sub("", str(reason))
            raise refusal(f"LiteRT {lib.litert_version()}", "load", self._path, text)

    def _add_options(self, identifier: str, lines: Sequence[str]) -> None:
        payload = ctypes.create_string_buffer("\n".join([*lines, ""]).encode())
        self._payloads.append(payload)
        opaque = c_void_p()
        self._call(
            "LiteRtCreateOpaqueOptions",
            identifier.encode(),
            ctypes.cast(payload, c_void_p),
            _KEEP_PAYLOAD,
            byref(opaque),
        )
        self._call("LiteRtAddOpaqueOptions", self._options, opaque)

    def _make_buffers(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        signatures = c_size_t()
        self._call("LiteRtGetNumModelSignatures", self._model, byref(signatures))
        if self._signature >= signatures.value:
            raise ModelFileError(
                f"{self._path} has {signatures.value} signatures; number {self._signature}"
                " does not exist."
            )
        signature = c_void_p()
        self._call("LiteRtGetModelSignature", self._model, self._signature, byref(signature))
        counts = (c_size_t(), c_size_t())
        self._call("LiteRtGetNumSignatureInputs", signature, byref(counts[0]))
        self._call("LiteRtGetNumSignatureOutputs", signature, byref(counts[1]))
        self._resize_inputs(signature, counts[0].value)
        output_layouts = (lib.Layout * max(1, counts[1].value))()
        inputs = tuple(
            self._make_buffer(signature, "Input", i, self._input_layout(i), self._input_buffers)
            for i in range(counts[0].value)
        )
        # This call allocates all tensors: the first that fails for an operator without a kernel.
        self._load(
            "LiteRtGetCompiledModelOutputTensorLayouts",
            self._compiled,
            self._signature,
            counts[1].value,
            output_layouts,
            True,
        )
        outputs = tuple(
            self._make_buffer(signature, "Output", i, output_layouts[i], self._output_buffers)
            for i in range(counts[1].value)
        )
        return inputs, outputs

    def _resize_inputs(self, signature: c_void_p, count: int) -> None:
        for index in range(count):
            name, tensor = c_char_p(), c_void_p()
            self._call("LiteRtGetSignatureInputTensorByIndex", signature, index, byref(tensor))
            self._call("LiteRtGetTensorName", tensor, byref(name))
            held = self._input_layout(index).shape
            shape = self._shapes.get((name.value or b"").decode("utf-8", "replace"), held)
            if shape != held:
                self._load(
                    "LiteRtCompiledModelResizeInputTensor",
                    self._compiled,
                    self._signature,
                    index,
                    (c_int * len(shape))(*shape),
                    len(shape),
                )

    def _input_layout(self, index: int) -> lib.Layout:
        layout = lib.Layout()
        self._call(
            "LiteRtGetCompiledModelInputTensorLayout",
            self._compiled,
            self._signature,
            index,
            byref(layout),
        )
        return layout

    def _make_buffer(
        self,
        signature: c_void_p,
        side: Literal["Input", "Output"],
        index: int,
        layout: lib.Layout,
        buffers: list[c_void_p],
    ) -> TensorSpec:
        name, tensor, requirements, buffer = c_char_p(), c_void_p(), c_void_p(), c_void_p()
        self._call(f"LiteRtGetSignature{side}Name", signature, index, byref(name))
        self._call(f"LiteRtGetSignature{side}TensorByIndex", signature, index, byref(tensor))
        kind = lib.RankedTensorType()
        self._call("LiteRtGetRankedTensorType", tensor, byref(kind))
        kind.layout = layout
        dtype = _DTYPES.get(kind.element_type)
        if dtype is None:
            raise UnsupportedError(
                f"{self._path} has an {side.lower()} of element type {kind.element_type}, which"
                " cannot be fed or read: give a model with numeric inputs and outputs."
            )
        self._call(
            f"LiteRtGetCompiledModel{side}BufferRequirements",
            self._compiled,
            self._signature,
            index,
            byref(requirements),
        )
        self._call(
            "LiteRtCreateManagedTensorBufferFromRequirements",
            self._environment,
            byref(kind),
            requirements,
            byref(buffer),
        )
        buffers.append(buffer)
        return TensorSpec((name.value or b"").decode("utf-8", "replace"), layout.shape, dtype)

    def set_input(self, index: int, array: NDArray[Any]) -> None:
        """Copy ``array`` into input ``index``; ValueError on another shape or dtype."""
        spec = self.inputs[index]
        if tuple(array.shape) != spec.shape or array.dtype.name != spec.dtype:
            raise ValueError(
                f"input {spec.name!r} is {spec.dtype}{list(spec.shape)},"
                f" not {array.dtype.name}{list(array.shape)}"
            )
        contiguous = np.ascontiguousarray(array)
        address = self._lock(self._input_buffers[index], _LOCK_WRITE, contiguous.nbytes)
        ctypes.memmove(address, contiguous.ctypes.data, contiguous.nbytes)
        self._call("LiteRtUnlockTensorBuffer", self._input_buffers[index])

    def read_output(self, index: int) -> NDArray[Any]:
        """A copy of output ``index`` after :meth:`run`."""
        spec = self.outputs[index]
        array: NDArray[Any] = np.empty(spec.shape, np.dtype(spec.dtype))
        address = self._lock(self._output_buffers[index], _LOCK_READ, array.nbytes)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
        self._call("LiteRtUnlockTensorBuffer", self._output_buffers[index])
        return array

    def _lock(self, buffer: c_void_p, mode: int, size_bytes: int) -> c_void_p:
        held, address = c_size_t(), c_void_p()
        self._call("LiteRtGetTensorBufferPackedSize", buffer, byref(held))
        if held.value != size_bytes:
            raise ToolchainError(
                f"LiteRT {lib.litert_version()} holds {held.value} bytes for a tensor of"
                f" {size_bytes} bytes in {self._path}."
            )
        self._call("LiteRtLockTensorBuffer", buffer, byref(address), mode)
        return address

    def run(self) -> None:
        """One synchronous inference over the buffers."""
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled,
            self._signature,
            len(self._input_buffers),
            self._inputs_array,
            len(self._output_buffers),
            self._outputs_array,
        )

    def start_profiler(self) -> None:
        """Forget earlier events and record those of the runs that follow."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)

    def stop_profiler(self) -> tuple[ProfilerEvent, ...]:
        """Stop recording; the events since :meth:`start_profiler`, in order of execution."""
        self._call("LiteRtStopProfiler", self._profiler)
        count = c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, byref(count))
        events = (lib.ProfiledEvent * max(1, count.value))()
        self._call("LiteRtGetProfilerEvents", self._profiler, count.value, events)
        return tuple(
            ProfilerEvent(
                (e.tag or b"").decode("utf-8", "replace"),
                e.event_type,
                e.elapsed_us,
                e.metadata1,
                e.metadata2,
            )
            for e in events[: count.value]
        )

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        for buffer in self._input_buffers + self._output_buffers:
            self._lib.LiteRtDestroyTensorBuffer(buffer)
        self._input_buffers, self._output_buffers = [], []
        # The compiled model holds on to the model and the environment, so it goes first.
        for name, handle in (
            ("LiteRtDestroyCompiledModel", self._compiled),
            ("LiteRtDestroyOptions", self._options),
            ("LiteRtDestroyModel", self._model),
            ("LiteRtDestroyEnvironment", self._environment),
        ):
            if handle.value:
                getattr(self._lib, name)(handle)
                handle.value = None

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
