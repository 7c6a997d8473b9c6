"""Builds Keras networks from validated settings, loads networks, and exports them to ONNX."""
