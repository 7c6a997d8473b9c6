"""The interface of upscaling models, upscaling in tiles, and models without Keras."""
