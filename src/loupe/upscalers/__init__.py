"""The interface of an upscaling model, tiling, and the models that do not need Keras."""
