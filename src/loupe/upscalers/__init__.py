"""The interface of upscaling models, the upscaling in tiles, and the models that do not need Keras."""
