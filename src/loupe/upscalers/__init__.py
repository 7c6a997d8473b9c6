"""The interface of an upscaling model, tiling, and the models that need no Keras."""
