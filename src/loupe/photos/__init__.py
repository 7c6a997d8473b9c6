"""Photo files to upscaled or restored photo files, with onnxruntime; never imports Keras or MLflow."""
