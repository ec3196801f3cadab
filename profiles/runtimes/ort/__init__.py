"""onnxruntime: sessions, runs and the profiles it writes."""
