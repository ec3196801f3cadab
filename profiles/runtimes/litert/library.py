"""The shared library of the ai-edge-litert wheel: where it is, its structs and its calls.

LiteRT's C headers (``litert/c/*.h``) are the source of the layouts and signatures. They are not
a stable ABI, so a wheel outside :data:`TRIED_VERSIONS` is refused before anything is called.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from mnv4_deploy.errors import ToolchainError, missing_library

TRIED_VERSIONS = ("2.3.0",)
_LIBRARY_NAMES = ("libLiteRt.so", "libLiteRt.dylib", "LiteRt.dll", "libLiteRt.dll")
_MAX_RANK = 8

# LiteRtStatus, the values that loading and running a model can give (litert_common.h).
STATUS_NAMES = {
    1: "invalid argument",
    2: "memory allocation failure",
    3: "runtime failure",
    4: "missing input tensor",
    5: "unsupported",
    6: "not found",
    8: "wrong version",
    500: "file input/output",
    501: "invalid flatbuffer",
    503: "serialization",
    504: "compilation",
    1000: "index out of bounds",
    1001: "invalid graph type",
    1002: "invalid graph",
    5000: "operator without shape inference",
    5001: "shape inference failed",
}


class Layout(ctypes.Structure):
    """LiteRtLayout: ``rank_bits`` packs the rank (7 bits) and has_strides (1 bit)."""

    _fields_ = (
        ("rank_bits", c_uint32),
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", c_uint32 * _MAX_RANK),
    )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dimensions[: self.rank_bits & 0x7F])


class RankedTensorType(ctypes.Structure):
    _fields_ = (("element_type", c_int), ("layout", Layout))


class _MemoryUsage(ctypes.Structure):
    _fields_ = (("total", c_size_t), ("in_use", c_size_t), ("private_footprint", c_size_t))


class ProfiledEvent(ctypes.Structure):
    """ProfiledEventData (litert_profiler_event.h)."""

    _fields_ = (
        ("tag", c_char_p),
        ("event_type", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("begin_memory", _MemoryUsage),
        ("end_memory", _MemoryUsage),
        ("metadata1", c_uint64),
        ("metadata2", c_uint64),
        ("source", c_int),
    )


class EnvironmentOption(ctypes.Structure):
    """LiteRtEnvOption whose LiteRtAny holds an integer."""

    _fields_ = (
        ("tag", c_int),
        ("value_type", c_int),
        ("_padding", c_int),
        ("int_value", ctypes.c_int64),
    )


PayloadDeleter = ctypes.CFUNCTYPE(None, c_void_p)

_HANDLE = POINTER(c_void_p)
_STATUS_CALLS: dict[str, tuple[object, ...]] = {
    "LiteRtCreateEnvironment": (c_int, POINTER(EnvironmentOption), _HANDLE),
    "LiteRtCreateModelFromFile": (c_void_p, c_char_p, _HANDLE),
    "LiteRtGetNumModelSignatures": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetModelSignature": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetNumSignatureInputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetNumSignatureOutputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetSignatureKey": (c_void_p, POINTER(c_char_p)),
    "LiteRtGetSignatureInputName": (c_void_p, c_size_t, POINTER(c_char_p)),
    "LiteRtGetSignatureOutputName": (c_void_p, c_size_t, POINTER(c_char_p)),
    "LiteRtGetSignatureInputTensorByIndex": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetSignatureOutputTensorByIndex": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetTensorName": (c_void_p, POINTER(c_char_p)),
    "LiteRtGetRankedTensorType": (c_void_p, POINTER(RankedTensorType)),
    "LiteRtCreateOptions": (_HANDLE,),
    "LiteRtSetOptionsHardwareAccelerators": (c_void_p, c_int),
    "LiteRtCreateOpaqueOptions": (c_char_p, c_void_p, PayloadDeleter, _HANDLE),
    "LiteRtAddOpaqueOptions": (c_void_p, c_void_p),
    "LiteRtCreateCompiledModel": (c_void_p, c_void_p, c_void_p, _HANDLE),
    "LiteRtGetCompiledModelInputBufferRequirements": (c_void_p, c_size_t, c_size_t, _HANDLE),
    "LiteRtGetCompiledModelOutputBufferRequirements": (c_void_p, c_size_t, c_size_t, _HANDLE),
    "LiteRtGetCompiledModelInputTensorLayout": (c_void_p, c_size_t, c_size_t, POINTER(Layout)),
    "LiteRtGetCompiledModelOutputTensorLayouts": (
        c_void_p,
        c_size_t,
        c_size_t,
        POINTER(Layout),
        ctypes.c_bool,
    ),
    "LiteRtCompiledModelResizeInputTensor": (
        c_void_p,
        c_size_t,
        c_size_t,
        POINTER(c_int),
        c_size_t,
    ),
    "LiteRtCreateManagedTensorBufferFromRequirements": (
        c_void_p,
        POINTER(RankedTensorType),
        c_void_p,
        _HANDLE,
    ),
    "LiteRtGetTensorBufferPackedSize": (c_void_p, POINTER(c_size_t)),
    "LiteRtLockTensorBuffer": (c_void_p, _HANDLE, c_int),
    "LiteRtUnlockTensorBuffer": (c_void_p,),
    "LiteRtRunCompiledModel": (c_void_p, c_size_t, c_size_t, _HANDLE, c_size_t, _HANDLE),
    "LiteRtCompiledModelGetProfiler": (c_void_p, _HANDLE),
    "LiteRtStartProfiler": (c_void_p,),
    "LiteRtStopProfiler": (c_void_p,),
    "LiteRtResetProfiler": (c_void_p,),
    "LiteRtGetNumProfilerEvents": (c_void_p, POINTER(c_int)),
    "LiteRtGetProfilerEvents": (c_void_p, c_int, POINTER(ProfiledEvent)),
}
_DESTROY_CALLS = (
    "LiteRtDestroyEnvironment",
    "LiteRtDestroyModel",
    "LiteRtDestroyOptions",
    "LiteRtDestroyCompiledModel",
    "LiteRtDestroyTensorBuffer",
)


def litert_version() -> str:
    """The installed ai-edge-litert version; ToolchainError where it was never tried.

    Raises MissingLibraryError where there is none.
    """
    try:
        version = importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError as error:
        raise missing_library("ai-edge-litert is not installed", "tflite") from error
    if version not in TRIED_VERSIONS:
        raise ToolchainError(
            f"ai-edge-litert {version} was never tried here, and its C structs differ from version"
            f" to version: install ai-edge-litert=={TRIED_VERSIONS[-1]}."
        )
    return version


@cache
def load_library() -> ctypes.CDLL:
    """libLiteRt with every signature declared; ToolchainError where it cannot be used."""
    version = litert_version()
    spec = importlib.util.find_spec("ai_edge_litert")
    folders = [Path(f) for f in (spec.submodule_search_locations or ())] if spec else []
    found = [path for f in folders for name in _LIBRARY_NAMES if (path := f / name).is_file()]
    if not found:
        raise ToolchainError(
            f"The ai-edge-litert {version} package has no LiteRT library in it: reinstall it."
        )
    try:
        library = ctypes.CDLL(str(found[0]))
        for name, arguments in _STATUS_CALLS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = c_int
        for name in _DESTROY_CALLS:
            function = getattr(library, name)
            function.argtypes = (c_void_p,)
            function.restype = None
    except (OSError, AttributeError) as error:
        raise ToolchainError(
            f"The LiteRT library of ai-edge-litert {version} cannot be used ({error}):"
            f" reinstall ai-edge-litert=={TRIED_VERSIONS[-1]}."
        ) from error
    return library
