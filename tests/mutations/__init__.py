"""Damaged files through the command line, thousands of them."""
