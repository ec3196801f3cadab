"""The module that makes files of a format."""

from __future__ import annotations

from types import ModuleType

from mnv4_deploy.profiles.records.graph import Format


def format_module(format_: Format) -> ModuleType:
    """The module that writes the files of one format; all have the same functions."""
    from mnv4_deploy.exporters.to_onnx import write as onnx_files
    from mnv4_deploy.exporters.to_tflite import write as tflite_files

    return {"onnx": onnx_files, "tflite": tflite_files}[format_]
