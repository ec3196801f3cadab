"""Times of .tflite files through LiteRT's benchmark_model, where no Python runs: on Android."""
