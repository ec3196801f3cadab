"""Graphs of .tflite files: read, resized, entered by a signature."""
