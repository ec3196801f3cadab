"""LiteRT and onnxruntime: loading, running, and times of single operators."""
