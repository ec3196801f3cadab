"""What is in a .tflite or .onnx file, ours or anybody's."""
