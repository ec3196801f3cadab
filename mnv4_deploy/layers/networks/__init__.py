"""A network that shows its layers: of a file, or of PyTorch."""
