"""The graph of a model file, the same record for both formats."""
