"""onnxruntime: what it computes in 8 bits, and why it leaves an operator in float."""
