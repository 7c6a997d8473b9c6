"""Upscales photo files with onnxruntime, and removes noise from photo files. Keras and MLflow are never imported."""
