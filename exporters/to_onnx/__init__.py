"""PyTorch module to ONNX: convert, quantize, write."""
