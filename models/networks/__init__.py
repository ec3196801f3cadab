"""Reference networks in plain PyTorch, and beside each the table of its variants."""
