"""Graphs of .onnx files: read, checked, run once for shapes, edited."""
