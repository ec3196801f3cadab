"""PyTorch module to TFLite: convert, quantize, write."""
