"""Changes of weights that make a float model lose less in int8; they keep what it computes."""
