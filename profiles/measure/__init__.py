"""Times a model file in rounds, in a process of its own that needs no heavy package."""
