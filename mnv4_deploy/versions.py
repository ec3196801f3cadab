"""Versions of ourselves and of the libraries that shape an artifact."""

from __future__ import annotations

from importlib import metadata

_TOOLS = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "torch",
)


def tool_versions() -> dict[str, str]:
    """Installed versions of ourselves and of every library that shapes an artifact."""
    versions = {}
    for tool in ("mnv4-deploy", *_TOOLS):
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            versions[tool] = "not installed"
    return versions
