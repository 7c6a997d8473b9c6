"""Upscales photo files with onnxruntime and removes their noise; never imports Keras or MLflow."""
