"""Android devices over adb, on which LiteRT's benchmark_model does the work."""
