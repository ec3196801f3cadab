"""LiteRT: its interpreter, its compiled models and their profiler."""
