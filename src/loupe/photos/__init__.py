"""Upscales photo files with onnxruntime, and removes noise. Keras and MLflow are never imported."""
