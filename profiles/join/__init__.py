"""Runtime operators joined with the operators of the file and with PyTorch modules."""
