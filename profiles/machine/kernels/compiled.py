"""Kernels as machine code, compiled by LLVM: for this processor, or for a device's.

Code for a device is the bytes of one function and nothing else: it is loaded there without a
linker, so that an object with relocations or constants beside the code is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mnv4_deploy.errors import UnsupportedError, missing_library
from mnv4_deploy.profiles.machine.cpu import LLVM_FEATURES
from mnv4_deploy.profiles.machine.kernels.loaded import PROTOTYPE
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel

# LLVM's target and its oldest processor, by what `uname -m` calls the architecture.
_TARGETS = {
    "x86_64": ("x86_64-unknown-linux-gnu", "x86-64"),
    "aarch64": ("aarch64-unknown-linux-gnu", "generic"),
}
# Sections of an object without which its code runs: names, symbols, a mark that the stack holds
# no code. A list of what may be there, because what may not has no end.
_IDLE_SECTIONS = frozenset({"", ".strtab", ".shstrtab", ".symtab", ".note.GNU-stack"})


class CompiledKernel:
    """A kernel compiled for this processor. Calling it releases Python's interpreter lock."""

    def __init__(self, kernel: Kernel) -> None:
        llvm = _llvm()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.kernel = kernel
        module = llvm.parse_assembly(kernel.ir)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            # The host's own list: a hypervisor may hide what the processor's name promises.
            features=llvm.get_host_cpu_features().flatten(),
            opt=2,
        )
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._call = PROTOTYPE(self._engine.get_function_address("kernel"))

    def __call__(self, data: NDArray[Any], iterations: int, out: NDArray[Any]) -> None:
        self._call(data.ctypes.data, iterations, out.ctypes.data)


def machine_code(kernel: Kernel, architecture: str, isa: Sequence[str]) -> bytes:
    """``kernel`` for Linux on ``architecture`` ("x86_64" or "aarch64") with ``isa``.

    The first byte is the function's entry, and the bytes run at any address. Raises
    UnsupportedError for another architecture and for a kernel whose code does not stand alone,
    MissingLibraryError without llvmlite.
    """
    machine = target_machine(architecture, isa)
    module = _llvm().parse_assembly(kernel.ir)
    module.triple = machine.triple
    module.verify()
    defined = [f.name for f in module.functions if not f.is_declaration]
    if defined != ["kernel"]:
        raise UnsupportedError(f"The kernel {kernel.name} is not one function: {defined}.")
    return text_of(machine.emit_object(module), kernel.name)


def target_machine(architecture: str, isa: Sequence[str]) -> Any:
    """LLVM's compiler for a Linux processor; raises as :func:`machine_code`."""
    if architecture not in _TARGETS:
        raise UnsupportedError(
            f"Instruction peaks cannot be measured on {architecture}: only on"
            f" {' and '.join(_TARGETS)}, with a 64-bit system."
        )
    llvm = _llvm()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu = _TARGETS[architecture]
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features(isa), opt=2, reloc="pic", codemodel="default"
    )


def features(isa: Sequence[str]) -> str:
    """LLVM's spelling of instruction sets, as in "+avx2,+fma"."""
    names = {ours: llvm for llvm, ours in LLVM_FEATURES.items()}
    return ",".join(f"+{names[name]}" for name in isa if name in names)


def text_of(elf: bytes, name: str) -> bytes:
    """The code of an ELF object that has nothing else; UnsupportedError where it has."""
    parts = {}
    # A section is only there as long as its object is, and until the next one.
    read = _llvm().ObjectFileRef.from_data(elf)
    for section in read.sections():
        if section.size():
            parts[_section_name(section)] = bytes(section.data())
    others = sorted(set(parts) - _IDLE_SECTIONS - {".text"})
    if others or ".text" not in parts:
        raise UnsupportedError(
            f"The code of the kernel {name} does not stand alone ({', '.join(others)}): it cannot"
            " be sent to a device."
        )
    return parts[".text"]


def _section_name(section: Any) -> str:
    name = section.name()
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""


def _llvm() -> Any:
    try:
        from llvmlite import binding
    except ImportError as error:
        raise missing_library(
            "Ceilings that depend on no runtime need llvmlite", "profile"
        ) from error
    return binding
