"""Kernels whose machine code another machine has compiled for this one."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import tempfile
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel

# How kernels are called: data, iterations, out.
PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


class RunnableKernel(Protocol):
    """A kernel that can be called, compiled here or elsewhere."""

    @property
    def kernel(self) -> Kernel:
        """What it does."""

    def __call__(self, data: NDArray[Any], iterations: int, out: NDArray[Any]) -> None:
        """Run it; see :mod:`mnv4_deploy.profiles.machine.kernels.loop_ir`."""


class LoadedKernel:
    """Machine code made executable.

    The code is written to a file in memory which is then mapped to be read and executed, as a
    shared library is: no page is ever writable and executable, and on Arm the system itself
    makes the instruction cache see what was written when it maps a file's pages to be executed
    (Linux, arch/arm64/mm/flush.c). Calling it releases Python's interpreter lock.

    Raises UnsupportedError where the system does not let code be mapped.
    """

    def __init__(self, kernel: Kernel, code: bytes) -> None:
        self.kernel = kernel
        try:
            with _file() as file:
                file.write(code)
                file.flush()
                self._pages = mmap.mmap(
                    file.fileno(),
                    len(code),
                    flags=mmap.MAP_PRIVATE,
                    prot=mmap.PROT_READ | mmap.PROT_EXEC,
                )
        except OSError as error:
            raise UnsupportedError(
                f"The system does not let code be loaded ({error.strerror or error})."
            ) from error
        self._call = PROTOTYPE(np.frombuffer(self._pages, np.uint8).ctypes.data)

    def __call__(self, data: NDArray[Any], iterations: int, out: NDArray[Any]) -> None:
        self._call(data.ctypes.data, iterations, out.ctypes.data)


def check_loadable(architecture: str) -> None:
    """UnsupportedError where code for Linux on ``architecture`` does not run in this process."""
    here = normal_architecture(platform.machine())
    bits = 8 * struct.calcsize("P")
    # A 64-bit kernel under a 32-bit system calls its architecture by the 64-bit name.
    if platform.system() != "Linux" or here != architecture or bits != 64:
        raise UnsupportedError(
            f"Code for 64-bit Linux on {architecture} does not run under this {bits}-bit Python"
            f" on {platform.system()} {here}."
        )


def normal_architecture(name: str) -> str:
    """ "x86_64" and "aarch64" for what other systems call the same."""
    return _ARCHITECTURES.get(name.lower(), name)


def _file() -> IO[bytes]:
    """A file without a name: in memory where Python can, so that no "noexec" folder matters."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("kernel", os.MFD_CLOEXEC), "wb")
        except OSError:
            pass
    return tempfile.TemporaryFile()
