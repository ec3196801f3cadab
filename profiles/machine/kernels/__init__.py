"""Loops compiled by LLVM: what they do, their machine code, how fast they run."""
